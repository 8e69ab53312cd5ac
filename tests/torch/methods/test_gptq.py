"""GPTQ's verb by hand; the solver beneath it is compared with the written-out algorithm in kit/test_gptq.py."""

import itertools

import pytest
import torch
from torch import Tensor

from paperlab.methods.quantization import round_to_nearest
from paperlab.methods.quantization.gptq import quantize

# 0 and 3 set the grid to the integers 0 .. 3 and have no error; the last two inputs go together.
WEIGHT = torch.tensor([[0.0, 3.0, 0.4, 0.4]])
HESSIAN = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 1], [0, 0, 1, 3]])


def loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    error = weight - quantized
    return float((error @ hessian * error).sum())


def test_by_hand() -> None:
    # H^-1 of the last two is [[3, -1], [-1, 2]] / 5. 0.4 -> 0 is an error of 0.4, which lifts its neighbour by
    # 0.4 / 3 to 0.53 -> 1. Both at 0, as plain rounding has them, would be 1.12 off instead of 0.92.
    ours = quantize(WEIGHT, HESSIAN, bits=2, damping=0.0)
    assert ours.dense().tolist() == [[0, 3, 0, 1]]
    assert round_to_nearest.quantize(WEIGHT, bits=2).dense().tolist() == [[0, 3, 0, 0]]
    assert loss(WEIGHT, ours.dense(), HESSIAN) == pytest.approx(0.92)


def test_the_strongest_input_first_by_hand() -> None:
    # Column 3 goes first: its error of 0.4 lifts column 2 by 0.4 / 2 to 0.6 -> 1, which is the best there is.
    ours = quantize(WEIGHT, HESSIAN, bits=2, damping=0.0, act_order=True).dense()
    assert ours.tolist() == [[0, 3, 1, 0]]
    every = (torch.tensor([[0.0, 3.0, *last]]) for last in itertools.product(range(4), repeat=2))
    assert loss(WEIGHT, ours, HESSIAN) == pytest.approx(min(loss(WEIGHT, one, HESSIAN) for one in every))


@pytest.mark.parametrize("params", [{}, {"group": 16}, {"symmetric": True}, {"group": 16, "act_order": True}])
def test_less_output_error_than_plain_rounding_at_the_same_size(params: dict[str, object]) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 64, generator=draw) @ torch.randn(64, 64, generator=draw)
    weight, hessian = torch.randn(32, 64, generator=draw), 2 / 400 * x.T @ x
    ours = quantize(weight, hessian, bits=3, **params)
    grid = {name: value for name, value in params.items() if name != "act_order"}
    plain = round_to_nearest.quantize(weight, bits=3, **grid)
    assert loss(weight, ours.dense(), hessian) < 0.8 * loss(weight, plain.dense(), hessian)
    assert ours.stored_bits() == plain.stored_bits()


def test_the_block_of_lazy_updates_changes_nothing_but_speed() -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(200, 48, generator=draw)
    weight, hessian = torch.randn(8, 48, generator=draw), x.T @ x
    whole, lazy = (quantize(weight, hessian, block=block).codes for block in (48, 7))
    assert (whole != lazy).float().mean() < 0.01  # sums in another order may tip a tie
