"""k-means on weights: a codebook of vectors, weighted by the inputs, counted."""

import pytest
import torch

from paperlab.kit.grid import min_max, round_to_grid
from paperlab.methods.quantization.kmeans import quantize

WEIGHT = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
ONES = torch.ones(96)


def test_few_vectors_are_kept_exactly():
    pairs = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])  # rows of equal size: the scale is 1
    choice = torch.randint(4, (8, 6), generator=torch.Generator().manual_seed(1))
    weight = pairs[choice].reshape(8, 12)
    out = quantize(weight, torch.ones(12), 0, dim=2, bits_per_weight=1.0)
    assert torch.equal(out.dense(), weight)
    assert out.stored_bits() == {"codes": 48 * 2, "scale": 8 * 16, "codebook": 4 * 2 * 16}


def test_better_than_a_grid_of_as_many_bits():
    ours = quantize(WEIGHT, ONES, 0, dim=2, bits_per_weight=2.0, weighted=False)
    grid = round_to_grid(WEIGHT, *min_max(WEIGHT, bits=2), bits=2)
    assert (ours.dense() - WEIGHT).square().sum() < 0.7 * (grid.dense() - WEIGHT).square().sum()


def test_weighting_serves_loud_inputs():
    loud = torch.where(torch.arange(96) % 2 == 0, 10.0, 0.1)
    cost = [
        float(((quantize(WEIGHT, loud, 0, weighted=w).dense() - WEIGHT) * loud).square().sum()) for w in (True, False)
    ]
    assert cost[0] < 0.7 * cost[1]


def test_seed_and_refusals():
    assert torch.equal(quantize(WEIGHT, ONES, 5).codes, quantize(WEIGHT, ONES, 5).codes)
    with pytest.raises(ValueError, match="whole number"):
        quantize(WEIGHT, ONES, 0, dim=2, bits_per_weight=1.3)
    with pytest.raises(ValueError, match="group=5"):
        quantize(WEIGHT, ONES, 0, dim=5)
