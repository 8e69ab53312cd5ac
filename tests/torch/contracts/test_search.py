"""What every search promises: choices of the space, within the budget, the same for the same seed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_cases import Case, cases

from paperlab.kit.searching import Choice, Space
from paperlab.lab.drivers.search import build, use

SPACE = Space((16, 16, 16), 6, 3, (0.25, 0.5, 1.0), least=2)


def reward(choice: Choice) -> float:
    return SPACE.compression(choice) - 0.3 * sum(not factor for factor in choice)


def architecture(case: Case, call: Any) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    setting = SimpleNamespace(space=SPACE, budget=12, reward=reward)
    found = [build(case.functions(), case.params, setting=setting, seed=seed) for seed in (3, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert 1 <= found[0].evaluations <= 12
    assert len(found[0].curve) == found[0].evaluations
    assert found[0].reward == reward(found[0].choice)
    asked: list[Choice] = []

    def evaluate(choice: Choice) -> float:
        SPACE.check(choice)
        asked.append(choice)
        return reward(choice)

    assert call(SPACE, evaluate, 7, 0) in asked
    assert len(asked) <= 7


CONTRACTS = {"architecture": architecture}


def first(space: Space, evaluate: Callable[[Choice], float]) -> Choice:
    evaluate(space.whole)
    return space.whole


PLANTED: dict[str, Callable[..., Any]] = {"architecture": first}
BROKEN: list[tuple[Callable[..., Any], str]] = [
    (lambda space, evaluate: [evaluate(space.whole) for _ in range(13)] and space.whole, "more often"),
    (lambda space: space.whole, "never asked"),
    (lambda evaluate: evaluate((0.0, 1.0, 1.0)), "is no choice"),
    (lambda evaluate: evaluate((0.3, 1.0, 1.0)), "is no choice"),
]


@pytest.mark.parametrize("case", cases("search", PLANTED), ids=str)
def test_a_search_keeps_what_its_driver_promises(case: Case) -> None:
    plugged = use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params)  # type: ignore[arg-type]
    architecture(case, plugged)


@pytest.mark.parametrize(("broken", "words"), BROKEN)
def test_a_search_that_breaks_a_promise_is_refused(broken: Callable[..., Any], words: str) -> None:
    setting = SimpleNamespace(space=SPACE, budget=12, reward=reward)
    with pytest.raises(ValueError, match=words):
        build({"architecture": broken}, {}, setting=setting)
