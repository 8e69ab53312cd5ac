"""OS+: the fold is exact, the formulas are the paper's, the search cannot lose to no scaling."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.fold import scaling_groups
from paperlab.kit.scope import record_calls
from paperlab.kit.walk import walk
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import outlier_suppression_plus as osp
from paperlab.methods.quantization import rtn_activations

Batches = list[dict[str, torch.Tensor]]


def lopsided(model: nn.Module) -> nn.Module:
    """Give the model what trained ones have: a few channels far off centre in what the norms put out."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.weight[17] *= 8
                module.bias[3] += 10
            if name.endswith("embed_tokens"):  # an RMS norm has no bias: the residual stream is off centre
                module.weight[:, 3] += 0.3
                module.weight[:, 17] -= 0.15
    return model.eval()


@pytest.fixture(scope="module", params=["llama", "bert"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "llama":
        config = LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        return lopsided(LlamaForCausalLM(config))
    small = BertConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    return lopsided(BertModel(small))


@pytest.fixture(scope="module")
def batches() -> Batches:
    return [{"input_ids": torch.randint(96, (2, 32), generator=torch.Generator().manual_seed(s))} for s in range(4)]


def output(model: nn.Module, batches: Batches) -> torch.Tensor:
    with torch.no_grad():
        return model(**batches[0])[0]


@pytest.mark.parametrize("shift", [True, False])
def test_in_full_precision_the_function_stays(model: nn.Module, batches: Batches, shift: bool) -> None:
    params = {"weight_bits": 16, "activation_bits": 16, "shift": shift}
    moved = apply({"transform": osp.transform}, params, model=model, calibration=batches)
    exact = output(model, batches)
    # new biases are rounded to float16: 2^-11 of their size
    tolerance = 2e-3 if shift else 1e-4
    torch.testing.assert_close(output(moved.model, batches), exact, rtol=tolerance, atol=tolerance)
    assert (moved.added["shifts_and_scales"] > 0) == (shift or isinstance(model, BertModel))


def test_the_fold_itself_is_exact(model: nn.Module, batches: Batches) -> None:
    moved = copy.deepcopy(model)
    groups = scaling_groups(moved)
    for index, (_, _block, calls) in enumerate(walk(moved, batches)):
        for group in groups[index]:
            if not isinstance(group.source, nn.Linear):
                generator = torch.Generator().manual_seed(index)
                scale = 1 + torch.rand(group.width, generator=generator)
                osp.fold(group, scale, torch.randn(group.width, generator=generator), calls)
    torch.testing.assert_close(output(moved, batches), output(model, batches), rtol=1e-4, atol=1e-5)


def test_scale_by_hand() -> None:
    # channels reach 8, 2 and 5 (downwards); with t = 4 the scales are 2, 1 and 1.25
    low, high = torch.tensor([-1.0, -2.0, -5.0]), torch.tensor([8.0, 1.0, 3.0])
    assert osp.scale_to(low, high, 4.0).tolist() == [2.0, 1.0, 1.25]


def test_search_is_no_worse_than_leaving_the_ranges(model: nn.Module, batches: Batches) -> None:
    stack = copy.deepcopy(model)
    group = scaling_groups(stack)[0][0]
    _, block, calls = next(iter(walk(stack, batches)))
    seen = record_calls(block, [group.scope], calls, 64)[0]
    inputs: list[torch.Tensor] = []
    handle = group.readers[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, -2)))
    for call in seen:
        call.through(group.scope)
    handle.remove()
    x = torch.cat(inputs)
    low, high = x.amin(0), x.amax(0)
    before = [reader.weight.clone() for reader in group.readers]

    def loss(steps: int, shift: torch.Tensor) -> float:
        """Least error among the thresholds tried; one step tries the largest channel only: no scaling."""
        wanted = [call.through(group.scope) for call in seen]
        params = {"per_channel": True, "symmetric": True, "dynamic": False}
        scale, threshold = osp.search(group, seen, low, high, shift, steps=steps, bits=(6, 6), **params)
        reach = float(torch.maximum(high - shift, shift - low).max())
        assert threshold <= reach * 1.001
        rounded = osp.per_range((x - shift) / scale, -threshold, threshold, bits=6) * scale + shift
        assert wanted
        return float((rounded - x).square().sum())

    zero = torch.zeros_like(low)
    assert loss(12, zero) < loss(1, zero)
    for reader, weight in zip(group.readers, before, strict=True):
        assert torch.equal(reader.weight, weight)  # the search leaves no trace
        assert not reader._forward_pre_hooks


def test_it_beats_rounding_on_lopsided_outliers_and_counts_what_it_adds(model: nn.Module, batches: Batches) -> None:
    exact = output(model, batches)
    bits = {"weight_bits": 8, "activation_bits": 4, "symmetric": True}
    plain = apply({"transform": rtn_activations.transform}, bits, model=model, calibration=batches)
    ours = apply({"transform": osp.transform}, bits, model=model, calibration=batches)

    def error(compressed: osp.Compressed) -> float:
        return float((output(compressed.model, batches) - exact).square().mean())

    assert error(ours) < error(plain)
    added = ours.added["shifts_and_scales"] // 16
    if isinstance(model, LlamaForCausalLM):  # q, k, v, their norm; gate, up, their norm; two blocks
        assert added == 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64)
    else:  # biases exist; each of four folded norms gives its residual a scale and a shift
        assert added == 4 * 2 * 64
    again = apply({"transform": osp.transform}, bits, model=model, calibration=batches)
    assert torch.equal(output(again.model, batches), output(ours.model, batches))


def test_bad_steps(model: nn.Module, batches: Batches) -> None:
    with pytest.raises(ValueError, match="steps=0"):
        apply({"transform": osp.transform}, {"steps": 0}, model=model, calibration=batches)
