"""LLM-FP4: the formats' values, nearest rounding, exact shifts, and what a search may not make worse."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.core.methods import find_method
from paperlab.kit.floating import encode_fp, levels, round_fp
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import llm_fp4
from paperlab.methods.quantization.llm_fp4 import FORMATS, SHARES


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
    return [{"input_ids": torch.randint(96, (2, 32), generator=torch.Generator().manual_seed(s))} for s in range(4)]


def test_values_of_the_formats() -> None:
    # E2M1 is the FP4 of the OCP microscaling standard (version 1.0, table 5): 0 0.5 1 1.5 2 3 4 6.
    positive: dict[str, list[float]] = {
        "e2m1": [0, 0.5, 1, 1.5, 2, 3, 4, 6],
        "e1m2": [0, 1, 2, 3, 4, 5, 6, 7],  # an evenly spaced grid: INT4
        "e3m0": [0, 1, 2, 4, 8, 16, 32, 64],
    }
    for name, form in FORMATS.items():
        largest = positive[name][-1]
        assert (levels(form)[7:] * largest).tolist() == pytest.approx(positive[name])
        assert (levels(form)[:7] * largest).tolist() == pytest.approx([-v for v in positive[name][:0:-1]])


@pytest.mark.parametrize("name", list(FORMATS))
def test_rounding_is_nearest_and_codes_decode_to_it(name: str) -> None:
    form = FORMATS[name]
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    top = torch.rand(40, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    rounded = round_fp(x, top, form)
    values = levels(form) * top  # (40, 15)
    nearest = (x[:, :, None] - values[:, None]).abs().amin(-1)
    torch.testing.assert_close((rounded - x).abs(), nearest, rtol=0, atol=1e-6)
    decoded = values.gather(1, encode_fp(x, top, form).long())
    torch.testing.assert_close(decoded, rounded, rtol=1e-6, atol=1e-7)
    assert round_fp(torch.zeros(3), 1.0, form).abs().sum() == 0


def test_agrees_with_the_formula_of_the_paper() -> None:
    """Section 3, written anew in float64: clip to c, step 2^(max(floor(log2|x| + b), 1) - M - b)."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2)).double()
    for exponent, mantissa in FORMATS.values():
        bias = (
            2**exponent
            - 1
            - torch.log2(torch.tensor(1.7).double())
            + torch.log2(torch.tensor(2 - 2.0**-mantissa).double())
        )
        largest = (2 - 2.0**-mantissa) * 2 ** (2**exponent - 1 - bias)
        assert float(largest) == pytest.approx(1.7)
        clipped = x.clamp(-largest, largest)
        step = 2.0 ** ((clipped.abs().log2() + bias).floor().clamp(min=1) - mantissa - bias)
        expected = (clipped / step).round() * step
        ours = round_fp(x, 1.7, (exponent, mantissa))
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_shifts_are_powers_of_two_within_the_exponent() -> None:
    peak = torch.tensor([8.0, 4.1, 1.0, 0.01, 0.0])
    for form in FORMATS.values():
        shift = llm_fp4._shifts(peak, 8.0, form, True)
        highest = 2.0 ** (2 ** form[0] - 1)
        assert shift.tolist() == [1.0, 2.0, min(8.0, highest), highest, highest]
        assert shift.log2().frac().abs().sum() == 0
    # what a shift buys: a channel of 0.4 among channels of 8 survives in E2M1 (subnormal step 8 / 12)
    x = torch.tensor([[8.0, 0.3]])
    form = FORMATS["e2m1"]
    assert round_fp(x, 8.0, form)[0, 1] == 0
    shift = llm_fp4._shifts(x[0].abs(), 8.0, form, True)
    assert abs(float((round_fp(x * shift, 8.0, form) / shift)[0, 1]) - 0.3) < 0.04


def test_w4a4_model(model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]) -> None:
    with torch.no_grad():
        exact = model(**batches[0]).logits

    def build(**params: object) -> tuple[float, llm_fp4.Compressed]:
        built = apply({"transform": llm_fp4.transform}, params, model=model, calibration=batches)
        with torch.no_grad():
            return float((built.model(**batches[0]).logits - exact).square().mean()), built

    full, compressed = build()
    weight_only, plain = build(activations=False)
    fixed, _ = build(activations=False, weight_format="e3m0")
    assert weight_only < full
    assert weight_only < fixed
    again, _ = build()
    assert again == full
    name = "model.layers.0.mlp.down_proj"
    assert plain.layers[name].stored_bits() == {"codes": 64 * 96 * 4, "scale": 64 * 16, "format": 2}
    assert compressed.added[f"{name}.input"] in {18 + e * 96 for e in (1, 2, 3)}
    assert len(compressed.layers[name].dense()[0].unique()) <= 15
    assert set(plain.added) == set()


def test_folded_shifts_cancel(model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]) -> None:
    """(x 2^k)(W 2^-k) is x W to the last bit: powers of two only move exponents."""
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    shift = torch.exp2(torch.arange(16) % 8)
    assert torch.equal((x * shift) @ (weight / shift).T, x @ weight.T)


def test_shifted_inputs_agree_with_the_formula_of_the_released_code() -> None:
    """Written anew in float64: each channel's own bias and the shared one are rounded before they are compared."""
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(3)).double() * torch.logspace(-2, 1, 24).double()
    peak, top = x.abs().amax(0), 0.9 * float(x.abs().max())
    for exponent, mantissa in FORMATS.values():
        most = torch.tensor(2 - 2.0**-mantissa).double().log2() + 2**exponent - 1
        own, shared = most - peak.log2(), most - torch.tensor(top).double().log2()
        bias = own.round().clamp(shared.round(), shared.round() + 2**exponent - 1) - shared.round() + shared
        clipped = torch.minimum(torch.maximum(x, -(2 ** (most - bias))), 2 ** (most - bias))
        step = 2.0 ** ((clipped.abs().log2() + bias).floor().clamp(min=1) - mantissa - bias)
        form = (exponent, mantissa)
        shift = llm_fp4._shifts(peak.float(), top, form, True)
        ours = llm_fp4._round_shifted(x, shift=shift, top=top, form=form)
        torch.testing.assert_close(ours, (clipped / step).round() * step, rtol=1e-6, atol=1e-9)


def test_without_a_search_the_maxima_are_the_largest_values(
    model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]
) -> None:
    params = {"clip": False, "pre_shift": False, "weight_format": "e2m1", "activation_format": "e2m1"}
    built = apply({"transform": llm_fp4.transform}, params, model=model, calibration=batches)
    for name, layer in built.layers.items():
        weight = model.get_submodule(name).weight.detach()
        top = weight.abs().amax(1, keepdim=True).half().float()
        torch.testing.assert_close(layer.dense(), round_fp(weight, top, (2, 1)), rtol=1e-6, atol=1e-7)


def test_weights_are_rounded_as_they_are_whatever_the_shifts(
    model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]
) -> None:
    fixed = {"weight_format": "e2m1", "clip": False}
    arms = [
        apply({"transform": llm_fp4.transform}, {**fixed, "pre_shift": on}, model=model, calibration=batches)
        for on in (True, False)
    ]
    for name in arms[0].layers:
        assert torch.equal(arms[0].layers[name].dense(), arms[1].layers[name].dense())


def test_pre_shift_helps_uneven_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 64, generator=generator) * torch.where(torch.arange(64) % 16 == 0, 30.0, 0.3)
    weight = torch.randn(32, 64, generator=generator)
    peak = x.abs().amax(0)
    errors = {}
    for on in (True, False):
        label, top, shift = llm_fp4._search_activations(x, peak, weight, list(FORMATS), SHARES, on)
        error = (round_fp(x * shift, top, FORMATS[label]) / shift - x) @ weight.T
        errors[on] = float(error.square().sum())
    assert errors[True] < errors[False]


def test_unknown_format(model: LlamaForCausalLM, batches: list[dict[str, torch.Tensor]]) -> None:
    with pytest.raises(ValueError, match="e4m0"):
        apply({"transform": llm_fp4.transform}, {"weight_format": "e4m0"}, model=model, calibration=batches)


def test_the_abstract_s_comparison_comes_first_with_ranges_per_token() -> None:
    card = find_method("llm-fp4").card
    first = card.checks[0]
    assert (first.baseline.method, first.baseline.params["level"], first.role) == ("smoothquant", "O1", "claim")
    assert [gate.expect for check in card.checks for gate in check.gates] == ["better", "better"]
