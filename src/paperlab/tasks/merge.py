"""Merging classifiers that began as one and then each learnt a task of its own: how well does one model do them all?

Five tasks of two handwritten digits each, with noise. A weak base sees a few examples of all digits; each sibling goes
on from it with the examples of its own pair. A merged model is asked, as each sibling was, which of a pair's two
digits an image shows.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.digits import small_digits
from paperlab.core.task import Metric
from paperlab.kit.merging import Merged
from paperlab.kit.training import Split, accuracy, fit_split, held_out

VERSION = 1
SCORES = ("Merged",)
SUPPLIES = ("base", "models")
AXES = ("bytes", "models")
TIMED = False
METRICS = {
    "accuracy": Metric("higher", "correct"),
    "cross_entropy": Metric("lower", "nats"),
    "accuracy_0_1": Metric("higher", "correct_0_1"),
    "accuracy_2_3": Metric("higher", "correct_2_3"),
    "accuracy_4_5": Metric("higher", "correct_4_5"),
    "accuracy_6_7": Metric("higher", "correct_6_7"),
    "accuracy_8_9": Metric("higher", "correct_8_9"),
}
PAIRED_BY = "items"
DRAWS = True  # the seed draws the models themselves, so that every arm depends on it
ARM_SECONDS = {"": 2}
COST = {"quick": 30, "full": 120}
SEEDS = {"quick": 10, "full": 30, "gpu": 30}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {"digits": "1,797 handwritten digits, 8 x 8 pixels (Alpaydin and Kaynak 1998), carried by scikit-learn, BSD"}

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
NOISE = 0.5  # standard deviation; pixels are 0 to 1. Without it every pair is solved by everything
WIDTH = 128
TEST, VALIDATION = 50, 20  # images of each digit; the test images are the same for all seeds
FEW = 200  # images that the base sees
EPOCHS = {"base": 4, "sibling": 20}
BATCH = 32
RATE = 3e-3
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4)  # tried by every method that has such a factor


class Pair(nn.Module):
    """A network's logits for two of its classes: a task's own head."""

    def __init__(self, network: nn.Module, pair: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.pair = network, list(pair)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 64) -> (n, 2)."""
        return self.network(x)[:, self.pair]


@dataclass
class Setting:
    """base: what all began as. models: one for each pair. validation, test: for each pair, images and which of its
    two digits they show; the base and the siblings saw none of them."""

    base: nn.Module
    models: list[nn.Module]
    validation: list[Split]
    test: list[Split]
    about: dict[str, Any]
    scales: tuple[float, ...] = SCALES

    def validate(self, model: nn.Module) -> float:
        """Mean over the pairs of the accuracy on validation images."""
        found = [accuracy(Pair(model, pair), split) for pair, split in zip(PAIRS, self.validation, strict=True)]
        return sum(found) / len(found)


def network() -> nn.Module:
    """A perceptron with two hidden layers: (n, 64) pixels -> (n, 10) logits."""
    return nn.Sequential(
        nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
    )  # fmt: skip


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The base and its siblings, trained once for each seed and kept in the cache, with the images to judge by.

    The seed draws the split into examples of the base, of the siblings and for validation, and all training.
    """
    if model is not None or data is not None:
        raise ValueError("this task trains its own small models on digits; it takes neither --model nor --data")
    images, labels, digest = small_digits()
    images = images.flatten(1)
    images = images + NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    test, validation, rest = held_out(labels, seed, TEST, VALIDATION)
    few, own = rest[:FEW], rest[FEW:]

    def train() -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = network()
            fit_split(base, Split((images[few],), labels[few]), EPOCHS["base"], BATCH, rate=RATE, seed=seed)
            siblings = [copy.deepcopy(base) for _ in PAIRS]
            for number, (pair, split) in enumerate(zip(PAIRS, _by_pair(images, labels, own), strict=True)):
                one = Pair(siblings[number], pair)
                fit_split(one, split, EPOCHS["sibling"], BATCH, rate=RATE, seed=100 * seed + number)
        states = {"base": base.state_dict(), **{str(n): s.state_dict() for n, s in enumerate(siblings)}}
        return {f"{which}/{name}": tensor for which, state in states.items() for name, tensor in state.items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    weights = cached_tensors("merge", key, train, code=__file__)
    models = [network().eval() for _ in range(len(PAIRS) + 1)]
    for which, made in zip(("base", *map(str, range(len(PAIRS)))), models, strict=True):
        made.load_state_dict({name: weights[f"{which}/{name}"] for name in made.state_dict()})
    about = {"id": "digits", "sha256": digest, "examples": len(labels)}
    return Setting(
        base=models[0],
        models=models[1:],
        validation=_by_pair(images, labels, validation),
        test=_by_pair(images, labels, test),
        about=about,
    )


def _by_pair(images: Tensor, labels: Tensor, rows: Tensor) -> list[Split]:
    """For each pair its images among `rows`, labelled 0 and 1."""
    found = []
    for first, second in PAIRS:
        mine = rows[(labels[rows] == first) | (labels[rows] == second)]
        found.append(Split((images[mine],), (labels[mine] == second).long()))
    return found


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts and sizes; threads, which decide the order of sums."""
    return {
        "model": f"perceptron, 2 x {WIDTH}, and {len(setting.models)} siblings",
        "data": setting.about,
        "noise": NOISE,
        "validation": sum(map(len, setting.validation)),
        "test": sum(map(len, setting.test)),
        "scales": list(setting.scales),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """Number of items: one holds a test image of every pair."""
    return len(setting.test[0])


def totals(arm: Merged, setting: Setting) -> dict[str, float]:
    """models that went in, bytes of the one that came out, and the factor where one was chosen."""
    found = {"models": float(arm.models), "bytes": 4.0 * sum(p.numel() for p in arm.model.parameters())}
    return found if arm.scale is None else {**found, "scale": arm.scale}


def score(arm: Merged, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct: share of an item's images that the merged model gets right; correct_0_1 and so on: whether that pair's
    is right. nats: mean negative log-likelihood of the right digits."""
    names = [f"correct_{first}_{second}" for first, second in PAIRS]
    right, nats = [], []
    with torch.no_grad():
        for pair, split in zip(PAIRS, setting.test, strict=True):
            logits = Pair(arm.model, pair)(split.inputs[0]).double()
            right.append((logits.argmax(-1) == split.labels).double())
            nats.append(F.cross_entropy(logits, split.labels, reduction="none"))
    for item in range(start, items(setting)):
        found = [float(column[item]) for column in right]
        mean = sum(float(column[item]) for column in nats) / len(PAIRS)
        yield {"correct": sum(found) / len(PAIRS), "nats": mean, **dict(zip(names, found, strict=True))}
