"""Embeddings for classification, trained on the states of a frozen encoder: how many held-out texts are put into
their class, from all coordinates of the last layer and from the first 8, 16 ... 256 of them?

    accuracy, accuracy_8 ...      by the arm's own classifier where it has one for that number of coordinates, else by
                                  a logistic regression fitted to the finished embeddings of the training texts
    neighbour, neighbour_8 ...    by the class of the nearest training text (cosine), no classifier at all
    accuracy_sizes                mean of accuracy over all seven sizes

What is trained is a path of six blocks beside the encoder (`paperlab.kit.embedding`), on cached states. Test parts of
different seeds do not overlap; their training parts do. Steps and rates were set for one classifier over all
coordinates on the first seed's validation part. Every arm keeps the rate with the highest `accuracy_sizes` there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from paperlab.assets.labelled import labelled
from paperlab.core.task import Metric
from paperlab.kit.embedding import Embedder, Labelled, Ladder, cosines, probe
from paperlab.tasks.embed import DROPOUT, INNER, LAYERS, SIZES, encoded, trained_on

VERSION = 1
SCORES = ("Embedder",)
SUPPLIES = ()
AXES = ("steps", "texts", "trained")
TIMED = False
METRICS = {
    "accuracy": Metric("higher", "accuracy"),
    **{f"accuracy_{size}": Metric("higher", f"accuracy_{size}") for size in (*SIZES, "sizes")},
    "neighbour": Metric("higher", "neighbour"),
    **{f"neighbour_{size}": Metric("higher", f"neighbour_{size}") for size in SIZES},
}
PAIRED_BY: Literal["items", "seeds"] = "seeds"
COST = {"quick": 110, "full": 900}
MODELS = ("minilm-l6",)
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
ARM_SECONDS = {"minilm-l6": 9}
DATA = {
    "questions": "5,332 questions in 42 classes of ten at least (TREC; Li and Roth 2002), from a pinned package",
    "movie-reviews": "10,070 sentences of film reviews, good or bad (Hutto and Gilbert 2014), from the same package",
}

TOKENS = 32
BATCH = 64
STEPS = {"quick": 500, "full": 1500, "gpu": 1500}
RATES = (3e-4, 1e-3, 3e-3)  # tried by every arm
VALIDATION = 0.15  # share of all texts


@dataclass
class Setting:
    """States of all texts with their labels, and which of them the seed trains on, chooses a rate by and tests on."""

    all: Labelled
    seeds: int
    train: Labelled
    validation: Labelled
    test: Labelled
    classes: int
    about: dict[str, Any]
    steps: int
    batch: int = BATCH
    rates: tuple[float, ...] = RATES
    layers: int = LAYERS

    @property
    def width(self) -> int:
        """Coordinates of an embedding."""
        return self.all.texts.shape[-1]

    def network(self) -> nn.Module:
        """A fresh path beside the encoder; after the same torch.manual_seed, the same weights."""
        return Ladder(self.layers, self.width, INNER, DROPOUT)

    def validate(self, arm: Embedder) -> float:
        """Accuracy on validation texts, the mean over all sizes: one figure for arms that are trained for different
        ones."""
        return figures(arm, self, self.validation)["accuracy_sizes"]


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """States of the texts, from the cache or computed now, and the split of the seed.

    Raises ModelError, PackageError; ValueError for unknown data and an encoder with too few layers or coordinates.
    """
    name = data or "questions"
    if name not in DATA:
        raise ValueError(f"this task has no data {name!r}; it takes {', '.join(DATA)}")
    found = labelled(name)
    cached, about = encoded(
        "embed_classify",
        model or MODELS[0],
        {"texts": (found.texts, TOKENS)},
        {"texts": found.sha256, "tokens": TOKENS},
        {"id": found.id, "sha256": found.sha256, "texts": len(found.texts)},
    )
    names = sorted(set(found.labels))
    every = Labelled(cached["texts"], torch.tensor([names.index(label) for label in found.labels]))
    return remake(Setting(every, SEEDS[scale], every, every, every, len(names), about, STEPS[scale]), seed)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting with the split of another seed: its fold of one division is the test part."""
    count = len(setting.all)
    fold = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % setting.seeds
    mine = fold == seed % setting.seeds
    rest = (~mine).nonzero()[:, 0]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    end = round(VALIDATION * count)
    train, validation, test = (setting.all.rows(rows) for rows in (rest[end:], rest[:end], mine.nonzero()[:, 0]))
    return replace(setting, train=train, validation=validation, test=test)


def describe(setting: Setting) -> dict[str, Any]:
    """Encoder and texts with their hashes, counts; threads, which decide the order of sums."""
    return {**setting.about, "classes": setting.classes, "tokens": TOKENS, **trained_on(setting)}


def items(setting: Setting) -> int:
    """One: the test part as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Embedder, setting: Setting) -> dict[str, float]:
    """Optimiser steps, texts seen, trained parameters, the learning rate that was chosen."""
    seen = arm.steps * min(setting.batch, len(setting.train))
    return {"steps": arm.steps, "texts": seen, "trained": arm.trained, "rate": arm.rate}


def score(arm: Embedder, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Shares of test texts that are put into their class."""
    if not start:
        yield figures(arm, setting, setting.test)


def figures(arm: Embedder, setting: Setting, part: Labelled) -> dict[str, float]:
    """All values of METRICS, from these texts."""
    known, asked = arm.embed(setting.train.texts)[-1], arm.embed(part.texts)[-1]
    with torch.no_grad():
        own = {} if arm.classifiers is None else arm.classifiers(asked)
    found: dict[str, float] = {}
    for size in (*SIZES, setting.width):
        name = "" if size == setting.width else f"_{size}"
        logits = own.get(size)
        if logits is None:
            with torch.no_grad():
                logits = probe(known[:, :size], setting.train.labels, setting.classes)(asked[:, :size])
        nearest = setting.train.labels[cosines(asked[:, :size], known[:, :size]).argmax(-1)]
        for what, said in (("accuracy", logits.argmax(-1)), ("neighbour", nearest)):
            found[what + name] = (said == part.labels).double().mean().item()
    found["accuracy_sizes"] = sum(found["accuracy" + part] for part in ("", *(f"_{size}" for size in SIZES))) / 7
    return found
