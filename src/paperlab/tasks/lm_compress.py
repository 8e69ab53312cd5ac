"""Compressing a causal language model: how well does what is left predict real text?

Held-out windows of running text are scored one by one: the mean negative log-likelihood of their tokens (nats)
and the KL divergence to the original model's predictions. Calibration windows come from other documents.
`--data news@512` takes windows of 512 tokens, fewer of them; `@512` the model's own text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.loading import load_causal_lm
from paperlab.assets.texts import Text, TextError, load_text, windows
from paperlab.core.task import Metric
from paperlab.kit.compressed import Compressed
from paperlab.kit.walk import Batch

VERSION = 2
SCORES = ("Compressed",)
SUPPLIES = ("model", "calibration")
AXES = ("bytes", "bits_per_weight", "density")
TIMED = False
METRICS = {
    "perplexity": Metric("lower", "nll", "exp_mean"),
    "kl": Metric("lower", "kl"),
}
PAIRED_BY = "items"
COST = {"quick": 110, "full": 1500}
SEEDS = {"quick": 5, "full": 5}  # of the calibration windows; what looks at no data runs once
MODEL_SEEDS = {"smollm2-135m": {"quick": 3}}  # one draw of GPTQ takes over a minute there
MODELS = ("abstracts-lm", "smollm2-135m")
ARM_SECONDS = {"abstracts-lm": 4, "smollm2-135m": 25}
TEXTS = {"abstracts-lm": "abstracts"}  # a model is judged on the kind of text it knows; the others on news
DATA = {
    "news": "held-out half of 300 English news texts (Lee, Pincombe and Welsh 2005), from a pinned package",
    "abstracts": "482 arXiv titles and abstracts that abstracts-lm was not trained on, bundled, CC0",
}

LENGTH = 128  # tokens in a window
CHUNK = 4  # windows in a forward pass
KL_STRIDE = 4  # KL is taken at every fourth position, or the original's logits would not fit in memory
CALIBRATION = {"quick": 32, "full": 128, "gpu": 128}  # windows
HELD_OUT = {"quick": 96, "full": 192, "gpu": 192}  # windows
FEWEST = 16  # windows that are scored at least, where long ones would leave fewer
SMALL = 20_000_000  # parameters; above, `quick` scores a third of the windows, or arms would take minutes


@dataclass
class Setting:
    """model: the original, fp32. calibration: batches of CHUNK windows. held_out: (n, length) token ids."""

    model: nn.Module
    tokenizer: Any
    calibration: list[Batch]
    held_out: Tensor
    provenance: dict[str, Any]
    text: Text
    seed: int
    scale: str
    length: int = LENGTH
    predictions: dict[int, Tensor] = field(default_factory=dict)

    def calibration_from(self, name: str) -> list[Batch]:
        """Calibration windows of another text, of tokens drawn at random ("random"), or its own in another order
        ("reordered")."""
        count = CALIBRATION[self.scale] * LENGTH // self.length
        if name == "reordered":
            own = torch.cat([batch["input_ids"] for batch in self.calibration])
            return batches(own[torch.randperm(len(own), generator=torch.Generator().manual_seed(self.seed))])
        if name == "random":
            draw = torch.Generator().manual_seed(self.seed)
            size = len(self.tokenizer)
            return batches(torch.randint(size, (count, self.length), generator=draw))
        text = load_text(name)
        return batches(windows(self.tokenizer, text, self.length, count, split="calibration", seed=self.seed))


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The original model, its calibration windows (drawn by `seed`) and the held-out windows (always the same).

    Raises ModelError and TextError for a model or text that cannot be used.
    """
    name = model or MODELS[0]
    module, tokenizer, provenance = load_causal_lm(name)
    source, length = _text_and_length(data or "")
    text = load_text(source or TEXTS.get(name, "news"))
    calibration = windows(
        tokenizer, text, length, CALIBRATION[scale] * LENGTH // length, split="calibration", seed=seed
    )
    count = HELD_OUT[scale] // (3 if scale == "quick" and provenance["parameters"] > SMALL else 1)
    held_out = windows(tokenizer, text, length, max(count * LENGTH // length, min(count, FEWEST)), split="held-out")
    return Setting(module, tokenizer, batches(calibration), held_out, provenance, text, seed, scale, length)


def _text_and_length(data: str) -> tuple[str, int]:
    """What `data` names: a text ("" for the model's own), and tokens in a window."""
    source, _, length = data.rpartition("@")
    if not length.isdigit() or "@" not in data:
        return data, LENGTH
    if not 8 <= int(length) <= LENGTH * CALIBRATION["quick"] // CHUNK:
        raise TextError(f"windows of {length} tokens: between 8 and {LENGTH * CALIBRATION['quick'] // CHUNK}")
    return source, int(length)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed: only the calibration windows are drawn again."""
    count = CALIBRATION[setting.scale] * LENGTH // setting.length
    calibration = windows(setting.tokenizer, setting.text, setting.length, count, split="calibration", seed=seed)
    return replace(setting, calibration=batches(calibration), seed=seed)


def batches(rows: Tensor) -> list[Batch]:
    """(n, t) token ids as model inputs, CHUNK rows at a time."""
    return [{"input_ids": chunk} for chunk in rows.split(CHUNK)]


def describe(setting: Setting) -> dict[str, Any]:
    """Model and data with their hashes; counts; threads, which decide the order of sums."""
    data = setting.text.describe()
    if setting.length != LENGTH:
        data["id"] += f"@{setting.length}"
    return {
        "model": setting.provenance["id"],
        "provenance": setting.provenance,
        "data": data,
        "window": setting.length,
        "held_out_windows": len(setting.held_out),
        "calibration_windows": sum(len(batch["input_ids"]) for batch in setting.calibration),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """Number of held-out windows."""
    return len(setting.held_out)


def totals(arm: Compressed, setting: Setting) -> dict[str, float]:
    """Bits per weight of the whole model and of the quantized layers, bytes."""
    return arm.totals()


def score(arm: Compressed, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """nll: mean over a window's predicted tokens, in nats. kl: mean of KL(original || arm), in nats.

    Whole chunks are computed from the same starting points whatever `start` is: a resumed run gives the same
    bits as an unbroken one.
    """
    for first in range(start - start % CHUNK, len(setting.held_out), CHUNK):
        rows = setting.held_out[first : first + CHUNK]
        original = _predictions(setting, first)
        with torch.no_grad():
            logits = arm.model(input_ids=rows, use_cache=False).logits.float()
        nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        nll = nll.double().view(len(rows), -1).mean(1)
        mine = logits[:, ::KL_STRIDE].log_softmax(-1)
        kl = F.kl_div(mine, original, log_target=True, reduction="none").sum(-1).double().mean(1)
        for offset in range(max(start - first, 0), len(rows)):
            yield {"nll": nll[offset].item(), "kl": kl[offset].item()}


def _predictions(setting: Setting, first: int) -> Tensor:
    """The original's log-probabilities for one chunk (CHUNK, length / KL_STRIDE, vocabulary).

    Kept for the next arm at `quick`; at larger scales they would fill the memory and are computed again.
    """
    if first in setting.predictions:
        return setting.predictions[first]
    with torch.no_grad():
        rows = setting.held_out[first : first + CHUNK]
        logits = setting.model(input_ids=rows, use_cache=False).logits.float()
    predictions = logits[:, ::KL_STRIDE].log_softmax(-1)
    if setting.scale == "quick":
        setting.predictions[first] = predictions
    return predictions
