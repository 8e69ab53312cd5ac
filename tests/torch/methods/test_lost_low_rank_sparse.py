"""LOST: cut as the authors' code cuts, put together as it says; as large as what it is compared with."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.methods.low_rank import lost_low_rank_sparse, low_rank_layers, sltrain
from paperlab.methods.low_rank.lost_low_rank_sparse import Lost


def fresh(rows: int, columns: int) -> np.ndarray:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=False).weight.detach().double().numpy()


def lost(**given: Any) -> Lost:
    torch.manual_seed(0)
    wanted: dict[str, Any] = {
        "rank": 4,
        "density": 0.2,
        "gamma": 0.3,
        "start": "svd",
        "columns": "svd",
        "activation": False,
        **given,
    }
    return Lost(20, 12, False, **wanted)


@pytest.mark.parametrize("activation", [False, True])
def test_it_is_the_authors_recipe_step_by_step(activation: bool) -> None:
    weight = fresh(12, 20)
    u, s, vt = np.linalg.svd(weight.T, full_matrices=False)
    a, b = u[:, :4] * np.sqrt(s[:4]), np.sqrt(s[:4])[:, None] * vt[:4]
    rest = u[:, 4:] @ np.diag(s[4:]) @ vt[4:]
    columns = np.sort(np.argsort(-np.linalg.norm(rest.T, axis=0))[:4])
    x = np.random.default_rng(0).normal(size=(3, 5, 20))
    inside = x @ a
    inside = inside / (1 + np.exp(-inside)) if activation else inside
    wanted = 0.3 * inside @ b + 0.7 * x[..., columns] @ weight[:, columns].T
    layer = lost(activation=activation)
    assert layer.chosen.tolist() == columns.tolist()
    if activation:  # a singular vector's sign is free, and SiLU would tell
        sign = torch.sign((layer.down.detach() * torch.from_numpy(a).float()).sum(0))
        with torch.no_grad():
            layer.down.mul_(sign)
            layer.up.mul_(sign[:, None])
    np.testing.assert_allclose(layer(torch.from_numpy(x).float()).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_with_all_columns_or_all_ranks_it_begins_as_the_dense_layer() -> None:
    weight = torch.from_numpy(fresh(12, 20)).float()
    x = torch.randn(7, 20)
    torch.testing.assert_close(lost(rank=12, gamma=1.0)(x), x @ weight.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lost(density=1.0, gamma=0.0)(x), x @ weight.T, rtol=1e-4, atol=1e-5)


def test_random_parts_are_about_as_large_as_the_weight() -> None:
    torch.manual_seed(0)
    layer = Lost(256, 128, False, 32, 0.05, 0.5, "random", "random", False)
    product = (layer.down @ layer.up).std()
    assert float(product.detach()) == pytest.approx(1 / (3 * 256) ** 0.5, rel=0.1)  # what nn.Linear begins with
    assert len(layer.chosen.unique()) == int(0.05 * 256)


def test_arms_have_as_many_parameters_and_blocks_are_causal() -> None:
    made = [
        lost_low_rank_sparse.block(64, 4, 160),
        sltrain.block(64, 4, 160),
        low_rank_layers.block(64, 4, 160, rank=18),
    ]
    counts = [sum(one.numel() for one in block.parameters()) for block in made]
    assert max(counts) < 1.01 * min(counts)
    x = torch.randn(2, 9, 64)
    changed = torch.cat([x[:, :5], torch.randn(2, 4, 64)], 1)
    for block in made:
        torch.testing.assert_close(block(changed)[:, :5], block(x)[:, :5], rtol=1e-4, atol=1e-5)


def test_bad_values_and_the_card() -> None:
    with pytest.raises(ValueError, match="gamma=2"):
        lost_low_rank_sparse.block(16, 2, 32, gamma=2)
    card = find_method("lost-low-rank-sparse").card
    assert [check.role for check in card.checks] == ["claim"] + ["question"] * 4
    assert card.checks[0].baseline == Arm("sltrain")
    for check in card.checks:
        for arm in check.arms:
            check_parameters(find_method(arm.method), arm.params)
