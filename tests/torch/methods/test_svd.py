"""SVD: by hand, and the least error of its rank whatever the shape."""

import numpy as np
import pytest
import torch

from paperlab.methods.low_rank.svd import factor


def test_by_hand() -> None:
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    made = factor(weight, rank=1)
    torch.testing.assert_close(made.dense(), torch.tensor([[0.0, 0, 0], [0, 4, 0]]))
    assert made.stored_bits() == {"factors": (2 + 3) * 16}
    torch.testing.assert_close(factor(weight, rank=2).dense(), weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (300, 200)])
def test_no_other_factors_of_the_rank_are_nearer(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tail = np.linalg.svd(weight.double().numpy(), compute_uv=False)[6:]
    left = float((weight - factor(weight, rank=6).dense()).square().sum())
    assert left == pytest.approx(float((tail**2).sum()), rel=1e-3)
    errors = [float((weight - factor(weight, ratio=ratio).dense()).norm()) for ratio in (0.2, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True)
