"""Searching a space of networks: each arm may ask for the reward of so many, and settles on one of those.

Equal between arms: the space, the reward (the same network always has the same), and how often it may be asked; asking
twice about one network counts twice.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from paperlab.core.methods import Method
from paperlab.kit.searching import Choice, Found, Space
from paperlab.lab.drivers._common import Progress, in_order, silent

SAYS = "searches a space of networks for the best one"
BUILDS = "Found"
STARTS_FROM = ()
DRAWS = True  # a search draws by its seed

VERBS = {
    "architecture": {
        "says": "asks evaluate(choice) for rewards, at most `budget` times, and gives back one of the choices that it "
        "asked about",
        "supplies": ("space", "evaluate", "budget", "seed"),
        "data": (),
        "returns": ("tuple",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
choice = {variable}(space, evaluate, 20, 0)  # evaluate(choice) -> reward, at most 20 times; seed 0""",
    },
}


class Setting(Protocol):
    """What this driver needs of a task's setting. reward(choice): higher is better, always the same for a choice."""

    space: Space
    budget: int

    def reward(self, choice: Choice) -> float:
        """How good a choice is, by validation data."""


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    start: None = None,
    progress: Progress = silent,
) -> Found:
    """An arm of a check. Raises ValueError for a search that asks too often, or settles on what it did not ask about.

    The global random state is left as it was.
    """
    asked: dict[Choice, float] = {}
    curve: list[float] = []

    def evaluate(choice: Choice) -> float:
        choice = tuple(map(float, choice))
        setting.space.check(choice)
        if len(curve) >= setting.budget:
            raise ValueError(f"the search asked more often than its {setting.budget} times")
        asked[choice] = setting.reward(choice)
        curve.append(max(asked[choice], curve[-1] if curve else asked[choice]))
        progress("networks", len(curve), setting.budget)
        return asked[choice]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = in_order(functions["architecture"], params, VERBS["architecture"])(
            setting.space, evaluate, setting.budget, seed
        )
    chosen = tuple(map(float, chosen))
    if chosen not in asked:
        raise ValueError(f"the search settled on {chosen}, about which it never asked")
    return Found(chosen, asked[chosen], len(curve), curve)


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """The search with its parameters set: (space, evaluate, budget, seed) -> choice."""
    return in_order(functions["architecture"], params, VERBS["architecture"])
