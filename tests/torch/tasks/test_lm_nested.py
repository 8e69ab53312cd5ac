"""The task of several widths: where arms start, what is judged, the acceptance of drafts, what is refused."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from objective_settings import nested
from torch import Tensor

from paperlab.kit.nested import Size
from paperlab.kit.tuning import Tuned
from paperlab.tasks import lm_nested as task


class Odds:
    """Fixed chances of two bytes by size, the rest share what is left."""

    sizes: tuple[Size, ...] = ((1.0,) * 4,)
    passes = 1

    def __init__(self, chances: dict[Size, tuple[float, float]]) -> None:
        self.chances = chances

    def at(self, size: Size) -> Callable[[Tensor], Tensor]:
        first, second = self.chances.get(size, (0.5, 0.25))
        odds = torch.full((task.VOCABULARY,), (1 - first - second) / (task.VOCABULARY - 2))
        odds[0], odds[1] = first, second
        return lambda ids: odds.log().expand(*ids.shape, -1)


def test_bits_and_acceptance_by_hand() -> None:
    test = torch.zeros(5, task.LENGTH + 1, dtype=torch.long)
    test[:, 1::2] = 1
    small, whole = task.SIZES["eighth"], task.SIZES["full"]
    arm: Any = SimpleNamespace(model=Odds({small: (0.25, 0.5), whole: (0.5, 0.25)}))
    (row,) = task.score(arm, SimpleNamespace(test=test))  # type: ignore[arg-type]
    assert row["full"] == row["eighth"] == pytest.approx((1 + 2) / 2)
    assert row["acceptance"] == pytest.approx(0.25 + 0.25 + 0.25)
    assert set(row) == {metric.of for metric in task.METRICS.values()}
    arm = SimpleNamespace(model=Odds({small: (0.5, 0.25), whole: (0.5, 0.25)}))
    assert next(task.score(arm, SimpleNamespace(test=test)))["acceptance"] == pytest.approx(1)  # type: ignore[arg-type]
    assert list(task.score(arm, SimpleNamespace(test=test), start=1)) == []  # type: ignore[arg-type]


def test_acceptance_is_what_speculative_sampling_accepts() -> None:
    """20,000 drafts of one byte, each accepted with chance min(1, p / q), within four standard errors."""
    draft, target = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)).softmax(-1)
    model = SimpleNamespace(at=lambda size: lambda ids: (draft if size[0] < 1 else target).log().expand(*ids.shape, -1))
    found = task.acceptance(model, torch.zeros(2, 5, dtype=torch.long))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(draft, 20_000, replacement=True, generator=generator)
    accepted = torch.rand(20_000, generator=generator) < target[drawn] / draft[drawn]
    assert found == pytest.approx(accepted.double().mean().item(), abs=4 * math.sqrt(0.25 / 20_000))


def test_arms_start_alike_and_the_seed_draws_network_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WIDTH": 16, "HEADS": 2, "INNER": 16}.items():
        monkeypatch.setattr(task, name, value)
    one, again, other = (task.make(seed, "quick") for seed in (0, 0, 1))
    weights = [next(setting.model.parameters()) for setting in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(one.test, other.test)
    (first, labels), (same, _) = next(one.batches(3)), next(again.batches(3))
    assert torch.equal(first["ids"], same["ids"])
    assert torch.equal(first["ids"][:, 1:], labels[:, :-1])
    stream = bytes(one.train.ids.tolist())
    assert all(bytes(row.tolist()) not in stream for row in one.test[:16])
    about = task.describe(one)
    assert about["data"]["id"] == "abstracts-8k"
    arm = Tuned(one.model, 1e-2, {}, one.steps, 1)
    totals = task.totals(arm, one)
    assert set(task.AXES) <= totals.keys()
    assert totals["tokens"] == one.steps * 8 * 64
    assert totals["passes"] == one.steps
    assert totals["whole"] == next(task.score(arm, one))["full"]
    assert one.validate(one.model) == pytest.approx(-task.bits(one.model, one.validation))
    one.model.sizes = ((1.0,) * 4, (0.5,) * 4)  # type: ignore[assignment]
    drawn = task.totals(arm, one)
    assert (drawn["tokens"], drawn["passes"]) == (one.steps * 8 * 64 / 2, one.steps)
    with pytest.raises(ValueError, match="trains its own"):
        task.make(0, "quick", model="gpt2")


def test_a_mixture_has_as_many_units_as_a_half() -> None:
    assert sum(task.SIZES["mixed"]) == sum(task.SIZES["half"])
    assert set(task.SIZES["mixed"]) <= {1.0, 0.5, 0.25, 0.125}
    assert len(set(task.SIZES["mixed"])) > 1
    setting = nested()
    assert setting.validate(setting.model) < 0
