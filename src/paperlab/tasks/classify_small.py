"""Training a small classifier from scratch, once per seed: how many held-out examples does it get right?

Default: handwritten digits and a multi-layer perceptron. With labelled texts (`--data movie-reviews`, `questions`, or
a FILE of "label text" lines): a bag-of-words perceptron (mean of word embeddings, as in Galke and Scherp, 2109.03777).
The test parts of the seeds do not overlap: seed s is tested on fold s. Their training parts do, so that seeds are not
independent and the interval over them is somewhat too narrow. The learning rate is chosen on seed 0's validation rows,
which other seeds test on, for all arms alike.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.digits import small_digits
from paperlab.assets.labelled import labelled, labelled_file
from paperlab.core.task import Metric
from paperlab.kit.training import Inputs, Split, Trained, accuracy, stored_bits

VERSION = 3  # test parts of different seeds do not overlap; labelled texts by name
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
DATA = {
    "digits": "1,797 handwritten digits, 8 x 8 pixels (Alpaydin and Kaynak 1998), carried by scikit-learn, BSD",
    "movie-reviews": "10,070 sentences of film reviews that people marked as clearly good or bad (Hutto and Gilbert "
    "2014, after Pang and Lee 2005), from a pinned package",
    "questions": "5,332 questions in 42 classes of ten at least (TREC; Li and Roth 2002), from the same package",
}
LAYERS = {"movie-reviews": 1, "questions": 2}  # after the embedding; 2 for a file

HIDDEN = 256
DROPOUT = 0.5
EPOCHS = {"quick": 15, "full": 60, "gpu": 60}
TEXT_EPOCHS = {"quick": 6, "full": 30, "gpu": 30}  # of the labelled texts by name, which are larger
BATCH = 64
RATES = (1e-3, 3e-3, 1e-2)  # tried by every arm
TEXT_RATES = (3e-3, 1e-2, 3e-2)  # for the labelled texts by name
VALIDATION = 0.15  # share of all examples
VOCABULARY = 5_000  # most frequent words of the training texts, of those that come twice
WORDS = 256  # of a text are read


class Perceptron(nn.Module):
    """Hidden layers of width HIDDEN with ReLU and dropout; every linear layer comes from `linear`.

    words: size of the vocabulary (the first layer is then a mean of word embeddings), or None for features. layers:
    how many linear layers follow the first one.
    """

    def __init__(
        self, width: int, classes: int, linear: Callable[..., nn.Module], words: int | None = None, layers: int = 2
    ) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(words, HIDDEN, mode="mean", padding_idx=0) if words else None
        self.first = None if words else linear(width, HIDDEN, True)
        self.second = linear(HIDDEN, HIDDEN, True) if layers == 2 else None
        self.last = linear(HIDDEN, classes, True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) float or (n, words) int64, 0 for none -> logits (n, classes)."""
        hidden = self.embed(x) if self.embed is not None else self.first(x)  # type: ignore[misc]
        for layer in (self.second, self.last):
            if layer is not None:
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
    layers: int = 2
    batch: int = BATCH
    rates: tuple[float, ...] = RATES

    def network(self, parts: Mapping[str, Callable[..., Any]]) -> nn.Module:
        """A fresh network; two calls after the same torch.manual_seed start from the same weights."""
        return Perceptron(self.train.inputs[0].shape[1], self.classes, parts["linear"], self.words, self.layers)

    def validate(self, network: nn.Module) -> float:
        """Accuracy on the validation split."""
        return accuracy(network, self.validation)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Test fold of `seed`; the rest in train and validation, drawn by it. Raises ValueError for a file that cannot be
    used, PackageError for a package that cannot be had."""
    if model is not None:
        raise ValueError("this task trains its own small network; it takes --data, not --model")
    folds = SEEDS[scale]
    if data is None or data == "digits":
        images, labels, digest = small_digits()
        splits = _split((images.flatten(1),), labels, seed, folds)
        about = {"data": "digits", "hash": digest[:16], "examples": len(labels)}
        return Setting(*splits, classes=10, words=None, provenance=about, epochs=EPOCHS[scale])
    if data not in LAYERS and not Path(data).is_file():
        raise ValueError(f"{data}: no such file; --data takes {', '.join(DATA)} or a text file of lines 'label text'")
    known = labelled(data) if data in LAYERS else labelled_file(Path(data))
    texts = [re.findall(r"\w+(?:'\w+)*", text.lower()) for text in known.texts]
    names = sorted(set(known.labels))
    labels = torch.tensor([names.index(label) for label in known.labels])
    order = _split((torch.arange(len(texts)),), labels, seed, folds)
    counts = Counter(word for row in order[0].inputs[0].tolist() for word in texts[row])
    often = [word for word, count in counts.most_common(VOCABULARY) if count > 1]
    vocabulary = {word: code for code, word in enumerate(often, 2)}  # 0 none, 1 unknown
    table_of = torch.zeros(len(texts), max(min(max(map(len, texts)), WORDS), 1), dtype=torch.int64)
    for row, words in enumerate(texts):
        codes = torch.tensor([vocabulary.get(word, 1) for word in words[:WORDS]] or [1])
        table_of[row, : len(codes)] = codes
    splits = tuple(Split((table_of[part.inputs[0]],), part.labels) for part in order)  # type: ignore[assignment]
    about = {"data": known.id, "hash": known.sha256[:16], "examples": len(labels)}
    return Setting(
        *splits,
        classes=len(names),
        words=len(vocabulary) + 2,
        provenance=about,
        epochs=(TEXT_EPOCHS if data in LAYERS else EPOCHS)[scale],
        rates=TEXT_RATES if data in LAYERS else RATES,
        layers=LAYERS.get(data, 2),
    )


def _split(inputs: Inputs, labels: Tensor, seed: int, folds: int) -> tuple[Split, Split, Split]:
    """Train, validation and test. The test part is the seed's fold of one division of all examples."""
    fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % folds
    test, rest = (fold == seed % folds).nonzero()[:, 0], (fold != seed % folds).nonzero()[:, 0]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    end = round(VALIDATION * len(labels))
    train, validation, held_out = (
        Split(tuple(x[rows] for x in inputs), labels[rows]) for rows in (rest[end:], rest[:end], test)
    )
    return train, validation, held_out


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash and counts; threads, which decide the order of sums."""
    return {
        "model": f"perceptron, {setting.layers} x {HIDDEN}" + (", mean of word embeddings" if setting.words else ""),
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
