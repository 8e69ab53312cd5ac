"""Low-rank click models: outputs are kept as principal components keep them, with what follows exactly by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.walk import Batch
from paperlab.methods.low_rank.unified_lowrank_ctr import transform


class Clicks(nn.Module):
    """One table, a first layer that stays, one that is split, an output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.first, self.second, self.output = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(self.second(self.first(self.table(ids)).relu()).relu())


def model() -> Clicks:
    torch.manual_seed(0)
    return Clicks().eval()


def rows() -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [{"ids": torch.multinomial(1 / torch.arange(1.0, 31), 200, True, generator=draw)} for _ in range(3)]


def compressed(original: nn.Module, **given: Any) -> Any:
    """A copy of the model with its parts split."""
    return transform(copy.deepcopy(original), rows(), 0, **given).model


def outputs(one: nn.Module, part: str) -> np.ndarray:
    seen: list[Tensor] = []
    handle = one.get_submodule(part).register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    for batch in rows():
        one(**batch)
    handle.remove()
    return torch.cat(seen).double().numpy()


def kept(y: np.ndarray, rank: int) -> np.ndarray:
    """The rows of y in the plane through their mean that holds most of them."""
    mean = y.mean(0)
    v = np.linalg.svd(y - mean, full_matrices=False)[2][:rank]
    return mean + (y - mean) @ v.T @ v


@pytest.mark.parametrize("rank", [1, 3])
def test_outputs_are_kept_as_principal_components_keep_them(rank: int) -> None:
    original = model()
    small = compressed(original, rank=rank, embedding_rank=rank, activation=False)
    np.testing.assert_allclose(outputs(small, "table"), kept(outputs(original, "table"), rank), atol=1e-5)
    alone = copy.deepcopy(original)
    alone.second = small.second  # behind the original table, whose rows its components are of
    wanted = kept(outputs(original, "second"), rank)
    np.testing.assert_allclose(outputs(alone, "second"), wanted, atol=1e-5)


def test_it_is_the_released_demonstration_step_by_step() -> None:
    original = model()
    made = compressed(original, rank=3, embedding_rank=2).second
    y = outputs(original, "second")
    average = y.mean(0)
    u = np.linalg.svd(y.T @ y / len(y) - np.outer(average, average))[0][:, :3]
    w, b = (one.detach().double().numpy() for one in (original.second.weight, original.second.bias))
    x = np.random.default_rng(0).normal(size=(5, 12))
    sign = np.sign((made[2].weight.detach().numpy() * u).sum(0))
    u = u * sign  # an eigenvector's sign is free, and ReLU would tell
    inside = np.maximum(x @ (u.T @ w).T + u.T @ b, 0)
    wanted = inside @ u.T + (np.eye(12) - u @ u.T) @ average
    np.testing.assert_allclose(made(torch.from_numpy(x).float()).detach().numpy(), wanted, atol=1e-5)


def test_by_weights_it_is_the_svd_and_random_directions_lose_most() -> None:
    original = model()
    small = compressed(original, rank=3, embedding_rank=2, by="weights", activation=False)
    for part, rank in (("second", 3), ("table", 2)):
        weight = original.get_parameter(f"{part}.weight").detach().double().numpy()
        u, s, vt = np.linalg.svd(weight, full_matrices=False)
        first, second = small.get_parameter(f"{part}.0.weight"), small.get_parameter(f"{part}.1.weight")
        product = (first @ second.T if part == "table" else second @ first).detach().numpy()
        np.testing.assert_allclose(product, u[:, :rank] @ np.diag(s[:rank]) @ vt[:rank], atol=1e-5)
    y = outputs(original, "second")
    lost = {}
    for by in ("features", "weights", "random"):
        alone = copy.deepcopy(original)
        alone.second = compressed(original, rank=3, embedding_rank=2, by=by, activation=False).second
        lost[by] = float(((outputs(alone, "second") - y) ** 2).sum())
    assert lost["features"] < lost["weights"] < lost["random"]


def test_what_is_split_and_how_it_is_counted() -> None:
    original = model()
    before = copy.deepcopy(original.state_dict())
    small = transform(copy.deepcopy(original), rows(), 0, rank=3, embedding_rank=2)
    assert isinstance(small.model.first, nn.Linear)
    assert isinstance(small.model.output, nn.Linear)
    left = sum(parameter.numel() for parameter in small.model.parameters())
    assert small.totals()["parameters"] == left == 30 * 2 + 2 * 8 + 8 + (8 * 12 + 12) + (12 * 3 + 3 + 3 * 12 + 12) + 13
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())
    with pytest.raises(ValueError, match="at least 1"):
        transform(model(), rows(), 0, embedding_rank=0)
    with pytest.raises(ValueError, match="gets smaller"):
        transform(model(), rows(), 0, rank=20, embedding_rank=8)


def test_the_card() -> None:
    card = find_method("unified-lowrank-ctr").card
    assert card.checks[0].baseline == Arm("fine-tuning", after=Arm("unified-lowrank-ctr", by="weights"))
    assert [check.role for check in card.checks] == ["claim"] + ["question"] * 5
    for check in card.checks:
        for one in (part for arm in check.arms for part in arm.chain):
            check_parameters(find_method(one.method), one.params)
