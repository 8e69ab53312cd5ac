"""EasyQuant: the gradient of equation 2, the outliers, the size."""

import pytest
import torch
from scipy.optimize import minimize_scalar

from paperlab.core.card import Arm
from paperlab.core.methods import find_method
from paperlab.kit.grid import encode, levels
from paperlab.methods.quantization import easyquant
from paperlab.methods.quantization.round_to_nearest import quantize as round_to_nearest


def heavy(rows: int = 24, columns: int = 384, seed: int = 0) -> torch.Tensor:
    """Student-t weights (5 degrees of freedom): a few stand far out, as in a language model."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, columns, generator=generator)
    chi = torch.randn(rows, columns, 5, generator=generator).square().mean(-1)
    return 0.03 * normal / chi.sqrt()


def error(weight: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    codes = encode(weight, scale, torch.zeros_like(scale), bits=bits, symmetric=True)
    return (codes * scale - weight).square().sum(1, keepdim=True)


def test_by_hand() -> None:
    # One row of 2-bit codes -2 .. 1. Mean 2.4, standard deviation 5.4: 12 is over 1.5 deviations out, nothing else.
    # The others reach 1.5, so the first scale is 2 * 1.5 / 3 = 1; round(w / 1) clamps to 0, 1, 1, -2; steps=0 stops.
    weight = torch.tensor([[0.25, 1.5, 0.75, -1.5, 12.0]])
    quantized = easyquant.quantize(weight, bits=2, n_std=1.5, steps=0)
    assert quantized.dense().tolist() == [[0.0, 1.0, 1.0, -2.0, 12.0]]
    assert quantized.stored_bits() == {"codes": 10, "scale": 16, "outliers": 1 * 32 + 2 * 32}


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gradient_is_equation_2(bits: int) -> None:
    weight = heavy()
    scale = torch.rand(24, 1, generator=torch.Generator().manual_seed(1)) * 0.03 + 0.005
    reach = weight.abs().amax(1, keepdim=True)
    cells = easyquant.CELLS / 2 / reach
    weight = ((weight * cells).floor() + 0.5) / cells  # no weight lies within half a cell of an edge
    cut = ((torch.arange(*levels(bits, symmetric=True)) + 0.5) * scale * cells).round() / cells
    codes = levels(bits, symmetric=True)[0] + (weight[:, :, None] > cut[:, None]).sum(2)
    expected = 2 * ((codes * scale - weight) * codes).sum(1, keepdim=True)
    below = easyquant._prefix_sums(weight, reach)
    torch.testing.assert_close(easyquant._gradient(*below, scale, reach, bits=bits), expected, rtol=1e-4, atol=1e-4)
    # the thresholds are as good as the exact ones
    exact = (weight / scale).round().clamp(*levels(bits, symmetric=True))
    assert (exact != codes).float().mean() < 0.02
    codes = exact
    expected = 2 * ((codes * scale - weight) * codes).sum(1, keepdim=True)
    # and the slope of the error itself, in double precision, where no code changes within the step
    weight, scale = weight.double(), scale.double()
    h = 1e-9
    slope = ((codes * (scale + h) - weight).square() - (codes * (scale - h) - weight).square()).sum(1) / (2 * h)
    torch.testing.assert_close(slope.float(), expected[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [3, 4])
def test_adam_matches_torch_and_ends_near_the_best_range(bits: int) -> None:
    weight = heavy()
    start = weight.abs().amax(1, keepdim=True) / levels(bits, symmetric=True)[1]
    ours = easyquant._shrink(weight, start, bits=bits, steps=100, rate=0.01)

    # The same descent by autograd and torch's Adam, rounding taken as a constant (section 4.1).
    u = torch.ones_like(start).requires_grad_()
    adam = torch.optim.Adam([u], lr=0.01)
    for _ in range(100):
        adam.zero_grad()
        codes = (weight / (u * start)).round().clamp(*levels(bits, symmetric=True)).detach()
        (codes * u * start - weight).square().sum().backward()
        adam.step()
    theirs = (u * start).detach()
    mine, reference = error(weight, ours, bits), error(weight, theirs, bits)
    assert abs(mine.sum() / reference.sum() - 1) < 0.01

    for row in range(4):  # the best single range, found by dense search
        grid = start[row] * torch.linspace(0.05, 1.0, 400)[:, None]
        best = min(float(error(weight[row : row + 1], s[None], bits)) for s in grid)
        assert float(mine[row]) < 1.05 * best
        assert float(mine[row]) < float(error(weight[row : row + 1], start[row : row + 1], bits))


def test_outliers_are_exact_and_few() -> None:
    weight = heavy(128, 256).half().float()
    quantized = easyquant.quantize(weight, bits=4)
    apart = (weight - weight.mean()).abs() >= 3 * weight.std()
    assert 0 < apart.float().mean() < 0.03
    back = quantized.dense()
    assert torch.equal(back[apart], weight[apart])
    assert quantized.outliers is not None
    assert quantized.outliers.value.numel() == int(apart.sum())
    plain = round_to_nearest(weight, bits=4, symmetric=True).dense()
    assert (back - weight).square().sum() < 0.3 * (plain - weight).square().sum()
    assert quantized.stored_bits()["outliers"] == int(apart.sum()) * 32 + 129 * 32


def test_without_outliers_and_steps_it_is_round_to_nearest() -> None:
    weight = heavy()
    ours = easyquant.quantize(weight, bits=4, n_std=1000.0, steps=0)
    assert torch.equal(ours.dense(), round_to_nearest(weight, bits=4, symmetric=True).dense())


def test_the_optimum_of_a_gaussian_row_is_known() -> None:
    # Symmetric uniform 4-bit quantization of a unit Gaussian has its least error near step 0.335 (Max, 1960, table II).
    weight = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    scale = easyquant._shrink(weight, weight.abs().amax(1, keepdim=True) / 7, bits=4, steps=200, rate=0.01)
    best = minimize_scalar(lambda s: float(error(weight, torch.tensor([[s]]), 4)), bounds=(0.2, 0.6), method="bounded")
    assert abs(float(scale) - best.x) < 0.01
    assert abs(float(scale) - 0.335) < 0.02


def test_rows_of_zeros_and_bad_values() -> None:
    weight = heavy()
    weight[3] = 0
    assert easyquant.quantize(weight).dense()[3].abs().sum() == 0
    for bad in ({"n_std": 0.0}, {"steps": -1}, {"learning_rate": 0.0}, {"bits": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            easyquant.quantize(weight, **bad)


def test_outliers_first_then_ranges_as_in_the_paper() -> None:
    """Section 3: a narrower range without outliers kept clips what is large; with them kept it only helps."""
    weight = heavy(64, 512)
    weight.view(-1)[::997] *= 8
    large = (weight - weight.mean()).abs() >= 3 * weight.std()

    def on(which: torch.Tensor, **params: float) -> float:
        return float((easyquant.quantize(weight, bits=4, **params).dense() - weight)[which].square().sum())

    assert on(~large) < on(~large, steps=0)
    assert on(large, n_std=100.0) > on(large, n_std=100.0, steps=0)  # the steps shrink the range past them
    assert on(large) < 0.01 * on(large, n_std=100.0)


def test_the_card_asks_the_paper_s_own_comparison_first() -> None:
    own, *_, ours = (method := find_method("easyquant")).card.checks
    assert (own.baseline, own.role) == (Arm("round-to-nearest", bits=4), "claim")  # per channel, bits not counted
    assert [str(arm) for arm in own.rivals] == ["round-to-nearest(bits=4, symmetric=True)"]
    (gate,) = own.gates  # without its two ideas it is what it starts from; better it must not be by a gate
    assert (gate.expect, gate.tolerance, gate.baseline) == ("equal", 0.0, own.rivals[0])
    assert gate.method == Arm("easyquant", bits=4, n_std=1000.0, steps=0)
    assert (ours.role, ours.equal) == ("question", {"layer_bits": 0.03})
    assert {check.claim for check in method.card.checks if check.role == "question"} == {
        "ten-times-faster",
        "better-than-groups-of-that-size",
    }
    assert method.card.sources == ("paper",)
    for check in method.card.checks:
        assert Arm("original") in check.arms or check.task == "compress_time"
