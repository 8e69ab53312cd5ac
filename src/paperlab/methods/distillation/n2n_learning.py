"""N2N learning: one policy removes layers of a network, a second narrows what is left; both learn from the reward.

    R = C (2 - C) * A / A_teacher,   C = share of parameters that are gone, A = accuracy of a briefly distilled student
    removal:   pi(a_1 .. a_L | layers), a two-layer bidirectional LSTM over the layers, keep or remove for each
    shrinkage: pi(a_l | a_1 .. a_(l-1), layers), a two-layer LSTM that is told what it decided last
    REINFORCE: after each `rollouts` students, gradient (mean R - b) log pi of each, b = mean of all means before

Ashok, Rhinehart, Beainy and Kitani, "N2N learning: network to network compression via policy gradient reinforcement
learning", arXiv 1709.06030. Code read: anubhavashok/N2N@544f5dd (run.py, rl.py, controllers/, architecture.py).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.searching import Choice, Space

CARD = Card(
    paper="n2n-learning",
    family="distillation",
    sources=("abstract", "code"),
    configuration="run.py, modes removal and shrinkage",
    task="shrink",
    method=Arm("n2n-learning"),
    equal={"steps": 0.0},
    gap="ResNets and VGGs on CIFAR, SVHN and Caltech, with 500 students in each stage, each trained for five epochs, "
    "became a perceptron of six hidden layers on noisy digits and 50 students in each stage: ten updates of a policy, "
    "so that this is close to the best of 100 draws by their reward. A result here says nothing about convolutions, "
    "skip connections, or policies that had the students to learn from.",
    checks=(
        Check(
            claim="much-smaller-at-similar-accuracy",
            says="The student that it finds is about as accurate as its teacher. Paper: more than ten times smaller "
            "for ResNet-34. How much smaller stands beside the figures.",
            metric="accuracy",
            expect="no worse",
            margin=0.02,
            baseline=Arm("uniform-widths"),
            trivial=Arm("uniform-widths", compression=0.9),
        ),
        Check(
            claim="policy-better-than-random-search",
            says="Does the policy find a better reward than random choices, with as many students trained?",
            metric="reward",
            expect="higher",
            margin=0.02,
            baseline=Arm("random-architectures"),
            equal={"steps": 0.0, "evaluations": 0.0},
            role="question",
        ),
    ),
    departs=(
        "the paper itself was not at hand; the code was",
        "hidden layers of a perceptron are removed and narrowed; the authors remove and narrow convolutions (also "
        "kernel, stride and padding) and never touch linear layers",
        "the code's table of factors names one half five times; here each factor stands once",
        "the second stage measures compression and accuracy against the teacher, as the first; the authors' second "
        "stage has the reduced network for a reference",
        "accuracies in the reward are of validation images (the authors' are of test images), after five epochs as in "
        "the code, but of 2,000 images, with Adam at 0.01 falling to 0 and without weight decay; the pick is then "
        "trained for as many steps as the teacher was",
        "the first check was changed after a verdict: students had 60 steps, which put deep ones last, the teacher was "
        "no wider than it had to be, and the pick stood beside a distilled copy of the teacher, not the teacher; on "
        "other seeds a uniform cut of ten times without any search comes within 1 % of this teacher, so that a pass "
        "says little of the search, and the check is not comparable where that cut passes too",
        "layers are described by place, width in and width out, divided by the largest; the authors give raw numbers",
        "the shrinkage policy learns at 0.01; the code says 0.1, with which its choices freeze within few updates",
        "transfer of a policy between teachers, the paper's second claim, is not tested",
    ),
)


def architecture(
    space: Space, evaluate: Callable[[Choice], float], budget: int, seed: int, *, rollouts: int = 5,
    removal_rate: float = 0.003, shrinkage_rate: float = 0.01, hidden: int = 30,
) -> tuple[float, ...]:  # fmt: skip
    """The best of `budget` choices: half of them by the removal policy, half by the shrinkage policy on the best of
    those.

    rollouts: students between two updates. removal_rate, shrinkage_rate: Adam's learning rates. hidden: units of the
    policies.
    """
    if rollouts < 1:
        raise ValueError(f"rollouts={rollouts}: a policy learns from one student at least")
    torch.manual_seed(seed)
    found: dict[Choice, float] = {}

    def tried(choice: Choice) -> float:
        found[choice] = evaluate(choice)
        return found[choice]

    removal = Removal(hidden)

    def remove() -> tuple[Choice, Tensor]:
        keep, log_probability = removal(described(space, space.whole))
        return (1.0, *keep[1:].double().tolist()), log_probability

    learn(removal, remove, tried, budget // 2, rollouts, removal_rate)
    best = max(found, key=lambda choice: found[choice]) if found else space.whole
    shrinkage = Shrinkage(hidden, torch.tensor(space.factors))

    def shrink() -> tuple[Choice, Tensor]:
        picked, log_probability = shrinkage(described(space, best))
        factors = iter(space.factors[index] for index in picked)
        return tuple(next(factors) if kept else 0.0 for kept in best), log_probability

    learn(shrinkage, shrink, tried, budget - budget // 2, rollouts, shrinkage_rate)
    return max(found, key=lambda choice: found[choice])


def learn(
    policy: nn.Module, draw: Callable[[], tuple[Choice, Tensor]], evaluate: Callable[[Choice], float], students: int,
    rollouts: int, rate: float,
) -> list[float]:  # fmt: skip
    """REINFORCE with the authors' baseline; the mean reward of each batch of rollouts.

    Every student of a batch has the batch's mean reward, and an optimizer step of its own, as in the code; the baseline
    is 0 for the first batch.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    means: list[float] = []
    while students > 0:
        batch = [draw() for _ in range(min(rollouts, students))]
        students -= len(batch)
        mean = sum(evaluate(choice) for choice, _ in batch) / len(batch)
        baseline = sum(means) / (len(means) + 1)  # the code divides by one too many
        gradients = [torch.autograd.grad(-(mean - baseline) * one, list(policy.parameters())) for _, one in batch]
        for gradient in gradients:
            for parameter, value in zip(policy.parameters(), gradient, strict=True):
                parameter.grad = value
            optimizer.step()
        means.append(mean)
    return means


def described(space: Space, choice: Choice) -> Tensor:
    """(layers, 3): place, width in and width out of each layer that is left, as shares of the largest."""
    sizes = (space.inputs, *space.units(choice))
    kept = [number for number, factor in enumerate(choice) if factor]
    largest = max(space.widths)
    return torch.tensor(
        [[place / len(choice), before / space.inputs, after / largest]
         for place, before, after in zip(kept, sizes, sizes[1:], strict=False)]
    )  # fmt: skip


class Removal(nn.Module):
    """Keeps or removes each layer, seeing all of them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, hidden, num_layers=2, bidirectional=True)
        self.output = nn.Linear(2 * hidden, 2)

    def forward(self, layers: Tensor) -> tuple[Tensor, Tensor]:
        """(layers, 3) -> 1 (keep) or 0 for each, and the log-probability of all of them."""
        choice = torch.distributions.Categorical(logits=self.output(self.lstm(layers[:, None])[0][:, 0]))
        keep = choice.sample()
        return keep, choice.log_prob(keep).sum()


class Shrinkage(nn.Module):
    """Picks a factor for one layer after the other, told what it picked last."""

    def __init__(self, hidden: int, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors
        self.cells = nn.ModuleList([nn.LSTMCell(4, hidden), nn.LSTMCell(hidden, hidden)])
        self.output = nn.Linear(hidden, len(factors))

    def forward(self, layers: Tensor) -> tuple[list[int], Tensor]:
        """(layers, 3) -> the index of a factor for each, and the log-probability of all of them."""
        states: list[tuple[Tensor, Tensor] | None] = [None, None]
        last, picked, total = torch.ones(1), list[int](), torch.zeros(())
        for layer in layers:
            x = torch.cat([layer, last])[None]
            for number, cell in enumerate(self.cells):
                states[number] = cell(x, states[number])
                x = states[number][0]  # type: ignore[index]
            choice = torch.distributions.Categorical(logits=self.output(x)[0])
            index = choice.sample()
            picked.append(int(index))
            last, total = self.factors[index][None], total + choice.log_prob(index)
        return picked, total
