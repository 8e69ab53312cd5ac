"""ACT: a recurrent network decides for each input how many steps to think before it answers.

    s^n = S(s^(n-1), x^n),  x^n = x with a flag that is 1 when n = 1;    y^n = W_y s^n + b_y          (eqs 3, 4)
    h^n = sigmoid(W_h s^n + b_h)                                                                      (eq. 5)
    N   = min{most, min{n : h^1 + ... + h^n >= 1 - epsilon}},  R = 1 - (h^1 + ... + h^(N-1))          (eqs 8, 13)
    p^n = h^n for n < N,  p^N = R;     y = sum_n p^n y^n,  s = sum_n p^n s^n                          (eqs 6, 9)
    L   = cross-entropy + penalty * (N + R);     N counts as a constant in the gradient               (eqs 10-12, 2.2)

Graves, "Adaptive computation time for recurrent neural networks", arXiv 1603.08983. There is no code of the author.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.tuning import Batch

CARD = Card(
    paper="adaptive-computation-time",
    family="elastic",
    sources=("paper",),
    task="synthetic",
    metric="error",
    expect="lower",
    margin=0.1,
    method=Arm("adaptive-computation-time"),
    baseline=Arm("fixed-steps", inner=1),
    equal={"steps": 0.0},
    gap="Parity of 64 numbers, a million updates on each of 16 threads and 20 networks for each penalty, became parity "
    "of 8 numbers, 1,000 batches and five networks. A result here says nothing about sequences, LSTMs, logic, "
    "addition, sorting or text.",
    checks=(
        Check(
            claim="parity-error-drops",
            says="On parity, a network that chooses its steps makes far fewer errors than the same network with one "
            "step. Paper (figure 4): almost 40 % errors without, below 5 % with a penalty of 0.03 or less.",
        ),
        Check(
            claim="more-steps-for-harder-inputs",
            says="It spends more steps on inputs with more numbers to count. Paper (figure 6): steps grow linearly "
            "with their count in the more successful networks.",
            metric="hard_over_easy",
            expect="higher",
            margin=0.05,
        ),
        Check(
            claim="adaptive-better-than-three-fixed-steps",
            says="Is choosing better than always taking three steps, near the number that it takes on average?",
            baseline=Arm("fixed-steps", inner=3),
            role="question",
        ),
    ),
    departs=(
        "one input, so that the averaged state s (eq. 9), which only the next input would get, is not computed",
        "AdamW without weight decay, with warm-up and linear decay and the task's learning rates, in place of "
        "asynchronous Adam at 1e-4",
        "at most 20 inner steps (the paper: 100); one time penalty, 0.001, of the paper's grid, not tuned",
        "two logits and their cross-entropy in place of one sigmoid",
        "8 numbers: at 16, tried first, neither network left chance within 1,000 batches",
    ),
)


class Objective(nn.Module):
    """model: a recurrent network with `step(x, state, new)`, `head` and `width`.

    penalty: of a step of thought, in nats, at least 0. epsilon: how close to 1 the halting sum must come. most: steps
    at most. bias: of the halting unit at first; 1 makes it stop early.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, penalty: float = 0.001, epsilon: float = 0.01, most: int = 20,
        bias: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not hasattr(model, "step"):
            raise ValueError("ACT repeats a recurrent network's step, and this network has none")
        if penalty < 0 or not 0 <= epsilon < 1 or most < 1:
            raise ValueError(f"penalty={penalty}, epsilon={epsilon}, most={most}: at least 0, in [0, 1), at least 1")
        self.penalty = penalty
        self.network = Pondering(model, epsilon, most, bias)

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Cross-entropy, and the price of thinking."""
        logits, steps, remainder = self.network.ponder(**inputs)
        return F.cross_entropy(logits, labels) + self.penalty * (steps.detach() + remainder).mean()

    def result(self) -> nn.Module:
        """The network with its halting unit."""
        return self.network


class Pondering(nn.Module):
    """A recurrent network with a halting unit: (n, features) -> logits (n, classes)."""

    def __init__(self, model: Any, epsilon: float, most: int, bias: float) -> None:
        super().__init__()
        self.model, self.epsilon, self.most = model, epsilon, most
        self.halt = nn.Linear(model.width, 1)
        nn.init.constant_(self.halt.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) -> logits (n, classes)."""
        return self.ponder(x)[0]

    def ponder(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, classes), steps N (n,) and remainder R (n,). An example that has halted is computed along, and
        has no share in anything."""
        model: Any = self.model
        state = x.new_zeros(len(x), model.width)
        spent, steps, remainder = (x.new_zeros(len(x)) for _ in range(3))
        thinking = torch.ones(len(x), dtype=torch.bool, device=x.device)
        logits: Tensor | float = 0.0
        for number in range(1, self.most + 1):
            state = model.step(x, state, number == 1)
            halting = self.halt(state).sigmoid()[:, 0]
            last = thinking & ((spent + halting >= 1 - self.epsilon) | (number == self.most))
            weight = torch.where(last, 1 - spent, halting * thinking)
            logits = logits + weight[:, None] * model.head(state)
            remainder = torch.where(last, 1 - spent, remainder)
            steps = steps + thinking
            spent, thinking = spent + halting * (thinking & ~last), thinking & ~last
            if not thinking.any():
                break
        assert isinstance(logits, Tensor)
        return logits, steps, remainder

    def inner_steps(self, x: Tensor) -> Tensor:
        """(n,): steps taken for each input."""
        return self.ponder(x)[1]
