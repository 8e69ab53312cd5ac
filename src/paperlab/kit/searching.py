"""Searching for a smaller network: the space that a search moves in, and what it leaves behind."""

from dataclasses import dataclass, field
from itertools import pairwise

Choice = tuple[float, ...]  # for each hidden layer of the large network the share of its units that stays; 0: removed


@dataclass(frozen=True)
class Space:
    """Networks that are a larger one with hidden layers removed or narrowed.

    widths: units of the large network's hidden layers. inputs, classes: its ends. factors: shares of a layer that may
    stay, in rising order, 1 the last. least: units that a layer keeps in any case. The first layer always stays.
    """

    widths: tuple[int, ...]
    inputs: int
    classes: int
    factors: tuple[float, ...]
    least: int = 10

    def check(self, choice: Choice) -> None:
        """Raises ValueError for a choice that is not in the space."""
        if len(choice) != len(self.widths) or not set(choice) <= {0.0, *self.factors} or not choice[0]:
            raise ValueError(
                f"{choice} is no choice: {len(self.widths)} shares are wanted, each 0 (removed) or one of "
                f"{self.factors}, and the first layer stays"
            )

    def units(self, choice: Choice) -> tuple[int, ...]:
        """Widths of the layers that are left."""
        return tuple(max(int(w * f), self.least) for w, f in zip(self.widths, choice, strict=True) if f)

    def parameters(self, choice: Choice) -> int:
        """Weights, biases and batch norms of the network that a choice describes."""
        units = self.units(choice)
        return sum((a + 1) * b for a, b in pairwise((self.inputs, *units, self.classes))) + 2 * sum(units)

    @property
    def whole(self) -> Choice:
        """The large network itself."""
        return (1.0,) * len(self.widths)

    def compression(self, choice: Choice) -> float:
        """Share of the large network's parameters that are gone."""
        return 1 - self.parameters(choice) / self.parameters(self.whole)


@dataclass
class Found:
    """An arm: the choice that a search settled on, its reward, how many it asked about, and the best reward after
    each of them."""

    choice: Choice
    reward: float
    evaluations: int
    curve: list[float] = field(default_factory=list)
