"""Which level each matrix gets: measured sensitivities, a Lagrangian allocation, an evolutionary refinement.

Sensitivity: the KL divergence of the whole model with one matrix alone at a level. One level is measured for each
matrix (tables: all); the others follow by the squared change of the matrix's outputs, to which KL is proportional as
long as it is small. The allocation adds these up, which ignores how errors meet; the evolution does not, as it measures
whole models. Blocks are dropped one after the other, that of the least KL alone first, as long as the whole model, its
other matrices allocated the bytes that this frees, comes nearer to the original.
"""

import heapq
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Choice = dict[str, str]  # level by matrix


@dataclass(frozen=True)
class Costs:
    """loss: estimated KL by matrix and level. bytes: by matrix and level. fixed: bytes of all else in the file."""

    loss: Mapping[str, Mapping[str, float]]
    bytes: Mapping[str, Mapping[str, int]]
    fixed: int

    def size(self, choice: Mapping[str, str]) -> int:
        """Bytes of the file."""
        return self.fixed + sum(self.bytes[name][level] for name, level in choice.items())

    def least(self) -> int:
        """Bytes of the smallest file."""
        return self.fixed + sum(min(by.values()) for by in self.bytes.values())

    def most(self) -> int:
        """Bytes of the largest file."""
        return self.fixed + sum(max(by.values()) for by in self.bytes.values())

    def without(self, names: Collection[str]) -> "Costs":
        """Of a model that has these matrices no more."""
        left = [name for name in self.loss if name not in names]
        return Costs({name: self.loss[name] for name in left}, {name: self.bytes[name] for name in left}, self.fixed)

    def hull(self, name: str) -> list[str]:
        """A matrix's levels on the lower convex hull of loss over bytes, from the smallest up."""
        points = sorted(self.loss[name], key=lambda level: (self.bytes[name][level], self.loss[name][level]))
        kept: list[str] = []
        for level in points:
            if kept and self.loss[name][level] >= self.loss[name][kept[-1]]:
                continue
            while len(kept) > 1 and self._slope(name, kept[-2], kept[-1]) <= self._slope(name, kept[-1], level):
                kept.pop()
            kept.append(level)
        return kept

    def _slope(self, name: str, low: str, high: str) -> float:
        """KL that a byte more buys between two levels."""
        gain = self.loss[name][low] - self.loss[name][high]
        return gain / max(self.bytes[name][high] - self.bytes[name][low], 1)


def allocate(costs: Costs, budget: int) -> Choice | None:
    """The levels of least summed loss in at most `budget` bytes: steps up each hull, the best buy first.

    That is the solution of the Lagrangian for the multiplier at which the budget is met (Shoham and Gersho 1988); what
    is left over then goes to the next buys that fit. None where even the smallest levels are too large.
    """
    hulls = {name: costs.hull(name) for name in costs.loss}
    at = dict.fromkeys(hulls, 0)
    size = costs.size({name: hull[0] for name, hull in hulls.items()})
    if size > budget:
        return None
    queue: list[tuple[float, str]] = []

    def offer(name: str) -> None:
        hull, here = hulls[name], at[name]
        if here + 1 < len(hull):
            heapq.heappush(queue, (-costs._slope(name, hull[here], hull[here + 1]), name))

    for name in hulls:
        offer(name)
    while queue:
        _, name = heapq.heappop(queue)
        hull, here = hulls[name], at[name]
        more = costs.bytes[name][hull[here + 1]] - costs.bytes[name][hull[here]]
        if size + more <= budget:
            at[name], size = here + 1, size + more
            offer(name)
    return {name: hull[at[name]] for name, hull in hulls.items()}


@dataclass
class Found:
    """The best choice so far, its measured KL, the generation, and the KL after each generation."""

    choice: Choice
    kl: float
    generation: int = 0
    history: list[float] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"choice": self.choice, "kl": self.kl, "generation": self.generation, "history": self.history}


def evolve(
    costs: Costs,
    start: Found,
    measure: Callable[[Choice], float],
    *,
    budget: int,
    generations: int,
    children: int,
    seed: int,
    kept: Callable[[Found], None],
) -> Found:
    """Refine a choice by mutation and selection on the measured loss (as EvoPress, arXiv 2410.14649, does).

    A child lifts a few matrices by one level and lowers others until the budget is met again; a child that is better
    replaces its parent at once. Every generation draws from a seed of its own, so that one that begins with
    `start.generation` goes on as an unbroken search would. kept: called after each generation.
    """
    found = start
    hulls = {name: _ladder(costs, name) for name in costs.loss}
    while found.generation < generations:
        rng = random.Random(f"{seed} {found.generation}")
        for _ in range(children):
            child = mutated(costs, found.choice, hulls, budget, rng)
            if child is None or child == found.choice:
                continue
            kl = measure(child)
            if kl < found.kl:
                found.choice, found.kl = child, kl
        found.generation += 1
        found.history.append(found.kl)
        kept(found)
    return found


def _ladder(costs: Costs, name: str) -> list[str]:
    return sorted(costs.bytes[name], key=lambda level: costs.bytes[name][level])


def mutated(
    costs: Costs, parent: Choice, ladders: Mapping[str, Sequence[str]], budget: int, rng: random.Random
) -> Choice | None:
    """A neighbour of `parent` within the budget; None where none was found."""
    child = dict(parent)
    names = list(child)

    def move(name: str, by: int) -> bool:
        ladder = ladders[name]
        to = ladder.index(child[name]) + by
        if 0 <= to < len(ladder):
            child[name] = ladder[to]
            return True
        return False

    lifted = {name for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2, 3)))) if move(name, 1)}
    rest = [name for name in names if name not in lifted]
    rng.shuffle(rest)
    size = costs.size(child)
    while size > budget and rest:
        name = rest.pop()
        if move(name, -1):
            size = costs.size(child)
    return child if size <= budget else None
