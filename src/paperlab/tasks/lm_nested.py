"""A small byte-level language model that is to be good at several widths: how well does each predict unseen text?

Text, windows and their bits are those of `lm_train`; the network is `paperlab.kit.nested`, 295 thousand parameters,
whose feed-forward layers are judged at all units, at a half, a quarter and an eighth, and at a mixture over layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.task import Metric
from paperlab.kit.nested import Nested, Size, Sized
from paperlab.kit.tuning import Batch, Tuned
from paperlab.tasks import lm_train
from paperlab.tasks.lm_train import BATCH, CHUNK, HEADS, LAYERS, LENGTH, VOCABULARY, WIDTH, Stream, bits

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps", "tokens", "passes", "sizes", "whole")
TIMED = False
METRICS = {
    "bits_full": Metric("lower", "full"),
    "bits_half": Metric("lower", "half"),
    "bits_quarter": Metric("lower", "quarter"),
    "bits_eighth": Metric("lower", "eighth"),
    "bits_mixed": Metric("lower", "mixed"),
    "acceptance": Metric("higher", "acceptance"),
}
PAIRED_BY = "seeds"
COST = {"quick": 170, "full": 1500}
ARM_SECONDS = {"": 12}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {"abstracts-8k": "titles and abstracts of 8,000 arXiv papers, bundled, CC0; 482 of them are held out"}

INNER = 256  # units of a feed-forward layer: four times the width, as is usual
STEPS = {"quick": 400, "full": 2000, "gpu": 2000}
RATES = (4e-3, 8e-3, 1.6e-2)  # tried by every arm
SIZES: dict[str, Size] = {
    "full": (1.0,) * LAYERS,
    "half": (0.5,) * LAYERS,
    "quarter": (0.25,) * LAYERS,
    "eighth": (0.125,) * LAYERS,
    "mixed": (0.25, 0.25, 0.5, 1.0),  # as many units as a half, and of each layer a width that is trained above
}


@dataclass
class Setting:
    """A fresh network (`model`) where every arm starts. validation, test: (n, LENGTH + 1) bytes."""

    model: nn.Module
    train: Stream
    validation: Tensor
    test: Tensor
    steps: int
    about: dict[str, Any]
    batch: int = BATCH
    rates: tuple[float, ...] = RATES
    teacher: nn.Module | None = None

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Windows at random places and the bytes that follow, without end."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            for (ids,), labels in self.train.batches(self.batch, draw):
                yield {"ids": ids}, labels

    def validate(self, model: Any) -> float:
        """Minus the bits per byte on the validation windows, as a mean over the sizes that it was trained for."""
        return -sum(bits(model.at(size), self.validation) for size in model.sizes) / len(model.sizes)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """A fresh network by the seed; texts as `lm_train` cuts them. Raises ValueError and TextError as it does."""
    windows = lm_train.make(seed, scale, model=model, data=data or next(iter(DATA)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Nested(VOCABULARY, WIDTH, HEADS, LAYERS, INNER, 2 * LENGTH).eval()
    return Setting(network, windows.train, windows.validation, windows.test, STEPS[scale], windows.about)


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hashes, counts and sizes; threads, which decide the order of sums."""
    return {
        "model": f"nested byte decoder, {LAYERS} x {WIDTH}, {INNER} inner units",
        "data": setting.about,
        "window": LENGTH,
        "train_bytes": len(setting.train.ids),
        "validation_windows": len(setting.validation),
        "test_windows": len(setting.test),
        "steps": setting.steps,
        "rates": list(setting.rates),
        "sizes": {name: list(size) for name, size in SIZES.items()},
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test windows as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters of all networks together, optimiser steps, passes of a batch through a network, bytes that each size
    read in training (on average, where sizes are drawn), the learning rate that was chosen, how many sizes there are.
    whole: bits per byte of the whole network, by which a check of `acceptance` can ask for equal quality."""
    model: Any = arm.model
    passes = arm.steps * model.passes
    return {
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        "steps": float(arm.steps),
        "passes": float(passes),
        "tokens": passes * setting.batch * LENGTH / len(model.sizes),
        "whole": bits(model.at(SIZES["full"]), setting.test),
        "rate": arm.rate,
        "sizes": float(len(model.sizes)),
    }


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Bits per byte of the test windows at each of SIZES. acceptance: the share of the smallest network's drafts
    that the whole one accepts in speculative sampling, as expected on real text (not on drafts): the mean sum over
    bytes of min(p, q) (Leviathan et al., 2211.17192, section 3.2). Two networks that agree have 1, however bad."""
    if start:
        return
    model: Any = arm.model
    yield {
        **{name: bits(model.at(size), setting.test) for name, size in SIZES.items()},
        "acceptance": acceptance(model, setting.test),
    }


@torch.no_grad()
def acceptance(model: Sized, windows: Tensor) -> float:
    """Mean overlap of the smallest network's next-byte distribution with that of the whole one."""
    small, whole = model.at(SIZES["eighth"]), model.at(SIZES["full"])
    total = 0.0
    for rows in windows.split(CHUNK):
        draft, target = (network(rows[:, :-1]).double().softmax(-1) for network in (small, whole))
        total += torch.minimum(draft, target).sum().item()
    return total / windows[:, 1:].numel()
