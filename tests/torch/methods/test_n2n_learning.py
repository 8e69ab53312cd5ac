"""N2N: the update worked by hand, log-probabilities that sum to one, and policies that learn what pays."""

import itertools
import math

import pytest
import torch
from torch import nn

from paperlab.kit.searching import Choice, Space
from paperlab.methods.distillation.n2n_learning import Removal, Shrinkage, architecture, described, learn

SPACE = Space((16, 16, 16), 6, 3, (0.25, 0.5, 1.0), least=2)


class Coin(nn.Module):
    """A policy of one number: the log-odds of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.odds = nn.Parameter(torch.zeros(()))


def test_an_update_worked_by_hand() -> None:
    """Rewards 1 and 3: mean 2, baseline 0 at first; then mean 4 against 2 / 2 = 1, as the authors' code divides."""
    coin, seen, rewards = Coin(), list[float](), iter((1.0, 3.0, 4.0, 4.0))

    def draw() -> tuple[Choice, torch.Tensor]:
        seen.append(coin.odds.item())
        return (1.0,), nn.functional.logsigmoid(coin.odds)

    steps: list[float] = []
    original = torch.optim.Adam.step

    def spy(self: torch.optim.Adam, *args: object) -> None:
        steps.append(coin.odds.grad.item())  # type: ignore[union-attr]
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        means = learn(coin, draw, lambda choice: next(rewards), 4, 2, 0.1)
    assert means == [2.0, 4.0]
    assert seen[0] == seen[1] == 0.0
    assert steps[:2] == [pytest.approx(-2 * 0.5)] * 2  # d/dx log sigmoid(x) = 1/2 at 0
    away = 1 / (1 + math.exp(seen[2]))
    assert steps[2:] == [pytest.approx(-(4 - 1) * away)] * 2


def test_log_probabilities_are_those_of_what_was_drawn() -> None:
    torch.manual_seed(0)
    layers, removal, shrinkage = described(SPACE, SPACE.whole), Removal(4), Shrinkage(4, torch.tensor(SPACE.factors))
    for policy, count in ((removal, 2), (shrinkage, 3)):
        told: dict[tuple[int, ...], float] = {}
        for _ in range(600):
            drawn, log_probability = policy(layers)
            told[tuple(int(one) for one in drawn)] = log_probability.item()
        assert set(told) == set(itertools.product(range(count), repeat=3))
        assert sum(math.exp(value) for value in told.values()) == pytest.approx(1, rel=1e-4)


def test_layers_are_described_as_they_are_left() -> None:
    assert described(SPACE, (1.0, 0.0, 0.5)).tolist() == [[0.0, 1.0, 1.0], pytest.approx([2 / 3, 16 / 6, 0.5])]


def test_half_of_the_students_are_asked_by_each_policy_and_the_best_is_taken() -> None:
    asked: list[Choice] = []

    def evaluate(choice: Choice) -> float:
        asked.append(choice)
        return SPACE.compression(choice) + (10.0 if choice[1] == 0 and choice[2] == 1 else 0.0)

    found = architecture(SPACE, evaluate, 40, 0)
    assert len(asked) == 40
    assert all(set(choice) <= {0.0, 1.0} and choice[0] == 1 for choice in asked[:20])
    assert all(choice[1] == 0 and choice[2] > 0 for choice in asked[20:])  # layers that the best had lost stay away
    assert found == max(asked, key=lambda c: SPACE.compression(c) + (10.0 if c[1] == 0 and c[2] == 1 else 0.0))


def test_the_policies_learn_what_pays() -> None:
    """Removing pays in the first stage, narrow layers in the second: late students are better than early ones."""
    asked: list[float] = []

    def evaluate(choice: Choice) -> float:
        asked.append(SPACE.compression(choice))
        return asked[-1]

    architecture(SPACE, evaluate, 400, 1, removal_rate=0.03, shrinkage_rate=0.03)
    first, second = asked[:200], asked[200:]
    assert sum(first[-40:]) > sum(first[:40])
    assert sum(second[-40:]) > sum(second[:40])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="one student at least"):
        architecture(SPACE, SPACE.compression, 10, 0, rollouts=0)
