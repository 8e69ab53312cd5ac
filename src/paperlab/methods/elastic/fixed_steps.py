"""A fixed number of inner steps: the recurrent network sees each input so many times, whatever it is.

With one step it is the plain network. It is what methods that choose their number of steps are compared with.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")


class Objective(nn.Module):
    """model: a recurrent network with `step(x, state, new)`, `head` and `width`. inner: steps for each input, 1 or
    more."""

    def __init__(self, model: nn.Module, setting: Any, *, inner: int = 1) -> None:
        super().__init__()
        if inner < 1:
            raise ValueError(f"inner={inner}: at least one step is needed for an output")
        if not hasattr(model, "step"):
            raise ValueError("fixed-steps repeats a recurrent network's step, and this network has none")
        self.network = Repeated(model, inner)

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Cross-entropy with the labels."""
        return F.cross_entropy(self.network(**inputs), labels)

    def result(self) -> nn.Module:
        """The network that takes so many steps."""
        return self.network


class Repeated(nn.Module):
    """A recurrent network that is run `inner` times on the same input."""

    def __init__(self, model: nn.Module, inner: int) -> None:
        super().__init__()
        self.model, self.inner = model, inner

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) -> logits (n, classes) after the last step."""
        model: Any = self.model
        state = x.new_zeros(len(x), model.width)
        for number in range(self.inner):
            state = model.step(x, state, number == 0)
        return model.head(state)

    def inner_steps(self, x: Tensor) -> Tensor:
        """(n,): the same for every input."""
        return x.new_full((len(x),), self.inner)
