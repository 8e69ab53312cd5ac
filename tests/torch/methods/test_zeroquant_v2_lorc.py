"""LoRC: the correction is the best of its rank, is stored as counted, and never hurts the weights."""

import numpy as np
import pytest
import torch

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.low_rank import leading
from paperlab.kit.matrix import Factors, Sum
from paperlab.methods.quantization.round_to_nearest import quantize as round_to_nearest
from paperlab.methods.quantization.zeroquant_v2_lorc import quantize


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def test_by_hand() -> None:
    # W = 2-bit grid points plus an error of rank one: u v^T with u = (1, -1), v = (0.1, 0.1, -0.1, -0.1), within half
    # a step. Rounding finds the grid points, so E = u v^T, S = sqrt(2) * 0.2, and rank 1 restores W.
    grid = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    error = torch.tensor([[1.0], [-1.0]]) @ torch.tensor([[0.1, 0.1, -0.1, -0.1]])
    scale_keeps = grid + error * torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])  # extremes stay extremes
    rounded = round_to_nearest(scale_keeps, bits=2).dense()
    assert rounded.tolist() == grid.tolist()
    back = quantize(scale_keeps, bits=2, rank=1, factor_bits=16)
    # E = [[0, .1, -.1, 0], [0, -.1, .1, 0]] has rank one
    torch.testing.assert_close(back.dense(), scale_keeps, atol=1e-4, rtol=0)
    assert isinstance(back, Sum)
    factors = back.parts[1]
    assert isinstance(factors, Factors)
    assert factors.left.shape == (2, 1)
    assert back.stored_bits()["factors"] == (2 + 4) * 16


@pytest.mark.parametrize(("rows", "columns"), [(96, 64), (64, 96), (300, 200), (200, 300)])
def test_leading_agrees_with_lapack(rows: int, columns: int) -> None:
    noise = matrix(rows, columns)
    u, s, v = leading(noise, 8)
    exact = np.linalg.svd(noise.double().numpy(), compute_uv=False)
    assert float(s.double().square().sum()) == pytest.approx((exact[:8] ** 2).sum(), rel=1e-3)
    for side in (u, v):
        torch.testing.assert_close(side.T @ side, torch.eye(8), atol=1e-4, rtol=0)
    torch.testing.assert_close((u.T @ noise @ v), torch.diag(s), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_correction_is_eckart_young(rank: int) -> None:
    weight = matrix(96, 128)
    rounded = round_to_nearest(weight, bits=3)
    tail = np.linalg.svd((weight - rounded.dense()).double().numpy(), compute_uv=False)[rank:]
    left = weight - quantize(weight, bits=3, rank=rank, factor_bits=16).dense()
    assert float(left.square().sum()) == pytest.approx((tail**2).sum(), rel=1e-3)
    left8 = weight - quantize(weight, bits=3, rank=rank, factor_bits=8).dense()
    assert float(left8.square().sum()) == pytest.approx((tail**2).sum(), rel=1e-2)  # 8 bits cost next to nothing


def test_error_falls_with_rank_and_size_is_counted() -> None:
    weight = matrix(64, 96)
    errors = [float((weight - quantize(weight, bits=2, rank=r).dense()).square().sum()) for r in (0, 2, 8, 32)]
    assert errors == sorted(errors, reverse=True)
    plain, repaired = round_to_nearest(weight, bits=2).stored_bits(), quantize(weight, bits=2, rank=8).stored_bits()
    assert sum(repaired.values()) - sum(plain.values()) == 8 * (64 + 96) * 8 + 2 * 8 * 16
    repair = quantize(weight, bits=2, rank=8)
    assert isinstance(repair, Sum)
    factors = repair.parts[1]
    assert isinstance(factors, Factors)
    assert all(len(component.unique()) <= 255 for component in (*factors.left.T, *factors.right))


def test_bad_values() -> None:
    weight = matrix(16, 32)
    with pytest.raises(ValueError, match="rank=17"):
        quantize(weight, rank=17)
    with pytest.raises(ValueError, match="factor_bits=1"):
        quantize(weight, factor_bits=1)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_without_factors_it_is_round_to_nearest(bits: int) -> None:
    weight = matrix(32, 48)
    for group in (None, 16):
        plain = round_to_nearest(weight, bits=bits, group=group).dense()
        assert torch.equal(quantize(weight, bits=bits, group=group, rank=0).dense(), plain)


def test_the_card_adds_to_the_same_quantizer_first_and_asks_about_bytes_last() -> None:
    card = find_method("zeroquant-v2-lorc").card
    for check, slug in zip(card.checks, ("gptq-lorc", "zeroquant-v2-lorc", "gptq-lorc"), strict=False):
        params = check.method.params
        assert (check.method.method, check.baseline) == (slug, Arm(slug, {**params, "rank": 0}))
    for check, plain in zip(card.checks, ("gptq", "round-to-nearest"), strict=False):
        assert [(gate.method, gate.baseline, gate.expect) for gate in check.gates] == [
            (check.baseline, Arm(plain, bits=4), "equal")
        ]
    assert [check.role for check in card.checks] == ["claim"] * 5 + ["question"]
    assert card.checks[-1].equal
    lossy = card.checks[-2]
    assert (lossy.expect, lossy.baseline) == ("higher", Arm("original"))
    assert [(gate.method, gate.expect) for gate in lossy.gates] == [(lossy.method, "better")]
    assert card.abstract_only  # no one of us read more of it
    for check in card.checks:
        assert Arm("original") in check.arms
        for arm in check.arms:
            check_parameters(find_method(arm.method), arm.params)
