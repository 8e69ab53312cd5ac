"""The compressing driver: every verb on a small model, and one method after another."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import paperlab
from paperlab.core.card import Arm
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.low_rank import leading
from paperlab.kit.matrix import Dense, Factors, Sparse, Sum
from paperlab.kit.quantized import Quantized
from paperlab.kit.walk import block_linears
from paperlab.lab.arms import acts_for, check_arm, check_values
from paperlab.lab.drivers.compress import apply
from paperlab.lab.errors import RunError


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def batches() -> list[dict[str, Tensor]]:
    ids = torch.randint(3, 96, (4, 24), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": rows} for rows in ids.split(2)]


def quantize(weight: Tensor, *, bits: int = 4) -> Quantized:
    return round_to_grid(weight, *min_max(weight, bits=bits), bits=bits)


def keep(weight: Tensor, input_norm: Tensor, *, sparsity: float = 0.5) -> Tensor:
    score = weight.abs() * input_norm
    return score > score.kthvalue(int(weight.shape[1] * sparsity), dim=1, keepdim=True).values


def factor(error: Tensor, *, rank: int = 4) -> Factors:
    u, s, v = leading(error, rank)
    return Factors((u * s).half(), v.T.half())


def run(model: nn.Module, verb: Callable[..., Any], start: Any = None, **params: Any) -> Any:
    return apply({verb.__name__: verb}, params, model=model, calibration=batches(), start=start)


def squared(made: Any, model: nn.Module) -> float:
    ours, theirs = block_linears(made.model), block_linears(model)
    return sum((ours[name].weight - theirs[name].weight).square().sum().item() for name in ours)


def test_a_mask_leaves_half_and_is_counted(model: LlamaForCausalLM) -> None:
    pruned = run(model, keep)
    assert all(isinstance(layer, Sparse) and layer.density == 0.5 for layer in pruned.layers.values())
    totals = pruned.totals()
    assert totals["density"] == 0.5
    assert totals["layer_bits"] == 16 / 2 + 1
    for name, layer in block_linears(pruned.model).items():
        assert torch.equal(layer.weight == 0, ~pruned.layers[name].mask)


def test_pruned_then_rounded_then_corrected(model: LlamaForCausalLM) -> None:
    pruned = run(model, keep)
    rounded = run(model, quantize, pruned, bits=3)
    corrected = run(model, factor, rounded, rank=4)
    for name, layer in rounded.layers.items():
        assert isinstance(layer, Sparse)
        assert isinstance(layer.values, Quantized)
        assert torch.equal(layer.mask, pruned.layers[name].mask)
    assert rounded.totals()["density"] == 0.5
    assert rounded.totals()["layer_bits"] < 3 / 2 + 1 + 1  # codes of what is kept, a bit each for where, scales
    assert all(isinstance(layer, Sum) for layer in corrected.layers.values())
    assert squared(corrected, model) < squared(rounded, model)
    for made in (pruned, rounded, corrected):
        for name, layer in block_linears(made.model).items():
            torch.testing.assert_close(layer.weight.detach(), made.layers[name].dense(), rtol=1e-4, atol=1e-5)
        assert made.weights == sum(parameter.numel() for parameter in model.parameters())


def test_without_a_start_the_error_is_zero_and_a_factor_adds_nothing(model: LlamaForCausalLM) -> None:
    seen: list[float] = []

    def factor(error: Tensor) -> Factors:
        seen.append(float(error.abs().max()))
        return Factors(error[:, :1] * 0, error[:1] * 0)

    made = run(model, factor)
    assert set(seen) == {0.0}
    assert squared(made, model) == 0


def test_a_factor_of_the_weight_takes_its_place(model: LlamaForCausalLM) -> None:
    def factor(weight: Tensor) -> Factors:
        u, s, v = leading(weight, 8)
        return Factors((u * s).half(), v.T.half())

    made = run(model, factor)
    assert all(isinstance(layer, Factors) and layer.rank == 8 for layer in made.layers.values())
    assert torch.linalg.matrix_rank(block_linears(made.model)["model.layers.0.mlp.up_proj"].weight) <= 8


def test_a_mask_over_codes_keeps_the_codes(model: LlamaForCausalLM) -> None:
    both = run(model, keep, run(model, quantize))
    assert all(isinstance(layer, Sparse) and isinstance(layer.values, Quantized) for layer in both.layers.values())
    twice = run(model, keep, run(model, keep, sparsity=0.25), sparsity=0.5)
    assert all(isinstance(layer.values, Dense) and layer.density <= 0.5 for layer in twice.layers.values())


def test_a_whole_model_mask_over_codes_keeps_the_codes(model: LlamaForCausalLM) -> None:
    def transform(model: nn.Module) -> Compressed:
        layers = {}
        for name, layer in block_linears(model).items():
            layers[name] = Sparse(layer.weight.detach().abs() > 0.01, Dense(layer.weight.detach().clone()))
        return Compressed(model, layers, count_weights(model))

    rounded = run(model, quantize)
    both = run(model, transform, rounded)
    assert all(isinstance(layer, Sparse) and isinstance(layer.values, Quantized) for layer in both.layers.values())
    assert both.totals()["bytes"] < rounded.totals()["bytes"]
    pruned = run(model, keep)
    twice = run(model, transform, pruned)
    for name, layer in twice.layers.items():
        assert torch.equal(layer.mask, pruned.layers[name].mask & (layer.values.dense().abs() > 0.01))


def test_a_sparse_matrix_after_a_mask_stays_within_it(model: LlamaForCausalLM) -> None:
    pruned = run(model, keep)

    def refit(weight: Tensor) -> Sparse:
        return Sparse(torch.ones_like(weight, dtype=torch.bool), Dense(weight + 1))

    refit.__name__ = "keep"
    made = run(model, refit, pruned)
    for name, layer in block_linears(made.model).items():
        assert torch.equal(layer.weight == 0, ~pruned.layers[name].mask)


def test_a_submodel_counts_what_it_lost(model: LlamaForCausalLM) -> None:
    def submodel(model: nn.Module) -> nn.Module:
        del model.model.layers[1:]
        model.config.num_hidden_layers = 1
        return model

    block = sum(parameter.numel() for parameter in model.model.layers[1].parameters())
    small = run(model, submodel, run(model, quantize))
    assert small.removed == block
    assert small.totals()["parameters"] == small.weights - block
    assert all(name.startswith("model.layers.0.") for name in small.layers)
    assert small.totals()["bytes"] < run(model, quantize).totals()["bytes"]
    assert len(model.model.layers) == 2


@pytest.mark.parametrize("verb", ["quantize", "keep", "factor", "transform", "submodel"])
def test_a_result_of_another_kind_is_refused_by_name(model: LlamaForCausalLM, verb: str) -> None:
    def wrong(**_: Any) -> str:
        return "something else"

    with pytest.raises(TypeError, match=f"{verb} gave back a str, where its driver takes"):
        apply({verb: wrong}, {}, model=model, calibration=[])


def test_random_states_are_left_as_they_were(model: LlamaForCausalLM) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    paperlab.load("random-rotation", weight_bits=8)(model, calibration=[torch.arange(3, 40)])
    paperlab.load("kmeans")(model, calibration=[torch.arange(3, 40)])
    assert torch.equal(torch.get_rng_state(), before)


def test_methods_follow_one_another_on_a_model_of_ones_own(model: LlamaForCausalLM) -> None:
    texts = [torch.arange(3, 60), torch.arange(40, 90)]
    first = paperlab.load("round-to-nearest", bits=3)(model)
    second = paperlab.load("gptq", bits=2)(first, calibration=texts)
    assert second.compressed.totals()["layer_bits"] < first.compressed.totals()["layer_bits"]
    assert second.compressed.weights == first.compressed.weights


def test_arms_that_cannot_be_built_are_refused_before_any_work() -> None:
    assert [act.name for act in acts_for(Arm("gptq", after=Arm("round-to-nearest")), "lm_compress")] == ["compress"] * 2
    with pytest.raises(RunError, match="linear makes Trained; the task lm_compress scores Compressed"):
        check_arm(Arm("bitnet-1-58-bottom-up"), "lm_compress")
    with pytest.raises(RunError, match="quantize makes Compressed; the task classify_small scores Trained"):
        check_arm(Arm("gptq"), "classify_small")
    with pytest.raises(RunError, match="quantize makes Compressed; train can start from nothing"):
        check_arm(Arm("full-precision", after=Arm("gptq")), "classify_small")
    with pytest.raises(RunError, match="is a study"):
        check_arm(Arm("qwen3-quantization-study"), "lm_compress")


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        (Arm("round-to-nearest", bits=99), "bits=99"),
        (Arm("easyquant", n_std=-1.0), "n_std=-1"),
        (Arm("wanda", sparsity=1.5), "sparsity=1.5"),
        (Arm("round-to-nearest", bits=4, after=Arm("wanda", sparsity=-1.0)), "sparsity=-1"),
    ],
)
def test_values_out_of_range_are_refused_before_any_work(arm: Arm, says: str) -> None:
    with pytest.raises(RunError, match=says):
        check_values(arm, "lm_compress")


@pytest.mark.parametrize("slug", ["round-to-nearest", "gptq", "awq", "hqq", "nf4", "kmeans", "easyquant", "sparsegpt"])
def test_defaults_pass_the_rehearsal(slug: str) -> None:
    check_values(Arm(slug), "lm_compress")
