"""Embeddings for search, trained on the states of a frozen encoder: does a query find its own document, and does it
still with a short vector, or with one from an early layer?

    mrr, ndcg_10, recall_1    last layer, all coordinates
    mrr_8 ... mrr_256         last layer, the first so many coordinates;  mrr_sizes: mean over these and all
    mrr_layer_1 ... _5        earlier layers, all coordinates;            mrr_layers: mean over these and the last
    mrr_layer_1_16 ...        both at once, small to large: layer 1 with 16 coordinates, 2 with 32 ... 5 with 256;
                              mrr_stairs: mean over these and the last layer with all

Six depths of the encoder are looked at, evenly spaced where it has more layers. Its states are computed once for a
data set and cached; what is trained is a path of six blocks beside it (`paperlab.kit.embedding`), so that a check of
the default data costs seconds. Default data: docstrings of the standard library and their functions, the function's
name masked in both. Whole modules are on one side of a split. The test parts of the seeds do not overlap; their
training parts do, so that seeds are not independent and the interval over them is somewhat too narrow.
The encoder was itself trained on pairs of docstrings and functions, of other code: its last layer begins far ahead of
the others. Steps, rates and dropout were set for the plain loss on the first seed's validation part.

Every arm keeps the rate with the highest MRR on the first seed's validation part, the mean over all layers and sizes
above, and not over the last layer alone: an arm that is trained for one early layer would be chosen by what it happens
to do to a later one. (64 coordinates of layer 3, trained alone: 3e-3 is best for the last layer with .406, and worst
but one at its own place with .205, where 1e-3 has .224.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.loading import load_encoder
from paperlab.assets.pairs import fold_groups, load_pairs
from paperlab.core.task import Metric
from paperlab.kit import states
from paperlab.kit.embedding import Embedder, Ladder, Pairs, ranks

VERSION = 1
SCORES = ("Embedder",)
SUPPLIES = ()
AXES = ("steps", "pairs", "trained")
TIMED = False
SIZES = (8, 16, 32, 64, 128, 256)  # besides all coordinates
LAYERS = 6
STAIRS = ((1, 16), (2, 32), (3, 64), (4, 128), (5, 256))
METRICS = {
    "mrr": Metric("higher", "mrr"),
    "ndcg_10": Metric("higher", "ndcg_10"),
    "recall_1": Metric("higher", "recall_1"),
    **{f"mrr_{size}": Metric("higher", f"mrr_{size}") for size in (*SIZES, "sizes")},
    **{f"mrr_layer_{layer}": Metric("higher", f"mrr_layer_{layer}") for layer in range(1, LAYERS)},
    **{f"recall_1_layer_{layer}": Metric("higher", f"recall_1_layer_{layer}") for layer in range(1, LAYERS)},
    **{f"mrr_layer_{layer}_{size}": Metric("higher", f"mrr_layer_{layer}_{size}") for layer, size in STAIRS},
    "mrr_layers": Metric("higher", "mrr_layers"),
    "mrr_stairs": Metric("higher", "mrr_stairs"),
}
EACH = tuple(
    name for name in METRICS if name.startswith("mrr") and name not in ("mrr_sizes", "mrr_layers", "mrr_stairs")
)
PAIRED_BY: Literal["items", "seeds"] = "seeds"
COST = {"quick": 110, "full": 900}
MODELS = ("minilm-l6",)
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
ARM_SECONDS = {"minilm-l6": 9}
DATA = {
    "functions": "docstrings of Python's standard library and the functions that they describe, PSF licence, from the "
    "Python that runs: another version has other functions, and a record names their hash",
    "abstracts": "titles and abstracts of 1,482 arXiv papers, CC0, bundled",
}

QUERY, DOCUMENT = 32, 64  # tokens that are read
INNER, DROPOUT = 256, 0.5
BATCH = 128
STEPS = {"quick": 150, "full": 300, "gpu": 300}
RATES = (3e-4, 1e-3, 3e-3)  # tried by every arm; at 1e-2 some losses still fall while MRR collapses (.38 to .12)
FOLDS, HELD_BACK = 20, 3  # of 20 folds, 20 / seeds are tested on and 3 choose the rate


@dataclass
class Setting:
    """States of all pairs, and which of them the seed trains on, chooses a rate by and tests on."""

    pairs: Pairs
    fold: Tensor
    seeds: int
    train: Pairs
    validation: Pairs
    test: Pairs
    about: dict[str, Any]
    steps: int
    batch: int = BATCH
    rates: tuple[float, ...] = RATES
    classes: int = 0
    layers: int = LAYERS

    @property
    def width(self) -> int:
        """Coordinates of an embedding."""
        return self.pairs.queries.shape[-1]

    def network(self) -> nn.Module:
        """A fresh path beside the encoder; after the same torch.manual_seed, the same weights."""
        return Ladder(self.layers, self.width, INNER, DROPOUT)

    def validate(self, arm: Embedder) -> float:
        """MRR on validation pairs, the mean over all layers and sizes that the task looks at: one figure for arms that
        are trained for different ones."""
        found = figures(arm, self.validation)
        return sum(found[name] for name in EACH) / len(EACH)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """States of the pairs, from the cache or computed now, and the split of the seed.

    Raises ModelError, PackageError, TextError; ValueError for an encoder with too few layers or coordinates.
    """
    found = load_pairs(data or "functions")
    texts = {"queries": (found.queries, QUERY), "documents": (found.documents, DOCUMENT)}
    cached, about = encoded(
        "embed", model or MODELS[0], texts, {"pairs": found.sha256, "tokens": (QUERY, DOCUMENT)}, found.describe()
    )
    pairs = Pairs(cached["queries"], cached["documents"])
    fold = torch.tensor(fold_groups(found.groups, FOLDS))
    return remake(Setting(pairs, fold, SEEDS[scale], pairs, pairs, pairs, about, STEPS[scale]), seed)


def encoded(
    task: str, model: str, texts: Mapping[str, tuple[Sequence[str], int]], key: Mapping[str, Any], data: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States (n, LAYERS, width) of texts by name, from the task's cache or computed now; and what a record keeps of the
    encoder and of the `data`.

    texts: and how many tokens of each are read. key: what decides the states besides the encoder. Raises ModelError,
    PackageError; ValueError for an encoder with too few layers or coordinates.
    """
    encoder, tokenizer, provenance = load_encoder(model)
    config: Any = encoder.config
    layers = states.depths(config.num_hidden_layers, LAYERS)
    if config.hidden_size <= SIZES[-1]:
        raise ValueError(
            f"the encoder's embeddings have {config.hidden_size} coordinates; more than {SIZES[-1]} needed"
        )
    pooling = provenance["pooling"]

    def compute() -> dict[str, Tensor]:
        options: dict[str, Any] = {"layers": layers, "pooling": pooling}
        return {
            name: states.pooled_states(encoder, tokenizer, some, length=length, **options)
            for name, (some, length) in texts.items()
        }

    whole = {
        "model": provenance["sha256"], "pooling": pooling, **key, "layers": layers, "threads": torch.get_num_threads(),
    }  # fmt: skip
    about = {"model": provenance["id"], "provenance": provenance, "data": data, "depths": list(layers)}
    return cached_tensors(task, whole, compute, code=states.__file__), about


def remake(setting: Setting, seed: int) -> Setting:
    """The setting with the split of another seed."""
    order = torch.randperm(FOLDS, generator=torch.Generator().manual_seed(0))
    tested = order[seed % setting.seeds :: setting.seeds]
    rest = torch.tensor([fold for fold in order.tolist() if fold not in tested.tolist()])
    held = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:HELD_BACK]]
    last, held_back = torch.isin(setting.fold, tested), torch.isin(setting.fold, held)
    parts = (~(last | held_back), held_back, last)
    train, validation, test = (setting.pairs.rows(rows.nonzero()[:, 0]) for rows in parts)
    return replace(setting, train=train, validation=validation, test=test)


def describe(setting: Setting) -> dict[str, Any]:
    """Encoder and pairs with their hashes, counts; threads, which decide the order of sums."""
    return {**setting.about, "tokens": [QUERY, DOCUMENT], **trained_on(setting)}


def trained_on(setting: Any) -> dict[str, Any]:
    """Counts of the parts, the path that is trained, and how."""
    return {
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "path": f"{setting.layers} blocks, {INNER} inside, dropout {DROPOUT}",
        "batch": setting.batch,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test part as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Embedder, setting: Setting) -> dict[str, float]:
    """Optimiser steps, pairs seen, trained parameters, the learning rate that was chosen."""
    seen = arm.steps * min(setting.batch, len(setting.train))
    return {"steps": arm.steps, "pairs": seen, "trained": arm.trained, "rate": arm.rate}


def score(arm: Embedder, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Figures of the test part; the candidates are all its documents, a tie counts against the right one."""
    if not start:
        yield figures(arm, setting.test)


def figures(arm: Embedder, pairs: Pairs) -> dict[str, float]:
    """All values of METRICS, from these pairs."""
    queries, documents = arm.embed(pairs.queries), arm.embed(pairs.documents)
    width = pairs.queries.shape[-1]

    def place(layer: int, size: int) -> Tensor:
        return ranks(queries[layer - 1][:, :size], documents[layer - 1][:, :size]).double()

    def mrr(layer: int, size: int) -> float:
        return (1 / place(layer, size)).mean().item()

    last = place(LAYERS, width)
    found = {
        "mrr": (1 / last).mean().item(),
        "ndcg_10": ((last <= 10) / torch.log2(last + 1)).mean().item(),
        "recall_1": (last == 1).double().mean().item(),
    }
    found |= {f"mrr_{size}": mrr(LAYERS, size) for size in SIZES}
    found["mrr_sizes"] = (found["mrr"] + sum(found[f"mrr_{size}"] for size in SIZES)) / (len(SIZES) + 1)
    for layer in range(1, LAYERS):
        here = place(layer, width)
        found[f"mrr_layer_{layer}"] = (1 / here).mean().item()
        found[f"recall_1_layer_{layer}"] = (here == 1).double().mean().item()
    found["mrr_layers"] = (found["mrr"] + sum(found[f"mrr_layer_{n}"] for n in range(1, LAYERS))) / LAYERS
    found |= {f"mrr_layer_{layer}_{size}": mrr(layer, size) for layer, size in STAIRS}
    found["mrr_stairs"] = (found["mrr"] + sum(found[f"mrr_layer_{n}_{k}"] for n, k in STAIRS)) / (len(STAIRS) + 1)
    return found
