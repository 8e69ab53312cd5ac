"""GPTQ's solver against optimal brain quantization written out with explicit inverses."""

import pytest
import torch
from torch import Tensor

from paperlab.kit.gptq import factor, gptq, solve
from paperlab.kit.grid import min_max, round_to_grid


def layer(rows: int = 12, columns: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), x.T @ x * 2 / 200


def loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    error = weight - quantized
    return float((error @ hessian * error).sum())


def written_out(weight: Tensor, hessian: Tensor, group: int, bits: int) -> Tensor:
    """Section 3 of the paper without its speed-ups: invert what is left of H again for every column, in float64."""
    columns = weight.shape[1]
    h = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    w, q = weight.double(), torch.zeros(weight.shape, dtype=torch.float64)
    for i in range(columns):
        if i % group == 0:
            scale, zero = min_max(w[:, i : i + group], bits=bits)
        code = ((w[:, i : i + 1] / scale.double()).round() + zero).clamp(0, 2**bits - 1)
        q[:, i] = ((code - zero) * scale.double())[:, 0]
        inverse = torch.linalg.inv(h[i:, i:])
        w[:, i:] -= ((w[:, i] - q[:, i]) / inverse[0, 0])[:, None] * inverse[0]
    return q.float()


@pytest.mark.parametrize("block", [1, 5, 8, 128])
@pytest.mark.parametrize("group", [8, 24])
def test_equals_the_written_out_algorithm(block, group):
    weight, hessian = layer()
    ours = gptq(weight, hessian, bits=3, group=group, block=block)
    torch.testing.assert_close(ours.dense(), written_out(weight, hessian, group, 3), rtol=1e-4, atol=1e-4)


def test_two_columns_by_hand():
    # H = [[2, 1], [1, 2]], no damping: H^-1 = [[2, -1], [-1, 2]] / 3, so column 2 moves by +e / 2 for an error e of
    # column 1. On integers, 0.4 -> 0 (e = 0.4) lifts 0.4 to 0.6 -> 1, where plain rounding would give 0.
    hessian, weight = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[0.4, 0.4]])
    seen: list[float] = []

    def to_integer(column: Tensor, _: int) -> Tensor:
        seen.append(float(column))
        return column.round()

    assert solve(weight, hessian, to_integer, damping=0.0).tolist() == [[0.0, 1.0]]
    assert seen == pytest.approx([0.4, 0.6])
    assert loss(weight, torch.tensor([[0.0, 1.0]]), hessian) < loss(weight, torch.zeros(1, 2), hessian)


@pytest.mark.parametrize("act_order", [False, True])
def test_better_than_nearest_and_on_the_grid(act_order):
    weight, hessian = layer(32, 64)
    ours = gptq(weight, hessian, bits=3, group=16, act_order=act_order)
    nearest = round_to_grid(weight, *min_max(weight, bits=3, group=16), bits=3)
    assert loss(weight, ours.dense(), hessian) < 0.7 * loss(weight, nearest.dense(), hessian)
    assert ours.codes.min() >= 0
    assert ours.codes.max() <= 7
    assert ours.stored_bits() == nearest.stored_bits()


def test_a_diagonal_hessian_asks_for_plain_rounding():
    weight, _ = layer()
    ours = gptq(weight, torch.diag(torch.arange(1.0, 25)), bits=4, group=8, symmetric=True)
    nearest = round_to_grid(weight, *min_max(weight, bits=4, group=8, symmetric=True), bits=4, symmetric=True)
    assert torch.equal(ours.codes, nearest.codes)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_caller_s_weight_and_hessian_are_not_changed(rows):
    weight, hessian = layer(rows)  # one row: its transpose is contiguous as it is
    before = weight.clone(), hessian.clone()
    gptq(weight, hessian, bits=2)
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_an_input_that_never_fires_gets_no_weight():
    weight, hessian = layer()
    weight[:, 3] = 100  # must not widen the grid either
    hessian[3], hessian[:, 3] = 0, 0
    out = gptq(weight, hessian, bits=8).dense()
    assert torch.equal(out[:, 3], torch.zeros(12))
    assert (out - weight)[:, [0, 1, 2, 4, 5]].abs().max() < 1


@pytest.mark.parametrize("columns", [24, 300])  # 300 is factored by halves
def test_factor(columns):
    _, hessian = layer(columns=columns)
    upper = factor(hessian, damping=0.1).double()
    damped = hessian.double() + 0.1 * hessian.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped), rtol=1e-3, atol=1e-6)
    singular = torch.ones(6, 6)  # rank 1, no damping in float32 or float64: more damping is tried
    assert torch.isfinite(factor(singular, damping=1e-12)).all()


def test_refusals():
    weight, hessian = layer()
    with pytest.raises(ValueError, match="not finite"):
        gptq(weight, hessian * torch.inf)
    with pytest.raises(ValueError, match="does not fit"):
        gptq(weight, hessian[:5, :5])
    with pytest.raises(ValueError, match="group=7"):
        gptq(weight, hessian, group=7)
    with pytest.raises(ValueError, match="not positive definite"):
        gptq(weight, -hessian)
    with pytest.raises(ValueError, match="damping"):
        gptq(weight, hessian, damping=-1.0)
    with pytest.raises(ValueError, match="fitted beforehand"):
        solve(weight, hessian, lambda c, _: c, start_group=lambda w, g: None, group=8, order=torch.arange(24))
