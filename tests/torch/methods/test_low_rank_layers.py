"""Low-rank layers: what they begin as, from an SVD and from nothing, and that they are a product of two matrices."""

import numpy as np
import pytest
import torch
from torch import nn

from paperlab.methods.low_rank.low_rank_layers import LowRank, block


def test_low_rank_layers_begin_as_the_nearest_of_their_rank() -> None:
    torch.manual_seed(0)
    weight = nn.Linear(20, 12, bias=False).weight.detach().numpy()
    torch.manual_seed(0)
    layer = LowRank(20, 12, True, 5, "svd")
    left = np.linalg.norm(weight.T - (layer.down @ layer.up).detach().numpy())
    assert left == pytest.approx(np.sqrt((np.linalg.svd(weight, compute_uv=False)[5:] ** 2).sum()), rel=1e-4)
    x = torch.randn(3, 20)
    torch.testing.assert_close(layer(x), x @ layer.down @ layer.up)


def test_random_matrices_multiply_to_about_the_size_of_a_fresh_weight() -> None:
    torch.manual_seed(0)
    low = LowRank(256, 128, True, 32, "random")
    assert float((low.down @ low.up).std().detach()) == pytest.approx(1 / (3 * 256) ** 0.5, rel=0.1)


def test_a_block_has_seven_of_them() -> None:
    layers = [module for module in block(64, 4, 160, rank=18).modules() if isinstance(module, LowRank)]
    assert [tuple(layer.down.shape) for layer in layers] == [(64, 18)] * 6 + [(160, 18)]
    assert block(16, 2, 32, rank=40)(torch.zeros(1, 3, 16)).shape == (1, 3, 16)  # no more than a layer can have
