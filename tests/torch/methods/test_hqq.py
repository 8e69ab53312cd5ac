"""HQQ: its objective falls, its zero points are free, its parts are counted."""

import pytest
import torch

from paperlab.kit.grid import min_max, round_to_grid
from paperlab.methods.quantization import hqq


def normal() -> torch.Tensor:
    return torch.randn(32, 128, generator=torch.Generator().manual_seed(0))


def test_on_a_grid_it_is_exact_by_hand():
    # scale (1 - -0.5) / 3 = 0.5, zero 1: codes 0 1 2 3 give the weights back, so nothing is left to optimise
    weight = torch.tensor([[-0.5, 0.0, 0.5, 1.0]])
    out = hqq.quantize(weight, bits=2, group=None)
    assert out.codes.tolist() == [[0, 1, 2, 3]]
    assert out.scale.item() == 0.5
    assert out.zero.item() == 1
    assert torch.equal(out.dense(), weight)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mean_error_falls(bits):
    weight = normal()
    start = hqq.quantize(weight, bits=bits, iterations=0).dense()
    better = hqq.quantize(weight, bits=bits).dense()
    nearest = round_to_grid(weight, *min_max(weight, bits=bits, group=64), bits=bits).dense()
    cost = [float((weight - q).abs().pow(0.7).mean()) for q in (better, start, nearest)]
    assert cost[0] < cost[1]
    assert cost[0] < cost[2]
    # each group keeps its best iteration, so no group is worse than at the start
    mean = [(weight - q).abs().view(32, 2, 64).mean(2) for q in (better, start)]
    assert (mean[0] <= mean[1] + 1e-7).all()


def test_size():
    assert hqq.quantize(normal(), bits=3).stored_bits() == {"codes": 3 * 4096, "scale": 16 * 64, "zero": 16 * 64}


def test_zeros_and_refusals():
    assert torch.equal(hqq.quantize(torch.zeros(2, 64)).dense(), torch.zeros(2, 64))
    with pytest.raises(ValueError, match="p=0"):
        hqq.quantize(normal(), p=0.0)
    with pytest.raises(ValueError, match="group=60"):
        hqq.quantize(normal(), group=60)
