"""Weights and activations rounded to nearest: what the layers then compute, and what it costs."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.activations import per_token
from paperlab.kit.walk import block_linears
from paperlab.kit.weight_activation import best_range, round_weight
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import rtn_activations
from paperlab.methods.quantization.round_to_nearest import quantize as round_to_nearest


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(s))} for s in range(2)]


def logits(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batches[0]).logits


def test_sixteen_bits_change_nothing_and_weights_alone_are_round_to_nearest(
    model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]
) -> None:
    same = apply(
        {"transform": rtn_activations.transform},
        {"weight_bits": 16, "activation_bits": 16},
        model=model,
        calibration=batches,
    )
    assert torch.equal(logits(same.model, batches), logits(model, batches))
    only = apply(
        {"transform": rtn_activations.transform},
        {"weight_bits": 4, "activation_bits": 16},
        model=model,
        calibration=batches,
    )
    plain = apply({"quantize": round_to_nearest}, {"bits": 4}, model=model, calibration=batches)
    assert torch.equal(logits(only.model, batches), logits(plain.model, batches))
    assert only.totals() == plain.totals()


@pytest.mark.parametrize("dynamic", [True, False])
def test_fewer_bits_hurt_more_and_inputs_have_few_levels(
    model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]], dynamic: bool
) -> None:
    errors = []
    for bits in (8, 6, 4):
        params = {"weight_bits": 16, "activation_bits": bits, "dynamic": dynamic}
        rounded = apply({"transform": rtn_activations.transform}, params, model=model, calibration=batches)
        errors.append(float((logits(rounded.model, batches) - logits(model, batches)).square().mean()))
        seen: list[torch.Tensor] = []
        layer = block_linears(rounded.model)["model.layers.1.mlp.down_proj"]
        with torch.no_grad():
            handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            rounded.model(**batches[0])
            handle.remove()
        levels = max(len(token.unique()) for token in seen[0].flatten(0, 1)) if dynamic else len(seen[0].unique())
        assert levels <= 2**bits
        assert rounded.totals()["bytes"] == sum(p.numel() for p in model.parameters()) * 2 + (0 if dynamic else 14 * 4)
    assert errors == sorted(errors)


def test_per_tensor_has_one_scale_and_clipping_lowers_the_error() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 8.0
    whole = round_weight(weight, bits=4, per_channel=False)
    assert whole.scale.shape == (1, 1)
    assert len(whole.dense().unique()) <= 16
    for per_channel in (True, False):
        plain, clipped = (round_weight(weight, bits=3, per_channel=per_channel, clip=c) for c in (False, True))
        assert (clipped.dense() - weight).square().sum() < (plain.dense() - weight).square().sum()


def test_best_range_beats_the_extremes_when_one_value_stands_out() -> None:
    x = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 40.0
    _, top = best_range(x, bits=4)
    assert top < 20
    assert best_range(x / 7, bits=4)[1] == pytest.approx(top / 7, rel=1e-5)


def test_per_token_by_hand() -> None:
    # 2 bits, symmetric: codes -2 .. 1, scale = max|x| / 1
    assert per_token(torch.tensor([[0.4, -1.0, 0.6]]), bits=2).tolist() == [[0.0, -1.0, 1.0]]


def test_an_average_range_is_the_mean_of_the_batches_extremes(
    model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]
) -> None:
    """One layer's rounded inputs reach the mean of both batches' extremes, and one batch alone its own."""
    seen: list[torch.Tensor] = []
    layer = block_linears(model)["model.layers.0.self_attn.q_proj"]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in batches:
        logits(model, [batch])
    handle.remove()
    params = {"weight_bits": 16, "activation_bits": 8, "average": True}
    rounded = apply({"transform": rtn_activations.transform}, params, model=model, calibration=batches)
    (hook,) = block_linears(rounded.model)["model.layers.0.self_attn.q_proj"]._forward_pre_hooks.values()
    (high,) = hook(None, (torch.full((1, 64), 1e3),))
    (low,) = hook(None, (torch.full((1, 64), -1e3),))
    step = float(sum(x.max() - x.min() for x in seen)) / 2 / 255
    assert float(high[0, 0]) == pytest.approx(float(sum(x.max() for x in seen)) / 2, abs=step)
    assert float(low[0, 0]) == pytest.approx(float(sum(x.min() for x in seen)) / 2, abs=step)
    with pytest.raises(ValueError, match="average"):
        apply({"transform": rtn_activations.transform}, {**params, "dynamic": True}, model=model, calibration=batches)
