"""DARE: by hand with a known mask, what dropping keeps on average, the smallest ones by a sort, its ends, refusals."""

import pytest
import torch
from torch import Tensor

import paperlab
from paperlab.methods.merging import dare_super_mario
from paperlab.methods.merging.dare_super_mario import drop


def states(count: int, size: int = 400) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(count)
    return [{"a": torch.randn(size, generator=draw), "b": torch.randn(5, 4, generator=draw)} for _ in range(count)]


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "bernoulli", lambda share: torch.tensor([1.0, 0.0, 1.0, 0.0]))  # 1: dropped
    base, model = {"w": torch.tensor([1.0, 1.0, 1.0, 1.0])}, {"w": torch.tensor([2.0, 3.0, 5.0, -1.0])}
    made = {
        "changes": dict(dare_super_mario.merge(base, [model], sparsity=0.75))["w"].tolist(),
        "alone": dict(dare_super_mario.merge(base, [model], sparsity=0.75, rescale=False))["w"].tolist(),
        "weights": dict(dare_super_mario.merge(base, [model], sparsity=0.75, of="weights"))["w"].tolist(),
        "two": dict(dare_super_mario.merge(base, [model, model], sparsity=0.75, then="average"))["w"].tolist(),
    }
    assert made["changes"] == [1.0, 9.0, 1.0, -7.0]  # 1 + 4 * 2, 1 - 4 * 2
    assert made["alone"] == [1.0, 3.0, 1.0, -1.0]
    assert made["weights"] == [0.0, 12.0, 0.0, -4.0]
    assert made["two"] == made["changes"]


@pytest.mark.parametrize("sparsity", [0.1, 0.9, 0.99])
def test_the_share_and_the_mean_are_kept(sparsity: float) -> None:
    torch.manual_seed(0)
    found = drop(torch.ones(200_000), sparsity, "random") / (1 - sparsity)
    spread = (sparsity / (1 - sparsity) / 200_000) ** 0.5
    assert abs(found.mean().item() - 1) < 5 * spread
    assert abs((found == 0).double().mean().item() - sparsity) < 0.01


@pytest.mark.parametrize("sparsity", [0.0, 0.003, 0.5, 0.9, 0.999])
def test_the_smallest_go_as_a_sort_says(sparsity: float) -> None:
    tensor = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    wanted = tensor.flatten().clone()
    wanted[wanted.abs().argsort()[: int(1000 * sparsity)]] = 0
    assert torch.equal(drop(tensor.clone(), sparsity, "magnitude").flatten(), wanted)


def test_nothing_dropped_is_the_model_and_factor_nothing_the_base() -> None:
    base, model = states(2)
    for name, tensor in paperlab.load("dare-super-mario", sparsity=0.0)(base, [model]).items():
        torch.testing.assert_close(tensor, model[name])
    for name, tensor in paperlab.load("dare-super-mario", scale=0.0)(base, [model]).items():
        assert torch.equal(tensor, base[name])


def test_models_are_dropped_from_one_by_one_and_the_seed_decides() -> None:
    base, *models = states(3, 5000)
    merge = paperlab.load("dare-super-mario", sparsity=0.5)
    one, again, other = (merge(base, models, seed=seed)["a"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    untouched = (one == base["a"]).double().mean().item()  # both dropped: a quarter, were the masks not shared
    assert abs(untouched - 0.25) < 0.03


def test_of_two_signs_the_elected_one_counts() -> None:
    base = {"w": torch.zeros(3)}
    models = [{"w": torch.tensor([2.0, -1.0, 0.0])}, {"w": torch.tensor([-1.0, -3.0, 0.0])}]
    assert paperlab.load("dare-super-mario", sparsity=0.0, then="ties")(base, models)["w"].tolist() == [2.0, -2.0, 0.0]


@pytest.mark.parametrize(
    ("params", "said"),
    [({"sparsity": 1.0}, "less than 1"), ({"weights": "1,2"}, "for 1 models"), ({"weights": "one"}, "give numbers")],
)
def test_refusals(params: dict[str, object], said: str) -> None:
    base, model = states(2)
    with pytest.raises(ValueError, match=said):
        paperlab.load("dare-super-mario", **params)(base, [model])
