"""Compress a sentence encoder: does it still place texts where the original did, people do, and search needs them?

    embedding_error    1 - cos(original, compressed) per held-out text
    human_correlation  Pearson, per document, between the model's and people's similarities to the 49 others
                       (Lee, Pincombe and Welsh 2005, "An empirical evaluation of models of text document similarity";
                       ranks would weigh the many unrelated pairs, whose ratings are noise: 3-bit weights then win)
    reciprocal_rank    known-item retrieval over bundled papers: the title must find its own summary
    top1               1 where the summary came first, else 0 (right or wrong, for McNemar and flips)

embedding_error sees the smallest damage. human_correlation sees only heavy damage: it moves by about 0.01 either
way from 8 to 4 bits, by less than its spread over documents; a claim of small gains must not rest on it.

Items come in three stretches (held-out texts, rated documents, queries), and each item holds the keys of its
stretch only: a key's samples are the items that have it, in order, and arms are paired within a key.
`data` names the text that is calibrated on and held out; ratings and queries stay the bundled ones.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.loading import load_encoder
from paperlab.assets.texts import Text, TextError, load_text, retrieval_pairs, split_documents, texts_folder, windows
from paperlab.core.task import Metric

VERSION = 1
SCORES = ("Compressed",)
SUPPLIES = ("model", "calibration")
AXES = ("bytes", "bits_per_weight", "density")
TIMED = False
METRICS = {
    "embedding_error": Metric("lower", "embedding_error"),
    "human_correlation": Metric("higher", "human_correlation"),
    "reciprocal_rank": Metric("higher", "reciprocal_rank"),
    "top1": Metric("higher", "top1"),
}
PAIRED_BY: Literal["items", "seeds"] = "items"
COST = {"quick": 90, "full": 600, "gpu": 600}
MODELS = ("minilm-l6",)
SEEDS = {"quick": 5, "full": 5, "gpu": 5}  # of the calibration windows; what looks at no data runs once
ARM_SECONDS = {"minilm-l6": 10}
DATA = {
    "held-out and calibration text": "news (or --data): half its documents each; see `paperlab.assets.texts`",
    "rated documents": "50 news texts with people's similarity ratings, Lee et al. 2005, from gensim 4.4.0's test data",
    "queries": "titles and our own summaries of papers, a frozen file, Apache-2.0",
}

BATCH = 32  # texts; fixed, because a text's embedding may change in the last bit with its neighbours


@dataclass(frozen=True)
class _Scale:
    held_out: int  # texts at most
    queries: int  # papers at most, both as query and as answer
    length: int  # tokens of a text at most
    calibration: int  # windows
    window: int  # tokens, with [CLS] and [SEP]


SCALES = {
    "quick": _Scale(64, 200, 128, 64, 128),
    "full": _Scale(1000, 1000, 256, 128, 256),
    "gpu": _Scale(1000, 1000, 256, 128, 256),
}


@dataclass
class Setting:
    """What an arm is built from and scored on.

    calibration: batches of model inputs, each input_ids and attention_mask (8, window), without padding.
    ratings: (50, 50) people's similarities in [0, 1], symmetric. original: embeddings (texts, width) of the
    three stretches by the untouched model, unit length. seed: of the calibration windows.
    """

    kind: str
    scale: str
    model: nn.Module
    tokenizer: Any
    provenance: dict[str, Any]
    text: Text
    calibration: list[dict[str, Tensor]]
    held_out: tuple[str, ...]
    rated: tuple[str, ...]
    ratings: Tensor
    queries: tuple[str, ...]
    answers: tuple[str, ...]
    length: int
    original: dict[str, Tensor]
    seed: int = 0

    def calibration_from(self, name: str) -> list[dict[str, Tensor]]:
        """Calibration windows of another text, or its own in another order ("reordered")."""
        size = SCALES[self.scale]
        if name == "reordered":
            own = torch.cat([batch["input_ids"] for batch in self.calibration])
            return _batches(own[torch.randperm(len(own), generator=torch.Generator().manual_seed(self.seed))])
        window = min(size.window, self.length)
        return _calibration(self.tokenizer, load_text(name), window, size.calibration, self.seed)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The setting; the seed draws the calibration windows. Raises ModelError, TextError, PackageError."""
    size = SCALES[scale]
    encoder, tokenizer, provenance = load_encoder(model or MODELS[0])
    text = load_text(data or "news")
    held_out = split_documents(text, "held-out")[: size.held_out]
    if len(held_out) < 8:
        raise TextError(
            f"text {text.id!r} is too short: {len(held_out)} held-out documents, at least 8 are needed; give "
            f"{8 / max(len(held_out), 1):.0f} times as much text"
        )
    folder = texts_folder()
    rated = tuple((folder / "lee.cor").read_text(encoding="latin-1").strip().split("\n"))
    pairs = retrieval_pairs(size.queries)
    longest = min(size.length, tokenizer.model_max_length)
    setting = Setting(
        kind="encoder",
        scale=scale,
        model=encoder,
        tokenizer=tokenizer,
        provenance=provenance,
        text=text,
        calibration=_calibration(tokenizer, text, min(size.window, longest), size.calibration, seed),
        held_out=held_out,
        rated=rated,
        ratings=_ratings((folder / "similarities0-1.txt").read_text(encoding="utf-8")),
        queries=tuple(query for query, _ in pairs),
        answers=tuple(answer for _, answer in pairs),
        length=longest,
        original={},
        seed=seed,
    )
    setting.original = _original(setting)
    return setting


def _original(setting: Setting) -> dict[str, Tensor]:
    """What the untouched model makes of all texts: the same for every arm, seed and run."""
    parts = {name: getattr(setting, name) for name in ("held_out", "rated", "queries", "answers")}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    known = setting.provenance
    key = {"model": known["sha256"], "pooling": known.get("pooling"), "texts": digest, "length": setting.length}
    key |= {"threads": torch.get_num_threads()}
    return cached_tensors(
        "encoder_compress", key, lambda: {n: embed(setting.model, setting, t) for n, t in parts.items()}, code=__file__
    )


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed: only the calibration windows are drawn again."""
    size = SCALES[setting.scale]
    window = min(size.window, setting.length)
    calibration = _calibration(setting.tokenizer, setting.text, window, size.calibration, seed)
    return replace(setting, calibration=calibration, seed=seed)


def describe(setting: Setting) -> dict[str, Any]:
    """Model and data with their hashes, counts, and what the untouched model scores."""
    pairs = "\n".join(f"{query}\t{answer}" for query, answer in zip(setting.queries, setting.answers, strict=True))
    ranks = _reciprocal_ranks(setting.original["queries"], setting.original["answers"])
    return {
        "model": setting.provenance["id"],
        "provenance": setting.provenance,
        "data": setting.text.describe(),
        "held_out": len(setting.held_out),
        "rated": len(setting.rated),
        "queries": len(setting.queries),
        "queries_sha256": hashlib.sha256(pairs.encode()).hexdigest(),
        "calibration_tokens": sum(batch["input_ids"].numel() for batch in setting.calibration),
        "tokens_at_most": setting.length,
        "chance": {"embedding_error": _unrelated(setting.original["held_out"])},
        "original": {
            "human_correlation": _human_correlations(setting.original["rated"], setting.ratings).mean().item(),
            "reciprocal_rank": ranks.mean().item(),
            "top1": (ranks == 1).double().mean().item(),
        },
    }


def _unrelated(embeddings: Tensor) -> float:
    """1 - cos between different texts, on average: an arm that is this far from the original places texts at random."""
    count = len(embeddings)
    return 1 - ((embeddings @ embeddings.T).sum() - count).item() / (count * (count - 1))


def items(setting: Setting) -> int:
    """Held-out texts, then rated documents, then queries."""
    return len(setting.held_out) + len(setting.rated) + len(setting.queries)


def totals(arm: Any, setting: Setting) -> dict[str, float]:
    """The compressed model's own count: bits_per_weight, layer_bits, bytes."""
    return dict(arm.totals())


def score(arm: Any, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """One dict per item from `start` on. Embeddings are made a stretch at a time, so that an item's value does
    not depend on where a run was resumed. Raises FloatingPointError where the arm's output is not finite."""
    first = 0
    for stretch, values in (
        ("held_out", _score_held_out),
        ("rated", _score_rated),
        ("queries", _score_queries),
    ):
        last = first + len(getattr(setting, stretch))
        if start < last:
            yield from values(arm.model, setting)[max(start - first, 0) :]
        first = last


def _score_held_out(model: nn.Module, setting: Setting) -> list[dict[str, float]]:
    found = embed(model, setting, setting.held_out)
    # |a - b|^2 / 2 is 1 - cos for unit vectors, and exactly 0 where they are the same
    errors = (found - setting.original["held_out"]).square().sum(1) / 2
    return [{"embedding_error": error} for error in errors.tolist()]


def _score_rated(model: nn.Module, setting: Setting) -> list[dict[str, float]]:
    found = _human_correlations(embed(model, setting, setting.rated), setting.ratings)
    return [{"human_correlation": value} for value in found.tolist()]


def _score_queries(model: nn.Module, setting: Setting) -> list[dict[str, float]]:
    ranks = _reciprocal_ranks(embed(model, setting, setting.queries), embed(model, setting, setting.answers))
    return [{"reciprocal_rank": value, "top1": float(value == 1)} for value in ranks.tolist()]


@torch.no_grad()
def embed(model: nn.Module, setting: Setting, texts: tuple[str, ...]) -> Tensor:
    """Unit sentence embeddings (texts, width), float64: the mean of the token outputs, or the first one where the
    model's folder asks for that. Texts of like length share a batch; the batches are always the same ones."""
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    out: dict[int, Tensor] = {}
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        inputs = setting.tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=setting.length, return_tensors="pt"
        )
        mask = inputs["attention_mask"]
        hidden = model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state.double()
        if setting.provenance.get("pooling") == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if not torch.isfinite(pooled).all():
            raise FloatingPointError("the compressed model's embeddings hold NaN or infinite values")
        out |= zip(chosen, nn.functional.normalize(pooled, dim=1), strict=True)
    return torch.stack([out[i] for i in range(len(texts))])


def _calibration(tokenizer: Any, text: Text, length: int, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Windows of the calibration half with the model's own first and last token, in batches of 8. No padding:
    a statistic over tokens then needs no mask."""
    first = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
    last = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
    inside = length - len(first) - len(last)
    ids = windows(tokenizer, text, inside, count, split="calibration", seed=seed)
    ids = torch.cat([ids.new_tensor(first).expand(count, -1), ids, ids.new_tensor(last).expand(count, -1)], dim=1)
    return _batches(ids)


def _batches(ids: Tensor) -> list[dict[str, Tensor]]:
    """(windows, tokens) as model inputs, 8 windows at a time."""
    return [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in ids.split(8)]


def _ratings(table: str) -> Tensor:
    """The published table holds the upper triangle with the diagonal; below it are zeros."""
    rows = [[float(cell) for cell in line.split("\t")] for line in table.splitlines()]
    upper = torch.tensor(rows, dtype=torch.float64)
    return upper.triu(1) + upper.triu(1).T + torch.eye(len(upper), dtype=torch.float64)


def _human_correlations(embeddings: Tensor, ratings: Tensor) -> Tensor:
    """(documents,) Pearson's r per document, over the other documents. 0 where all similarities are equal."""
    count = len(ratings)
    others = ~torch.eye(count, dtype=torch.bool)
    ours = (embeddings @ embeddings.T)[others].reshape(count, count - 1)
    theirs = ratings[others].reshape(count, count - 1)
    ours, theirs = ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    spread = ours.norm(dim=1) * theirs.norm(dim=1)
    return torch.where(spread > 1e-12, (ours * theirs).sum(1) / spread.clamp(min=1e-12), 0.0)


def _reciprocal_ranks(queries: Tensor, answers: Tensor) -> Tensor:
    """(queries,) 1 / rank of each query's own answer; an answer that scores the same stands before it."""
    similarity = queries @ answers.T
    own = similarity.diagonal()
    return 1 / (similarity >= own[:, None]).sum(1).double()
