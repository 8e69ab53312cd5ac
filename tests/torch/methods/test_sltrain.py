"""SLTrain: its formula, its gradients, and which numbers it stores."""

import torch

from paperlab.methods.low_rank.sltrain import LowRankPlusSparse


def test_sltrain_is_its_formula_and_trains_only_its_places() -> None:
    torch.manual_seed(0)
    layer = LowRankPlusSparse(20, 12, False, 4, 0.1, 0.25)
    assert len(layer.places.unique()) == 24
    sparse = torch.zeros(12 * 20)
    sparse[layer.places] = layer.values.detach()
    x = torch.randn(7, 20)
    torch.testing.assert_close(layer(x), x @ sparse.view(12, 20).T)  # B begins at zero
    with torch.no_grad():
        layer.b.normal_()
    weight = 0.25 * layer.b @ layer.a + sparse.view(12, 20)
    out = layer(x)
    torch.testing.assert_close(out, x @ weight.T)
    out.square().sum().backward()
    dense = (2 * out.T @ x).detach().flatten()[layer.places]
    torch.testing.assert_close(layer.values.grad, dense, rtol=1e-4, atol=1e-4)
    assert layer.stored_bits() == 32 * (4 * 32 + 24 + 24)
