"""Training a small classifier from scratch, once per seed: how many held-out examples does it get right?

Default: handwritten digits and a multi-layer perceptron. With `--data FILE` of "label text" lines: a bag-of-words
perceptron (mean of word embeddings, as in Galke and Scherp, 2109.03777).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.task import Metric
from paperlab.kit.training import Inputs, Split, Trained, accuracy, stored_bits

VERSION = 2  # learning rates are chosen on the first seed, once per arm
SCORES = ("Trained",)
SUPPLIES = ()
AXES = ("bytes", "steps")
TIMED = False
METRICS = {"accuracy": Metric("higher", "correct"), "cross_entropy": Metric("lower", "nats")}
PAIRED_BY = "seeds"
COST = {"quick": 100, "full": 900}
ARM_SECONDS = {"": 10}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {"digits": "1,797 handwritten digits, 8 x 8 pixels (Alpaydin and Kaynak 1998), carried by scikit-learn, BSD"}

HIDDEN = 256
DROPOUT = 0.5
EPOCHS = {"quick": 15, "full": 60, "gpu": 60}
BATCH = 64
RATES = (1e-3, 3e-3, 1e-2)  # tried by every arm
SHARES = (0.6, 0.15)  # of training and validation; the rest is the test set
VOCABULARY = 20_000  # most frequent words of the training texts
WORDS = 256  # of a text are read


class Perceptron(nn.Module):
    """Two hidden layers of width HIDDEN with ReLU and dropout; every linear layer comes from `linear`.

    words: size of the vocabulary (the first layer is then a mean of word embeddings), or None for features.
    """

    def __init__(self, width: int, classes: int, linear: Callable[..., nn.Module], words: int | None = None) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(words, HIDDEN, mode="mean", padding_idx=0) if words else None
        self.first = None if words else linear(width, HIDDEN, True)
        self.second = linear(HIDDEN, HIDDEN, True)
        self.last = linear(HIDDEN, classes, True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) float or (n, words) int64, 0 for none -> logits (n, classes)."""
        hidden = self.embed(x) if self.embed is not None else self.first(x)  # type: ignore[misc]
        for layer in (self.second, self.last):
            hidden = layer(F.dropout(hidden.relu(), DROPOUT, self.training))
        return hidden


@dataclass
class Setting:
    """Splits drawn by the seed (the same for every arm), and how to make and train a network for them."""

    train: Split
    validation: Split
    test: Split
    classes: int
    words: int | None
    provenance: dict[str, Any]
    epochs: int
    batch: int = BATCH
    rates: tuple[float, ...] = RATES

    def network(self, parts: Mapping[str, Callable[..., Any]]) -> nn.Module:
        """A fresh network; two calls after the same torch.manual_seed start from the same weights."""
        return Perceptron(self.train.inputs[0].shape[1], self.classes, parts["linear"], self.words)

    def validate(self, network: nn.Module) -> float:
        """Accuracy on the validation split."""
        return accuracy(network, self.validation)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Train, validation and test splits drawn by `seed`. Raises ValueError for a file that cannot be used."""
    if model is not None:
        raise ValueError("this task trains its own small network; it takes --data, not --model")
    draw = torch.Generator().manual_seed(seed)
    if data is None:
        from sklearn.datasets import load_digits

        table = load_digits()
        features, labels = torch.tensor(table.data / 16, dtype=torch.float32), torch.tensor(table.target)
        digest = hashlib.sha256(table.data.tobytes() + table.target.astype("int64").tobytes()).hexdigest()[:16]
        splits = _split((features,), labels, draw)
        about = {"data": "digits", "hash": digest, "examples": len(labels)}
        return Setting(*splits, classes=10, words=None, provenance=about, epochs=EPOCHS[scale])
    names, texts, digest = _read(Path(data))
    known = sorted(set(names))
    labels = torch.tensor([known.index(name) for name in names])
    order = _split((torch.arange(len(texts)),), labels, draw)
    counts = Counter(word for row in order[0].inputs[0].tolist() for word in texts[row])
    vocabulary = {word: code for code, (word, _) in enumerate(counts.most_common(VOCABULARY), 2)}  # 0 none, 1 unknown
    table_of = torch.zeros(len(texts), max(min(max(map(len, texts)), WORDS), 1), dtype=torch.int64)
    for row, words in enumerate(texts):
        codes = torch.tensor([vocabulary.get(word, 1) for word in words[:WORDS]] or [1])
        table_of[row, : len(codes)] = codes
    splits = tuple(Split((table_of[part.inputs[0]],), part.labels) for part in order)  # type: ignore[assignment]
    about = {"data": Path(data).name, "hash": digest, "examples": len(labels)}
    words_known = len(vocabulary) + 2
    return Setting(*splits, classes=len(known), words=words_known, provenance=about, epochs=EPOCHS[scale])


def _split(inputs: Inputs, labels: Tensor, draw: torch.Generator) -> tuple[Split, Split, Split]:
    order = torch.randperm(len(labels), generator=draw)
    ends = [math.floor(len(order) * sum(SHARES[: count + 1])) for count in range(2)]
    parts = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    train, validation, test = (Split(tuple(x[rows] for x in inputs), labels[rows]) for rows in parts)
    return train, validation, test


def _read(path: Path) -> tuple[list[str], list[list[str]], str]:
    """Labels, lower-cased words and hash of a file of "label text" lines (split at line feeds only)."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --data takes a text file of lines 'label text'")
    raw = path.read_bytes()
    rows = [line.split(maxsplit=1) for line in raw.decode("utf-8", "replace").split("\n") if line.strip()]
    names = [row[0] for row in rows]
    if len(rows) < 100 or len(set(names)) < 2 or len(set(names)) > len(rows) // 10:
        raise ValueError(
            f"{path}: {len(rows)} lines with {len(set(names))} labels; each line is 'label text', "
            "with at least 100 lines, two labels, and ten lines a label on average"
        )
    return names, [row[1].lower().split() if len(row) > 1 else [] for row in rows], hashlib.sha256(raw).hexdigest()[:16]


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash and counts; threads, which decide the order of sums."""
    return {
        "model": f"perceptron, 2 x {HIDDEN}" + (", mean of word embeddings" if setting.words else ""),
        **setting.provenance,
        "classes": setting.classes,
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "epochs": setting.epochs,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test set as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Trained, setting: Setting) -> dict[str, float]:
    """bits_per_weight over all parameters, bytes, optimiser steps per run, the learning rate that was chosen."""
    weights = sum(parameter.numel() for parameter in arm.model.parameters())
    bits = stored_bits(arm.model)
    return {"bits_per_weight": bits / weights, "bytes": bits / 8, "steps": arm.steps, "rate": arm.rate}


def score(arm: Trained, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct: share of test examples. nats: mean negative log-likelihood of the label."""
    if start:
        return
    with torch.no_grad():
        logits = torch.cat([arm.model(*inputs) for inputs, _ in setting.test.batches(512)])
    labels = setting.test.labels
    correct = (logits.argmax(-1) == labels).double().mean().item()
    yield {"correct": correct, "nats": F.cross_entropy(logits.double(), labels).item()}
