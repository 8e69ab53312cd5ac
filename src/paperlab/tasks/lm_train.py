"""Training a small byte-level language model from scratch, once per seed: how well does it predict unseen text?

The network is `paperlab.kit.networks.decoder`, 222 thousand parameters; a method brings one part of it or of its
training. Training reads random windows of half the documents; validation and test windows come from the other half
and are always the same.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.texts import Text, TextError, load_text, split_documents
from paperlab.core.task import Metric
from paperlab.kit.networks import decoder
from paperlab.kit.training import Inputs, Trained, stored_bits

VERSION = 1
SCORES = ("Trained",)
SUPPLIES = ()
AXES = ("parameters", "bytes", "steps", "tokens")
TIMED = False
METRICS = {
    "bits_per_byte": Metric("lower", "bits"),
    "bits_at_double_length": Metric("lower", "bits_double"),
    "bits_on_other_text": Metric("lower", "bits_other"),
}
PAIRED_BY = "seeds"
COST = {"quick": 120, "full": 1200}
ARM_SECONDS = {"": 14}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "encyclopedia": "89 English Wikipedia articles, markup removed, CC BY-SA 3.0, from a pinned package",
    "code": "Python source files of gensim, LGPL-2.1-only, from the same package: the other text",
}
OTHER = {"encyclopedia": "code", "news": "code", "catalogue": "code", "code": "encyclopedia"}

VOCABULARY = 256  # bytes
WIDTH, HEADS, LAYERS, INNER = 64, 4, 4, 160
LENGTH = 64  # bytes that a window predicts in training
BATCH = 8  # windows
STEPS = {"quick": 600, "full": 3000, "gpu": 3000}  # at 8 x 64 bytes; fewer, larger steps learn next to nothing
RATES = (2e-3, 4e-3, 8e-3)  # tried by every arm
VALIDATION, TEST, SIDE = 128, 512, 128  # windows; SIDE: of double length, and of the other text
CHUNK = 64  # windows in a forward pass


@dataclass(frozen=True)
class Stream:
    """Training examples: `count` windows that begin at random places of a text. ids: (bytes,) int64."""

    ids: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """((windows (size, LENGTH),), the bytes that follow each (size, LENGTH)); places drawn by `generator`."""
        places = torch.randint(len(self.ids) - LENGTH, (self.count,), generator=generator)
        for starts in places.split(size):
            rows = self.ids[starts[:, None] + torch.arange(LENGTH + 1)]
            yield (rows[:, :-1],), rows[:, 1:]


@dataclass
class Setting:
    """The same text for every seed and arm, and how to make and train a network for it.

    validation, test: (n, LENGTH + 1) bytes; double: (n, 2 LENGTH + 1); other: of another text, or None.
    """

    train: Stream
    validation: Tensor
    test: Tensor
    double: Tensor
    other: Tensor | None
    about: dict[str, Any]
    batch: int = BATCH
    epochs: int = 1
    rates: tuple[float, ...] = RATES

    def network(self, parts: Mapping[str, Callable[..., Any]]) -> nn.Module:
        """A fresh network; after the same torch.manual_seed, parts that two arms share start from the same weights."""
        return decoder(
            parts, vocabulary=VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, inner=INNER, length=2 * LENGTH
        )

    def validate(self, network: nn.Module) -> float:
        """Minus the bits per byte on the validation windows."""
        return -bits(network, self.validation)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Texts cut into windows; `seed` draws nothing here, but the weights and batches of each arm.

    Raises ValueError for a model, TextError for a text that is missing or too short.
    """
    if model is not None:
        raise ValueError("this task trains its own small network; it takes --data, not --model")
    text = load_text(data or "encyclopedia")
    train, held_out = (_bytes(split_documents(text, split)) for split in ("calibration", "held-out"))
    middle = len(held_out) // 2
    other = load_text(OTHER[text.id]) if data is None or data in OTHER else None
    about = {**text.describe(), **({"other": other.id, "other_sha256": other.sha256} if other else {})}
    return Setting(
        train=Stream(train, STEPS[scale] * BATCH),
        validation=_windows(held_out[:middle], LENGTH, VALIDATION, text),
        test=_windows(held_out[middle:], LENGTH, TEST, text),
        double=_windows(held_out[middle:], 2 * LENGTH, SIDE, text),
        other=_windows(_bytes(split_documents(other, "held-out")), LENGTH, SIDE, other) if other else None,
        about=about,
    )


def _bytes(documents: tuple[str, ...]) -> Tensor:
    """The documents as one stream of bytes, (n,) int64, an empty line between them."""
    return torch.frombuffer(bytearray("\n\n".join(documents).encode()), dtype=torch.uint8).long()


def _windows(ids: Tensor, length: int, count: int, text: Text) -> Tensor:
    """(count, length + 1) bytes, evenly spread over `ids`, without overlap. Raises TextError if there are too few."""
    there = len(ids) // (length + 1)
    if there < count:
        raise TextError(
            f"text {text.id!r} is too short: {count} windows of {length + 1} bytes do not fit into a quarter of it; "
            f"give about {math.ceil(4 * count * (length + 1) / 1000)} kB"
        )
    starts = torch.arange(count) * (there // count) * (length + 1)
    return ids[starts[:, None] + torch.arange(length + 1)]


@torch.no_grad()
def bits(network: nn.Module, windows: Tensor) -> float:
    """Mean bits that the network needs for a byte of the windows, all but the first of each."""
    total = 0.0
    for rows in windows.split(CHUNK):
        logits = network(rows[:, :-1]).flatten(0, 1)
        total += F.cross_entropy(logits.double(), rows[:, 1:].flatten(), reduction="sum").item()
    return total / windows[:, 1:].numel() / math.log(2)


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hashes, counts and sizes; threads, which decide the order of sums."""
    return {
        "model": f"byte decoder, {LAYERS} x {WIDTH}",
        "data": setting.about,
        "window": LENGTH,
        "train_bytes": len(setting.train.ids),
        "validation_windows": len(setting.validation),
        "test_windows": len(setting.test),
        "steps": len(setting.train) // setting.batch,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test windows as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Trained, setting: Setting) -> dict[str, float]:
    """parameters, bytes they take, optimiser steps and bytes read in a run, the learning rate that was chosen."""
    return {
        "parameters": sum(parameter.numel() for parameter in arm.model.parameters()),
        "bytes": stored_bits(arm.model) / 8,
        "steps": arm.steps,
        "tokens": len(setting.train) * LENGTH,
        "rate": arm.rate,
    }


def score(arm: Trained, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """bits: per byte of the test windows. bits_double: of windows twice as long as those in training. bits_other: of
    another text, where the data is one of paperlab's own."""
    if start:
        return
    found = {"bits": bits(arm.model, setting.test), "bits_double": bits(arm.model, setting.double)}
    yield found if setting.other is None else {**found, "bits_other": bits(arm.model, setting.other)}
