"""BAQ: the allocation is optimal, spends its budget exactly, and equalises losses."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize

from paperlab.kit.gptq import factor
from paperlab.methods.quantization.baq import allocate, quantize
from paperlab.methods.quantization.gptq import quantize as gptq


def loss(sensitivity: torch.Tensor, bits: torch.Tensor) -> float:
    return float((sensitivity.double() * 4.0 ** -bits.double()).sum())


def problem(rows: int = 48, columns: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the Hessian of inputs whose channels differ in strength by a few powers of two."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.05
    strength = 2.0 ** (2 * torch.randn(columns, generator=generator))
    x = torch.randn(1024, columns, generator=generator) * strength
    return weight, 2 / 1024 * x.T @ x


def test_by_hand() -> None:
    # c = 1, 4, 16, 64: log2 / 2 = 0, 1, 2, 3, mean 1.5. At a mean of 2.5 bits: 2.5 + (-1.5, -0.5, 0.5, 1.5).
    assert allocate(torch.tensor([1.0, 4.0, 16.0, 64.0]), budget=10).tolist() == [1, 2, 3, 4]
    assert allocate(torch.tensor([1.0, 4.0, 16.0, 64.0]), budget=3).tolist() in ([0, 0, 1, 2], [0, 0, 0, 3])
    assert allocate(torch.tensor([1.0, 1.0, 0.0]), budget=4).tolist() == [2, 2, 0]


@pytest.mark.parametrize("seed", range(5))
def test_no_whole_allocation_is_better(seed: int) -> None:
    sensitivity = 2.0 ** (3 * torch.randn(5, generator=torch.Generator().manual_seed(seed)))
    for budget in range(1, 16, 3):
        ours = allocate(sensitivity, budget=budget, highest=4)
        assert int(ours.sum()) == budget
        best = min(
            loss(sensitivity, torch.tensor(bits))
            for bits in itertools.product(range(5), repeat=5)
            if sum(bits) == budget
        )
        assert loss(sensitivity, ours) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_closed_form_solves_the_convex_relaxation_and_ours_rounds_it(seed: int) -> None:
    c = 2.0 ** torch.randn(12, generator=torch.Generator().manual_seed(seed)).double()
    mean = 4.0
    closed = mean + 0.5 * (c.log2() - c.log2().mean())
    solved = minimize(
        lambda r: loss(c, torch.from_numpy(r)) * 1e3,
        x0=[mean] * 12,
        constraints={"type": "eq", "fun": lambda r: r.sum() - 12 * mean},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert loss(c, closed) == pytest.approx(solved.fun / 1e3, rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(solved.x), closed, atol=0.02, rtol=0)
    losses = c * 4.0**-closed
    torch.testing.assert_close(losses, losses.mean().expand(12))  # equal loss
    whole = allocate(c, budget=48)
    assert (whole - closed).abs().max() < 1
    assert loss(c, whole) >= loss(c, closed)


@pytest.mark.parametrize("mean_bits", [2.0, 2.5, 3.0])
def test_size_equals_uniform_gptq_and_losses_come_out_equal(mean_bits: float) -> None:
    weight, hessian = problem(rows=256, columns=128)
    ours = quantize(weight, hessian, mean_bits=mean_bits, sensitivity="formula", levels="powers", paid="all")
    uniform = weight.numel() * mean_bits + 256 * (16 + mean_bits)
    stored = ours.stored_bits()
    assert uniform - 256 < sum(stored.values()) <= uniform
    assert stored["bit_map"] == 128 * 4
    bits = ours.bits
    assert isinstance(bits, torch.Tensor)
    assert stored["codes"] == 256 * int(bits.sum())
    assert int((ours.codes.amax(0) - (2 ** bits[0] - 1)).max()) <= 0
    # the modelled losses of columns within the limits spread over one bit, a factor of 4, from strengths over 2^8
    modelled = factor(hessian).diagonal().double() ** -2 * 4.0 ** -bits[0].double()
    inside = modelled[(bits[0] > 0) & (bits[0] < 8)]
    assert float(inside.max() / inside.min()) < 4.01


@pytest.mark.parametrize("mean_bits", [2.0, 3.0])
def test_any_number_of_levels_follows_the_closed_form(mean_bits: float) -> None:
    weight, hessian = problem(rows=256, columns=128)
    ours = quantize(weight, hessian, mean_bits=mean_bits, sensitivity="formula")
    assert isinstance(ours.bits, torch.Tensor)
    levels = 2 ** ours.bits[0].double()
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert float((ours.codes.amax(0) + 1 - levels.round()).max()) <= 0
    c = factor(hessian).diagonal().double() ** -2
    closed = 2 ** (mean_bits + (c.log2() - c.log2().mean()) / 1.95)
    inside = (closed > 1) & (closed < 256)
    assert int(inside.sum()) > 64
    assert float((levels - closed)[inside].abs().max()) < 0.51
    assert ours.stored_bits()["codes"] == round(256 * float(ours.bits.double().sum()))
    assert ours.stored_bits()["bit_map"] == 128 * 8


def test_measured_sensitivities_are_the_losses_of_a_uniform_pass() -> None:
    """Columns whose weights sit on the grid lose nothing in the first pass, and earn one level."""
    weight, _ = problem(rows=64, columns=32)
    weight[:, 3] = 0  # zero is always a code
    ours = quantize(weight, torch.eye(32), mean_bits=3.0, damping=0.0)
    assert isinstance(ours.bits, torch.Tensor)
    assert float(ours.bits[0, 3]) == 0
    others = ours.bits[0, torch.arange(32) != 3]
    assert float(others.min()) > 2
    formula = quantize(weight, torch.eye(32), mean_bits=3.0, damping=0.0, sensitivity="formula")
    assert isinstance(formula.bits, torch.Tensor)
    torch.testing.assert_close(formula.bits, torch.full((1, 32), 3.0))


def test_equal_sensitivities_are_gptq() -> None:
    weight, hessian = problem()
    ours = quantize(weight, hessian, mean_bits=3.0, sensitivity="equal").dense()
    theirs = gptq(weight, hessian, bits=3).dense()
    assert float(((ours - theirs).abs() < 1e-3).float().mean()) > 0.9  # ranges are float16 in one, steps in the other


@pytest.mark.parametrize("how", [{}, {"levels": "powers", "paid": "all"}, {"sensitivity": "formula"}])
def test_output_error_is_below_gptq(how: dict[str, str]) -> None:
    weight, hessian = problem()

    def error(quantized: torch.Tensor) -> float:
        left = weight - quantized
        return float((left @ hessian * left).sum())

    for mean_bits in (2, 3, 4):
        ours = quantize(weight, hessian, mean_bits=float(mean_bits), **how)
        assert error(ours.dense()) < error(gptq(weight, hessian, bits=mean_bits).dense())


def test_equal_columns_get_equal_bits_and_plain_rounding() -> None:
    weight, _ = problem(rows=256, columns=64)
    ours = quantize(weight, torch.eye(64), mean_bits=6.0, damping=0.0, sensitivity="formula", levels="powers")
    assert isinstance(ours.bits, torch.Tensor)
    assert int(ours.bits.max() - ours.bits.min()) <= 1
    span = weight.amax(1).clamp(min=0) - weight.amin(1).clamp(max=0)
    step = span[:, None] / (2.0**ours.bits - 1)
    # nothing propagates under an identity Hessian: half a step, a little more at the ends for the rounded zero point
    assert float(((ours.dense() - weight).abs() / step).max()) < 1.01
    assert float(((ours.dense() - weight).abs() / step).mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("how", [{}, {"levels": "powers", "paid": "all", "sensitivity": "formula"}])
def test_dead_inputs(how: dict[str, str]) -> None:
    weight, hessian = problem()
    hessian[5] = hessian[:, 5] = 0
    ours = quantize(weight, hessian, mean_bits=2.0, **how)
    assert isinstance(ours.bits, torch.Tensor)
    assert float(ours.bits[0, 5]) == 0
    assert torch.isfinite(ours.dense()).all()
    assert ours.dense()[:, 5].abs().max() == 0


def test_bad_values() -> None:
    weight, hessian = problem()
    with pytest.raises(ValueError, match="mean_bits=9"):
        quantize(weight, hessian, mean_bits=9.0)
    with pytest.raises(ValueError, match="nothing is left"):
        quantize(weight[:, :4], hessian[:4, :4], mean_bits=0.5, paid="all")
    with pytest.raises(ValueError, match="levels='some'"):
        quantize(weight, hessian, levels="some")
    with pytest.raises(ValueError, match="budget=99"):
        allocate(torch.ones(3), budget=99)
    assert math.isfinite(loss(torch.ones(3), allocate(torch.ones(3), budget=0)))
