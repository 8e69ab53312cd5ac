"""Fine-tuning a compressed language model on a text of another kind: how much of its own does it retain?

As `lm_recover`, but what arms train on is not the text that the model knows. They are scored on held-out documents of
the model's own text, which is what they may forget, and of the new one, which is what they learn.

One learning rate for all arms, the lowest of `lm_recover`: what is forgotten depends on it more than on anything else.
Arms that chose their own on the new text would differ by their rates, and on the old one would not train at all.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from paperlab.assets.texts import TextError, load_text, split_documents
from paperlab.core.task import Metric
from paperlab.kit.compressed import Compressed
from paperlab.kit.tuning import Tuned
from paperlab.tasks import lm_recover
from paperlab.tasks.lm_recover import MODELS as KNOWN
from paperlab.tasks.lm_recover import TEST, TEXTS, Setting, describe, items, judged, nats, remake, rows_of, totals

__all__ = ["describe", "items", "make", "remake", "score", "totals"]

VERSION = 2
SCORES = ("Tuned", "Compressed")
SUPPLIES = ("model", "calibration")
AXES = ("parameters", "nonzero", "bytes", "density", "steps", "tokens", "trained")
TIMED = False
METRICS = {
    "own_perplexity": Metric("lower", "own"),
    "own_kl": Metric("lower", "kl"),
    "new_perplexity": Metric("lower", "new"),
}
PAIRED_BY = "seeds"
COST = {"quick": 120, "full": 1200}
ARM_SECONDS = {"abstracts-lm": 14}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS = ("abstracts-lm",)
OWN = "encyclopedia"  # what a model of one's own is taken to know
DATA = {
    "news": "300 English news texts (Lee, Pincombe and Welsh 2005), from a pinned package: the new text",
    "abstracts": "arXiv titles and abstracts, bundled, CC0: the model's own text, of which 482 papers are held out",
}


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The setting of `lm_recover` on the new text, with one rate; its `test` windows are of the model's own text, its
    `other` windows of the new one.

    Raises ModelError and TextError for a model or text that cannot be used, or a new text that is the model's own.
    """
    own = load_text(TEXTS.get(model or KNOWN[0], OWN))
    if (data or "news") == own.id:
        raise TextError(f"text {own.id!r} is what this model knows already; give another one to train on")
    setting = lm_recover.make(seed, scale, model=model, data=data or "news")
    rows = rows_of(setting.tokenizer, split_documents(own, "held-out"))
    count = min(len(setting.test), TEST[scale], len(rows))
    spread = rows[torch.arange(count) * (len(rows) // count)]
    return replace(setting, test=spread, other=setting.test, other_text=own, rates=setting.rates[:1])


def score(arm: Tuned | Compressed, setting: Setting, start: int = 0) -> Iterator[dict[str, Any]]:
    """own: perplexity on the model's own text. kl: to the dense model's predictions there. new: perplexity on the text
    that was trained on, held-out documents."""
    if start:
        return
    model = arm.model.eval()
    nll, kl = judged(model, setting)
    assert setting.other is not None
    new = nats(model, setting.other)
    yield {"own": math.exp(min(nll, 700.0)), "kl": kl, "new": math.exp(min(new, 700.0))}
