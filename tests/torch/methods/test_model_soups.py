"""Greedy soups: by hand, an independent version over many draws, never worse on validation data than the best run."""

import random

import pytest
import torch
from torch import Tensor, nn

import paperlab

BASE = {"w": torch.zeros(2)}


def soup_of(values: list[list[float]], goal: list[float]) -> tuple[list[float], float]:
    """The soup and its validation figure: minus the distance to a goal."""

    def validate(state: dict[str, Tensor]) -> float:
        return -(state["w"] - torch.tensor(goal)).norm().item()

    made = paperlab.load("model-soups")(BASE, [{"w": torch.tensor(v)} for v in values], validate=validate)
    return made["w"].tolist(), validate(made)


def by_hand(values: list[list[float]], goal: list[float]) -> list[float]:
    def far(point: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(point, goal, strict=True)) ** 0.5

    def mean(points: list[list[float]]) -> list[float]:
        return [sum(column) / len(points) for column in zip(*points, strict=True)]

    ranked = sorted(values, key=far)
    soup = [ranked[0]]
    for point in ranked[1:]:
        if far(mean([*soup, point])) < far(mean(soup)):
            soup.append(point)
    return mean(soup)


def test_by_hand() -> None:
    # the best is (1, 0); with (-1.1, 0) the mean is nearer to the goal (0, 0), with (0, 3) it no longer is
    found, _ = soup_of([[0.0, 3.0], [1.0, 0.0], [-1.1, 0.0]], [0.0, 0.0])
    assert found == pytest.approx([-0.05, 0.0])


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_independent_version(seed: int) -> None:
    draw = random.Random(seed)
    values = [[draw.gauss(0, 1), draw.gauss(0, 1)] for _ in range(6)]
    found, score = soup_of(values, [0.3, -0.2])
    assert found == pytest.approx(by_hand(values, [0.3, -0.2]), abs=1e-5)
    best = max(-(((a - 0.3) ** 2 + (b + 0.2) ** 2) ** 0.5) for a, b in values)
    assert score >= best - 1e-6


def test_modules_are_judged_as_modules() -> None:
    models = [nn.Linear(2, 1) for _ in range(3)]
    seen: list[type] = []

    def judge(model: nn.Linear) -> float:
        seen.append(type(model))
        return -model.weight.norm().item()

    made = paperlab.load("model-soups")(nn.Linear(2, 1), models, validate=judge)
    assert set(seen) == {nn.Linear}
    assert made.weight.norm() <= min(model.weight.norm() for model in models)


def test_without_validation_it_is_refused() -> None:
    with pytest.raises(ValueError, match="uniform-average is the soup of all"):
        paperlab.load("model-soups")(BASE, [BASE])
