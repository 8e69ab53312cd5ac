"""Training a language model that was compressed: how much of what it lost comes back within a budget of tokens?

Every arm starts from the dense model, or from what the arm before it left of it: `Arm("fine-tuning",
after=Arm("magnitude", sparsity=0.7))`. The dense model is the teacher. Training reads documents that are not held out,
every tenth of them serves validation, and an arm is scored on held-out documents and on a text of another kind, which
shows what training made it forget. The budget is in tokens: `steps` times BATCH windows of LENGTH tokens.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.loading import load_causal_lm
from paperlab.assets.texts import Text, TextError, load_text, separator, split_documents
from paperlab.core.task import Metric
from paperlab.kit.compressed import UNTOUCHED_BITS, Compressed
from paperlab.kit.tuning import Tuned
from paperlab.kit.walk import Batch

VERSION = 2
SCORES = ("Tuned", "Compressed")
SUPPLIES = ("model", "calibration")
AXES = ("parameters", "nonzero", "bytes", "density", "steps", "tokens", "trained")
TIMED = False
METRICS = {
    "perplexity": Metric("lower", "perplexity"),
    "nll": Metric("lower", "nll"),
    "kl": Metric("lower", "kl"),
    "nll_other": Metric("lower", "nll_other"),
}
PAIRED_BY = "seeds"
COST = {"quick": 150, "full": 1500}
ARM_SECONDS = {"abstracts-lm": 20}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS = ("abstracts-lm",)  # SmolLM2 trains 57 tokens a second on one core: by --model, with a tenth of the steps
TEXTS = {"abstracts-lm": "abstracts"}  # a model is trained and judged on the kind of text it knows; others on news
OTHER = {"abstracts": "news", "news": "code", "code": "news", "encyclopedia": "code", "catalogue": "code"}
DATA = {
    "abstracts": "arXiv titles and abstracts, bundled, CC0: abstracts-lm saw those that arms train on; 482 held out",
    "news": "300 English news texts (Lee, Pincombe and Welsh 2005), from a pinned package: the other text",
}

LENGTH = 64  # tokens that a window predicts
BATCH = 8  # windows in a training step
STEPS = {"quick": 24, "full": 300, "gpu": 3000}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # tried by every arm; at `quick` the best lies inside, see the records
SMALL = 20_000_000  # parameters; a larger model gets a tenth of the steps and of the test windows, and lower rates
CALIBRATION = {"quick": 64, "full": 256, "gpu": 1024}  # windows, for the methods that compress
VALIDATION = {"quick": 32, "full": 128, "gpu": 128}  # windows
TEST = {"quick": 128, "full": 512, "gpu": 1024}
SIDE = {"quick": 32, "full": 128, "gpu": 256}  # windows of the other text
CHUNK = 16  # windows in a forward pass
KL_STRIDE = 4  # KL is taken at every fourth position, or the teacher's predictions would not fit in memory


@dataclass
class Setting:
    """model: the dense model, where chains begin; it is the teacher too. train, validation, test, other: token ids
    (n, LENGTH + 1). said: the teacher's log-probabilities on `test`, by first window of a chunk."""

    model: nn.Module
    tokenizer: Any
    provenance: dict[str, Any]
    text: Text
    train: Tensor
    validation: Tensor
    test: Tensor
    other: Tensor | None
    other_text: Text | None
    seed: int
    scale: str
    steps: int
    rates: tuple[float, ...]
    said: dict[int, Tensor] = field(default_factory=dict)

    @property
    def teacher(self) -> nn.Module:
        """The dense model."""
        return self.model

    @property
    def calibration(self) -> list[Batch]:
        """Windows of the training documents, drawn by the setting's seed."""
        return self._drawn(self.train)

    def calibration_from(self, name: str) -> list[Batch]:
        """Calibration windows of another text, or of tokens drawn at random ("random")."""
        if name == "random":
            draw = torch.Generator().manual_seed(self.seed)
            shape = (CALIBRATION[self.scale], LENGTH + 1)
            return self._drawn(torch.randint(len(self.tokenizer), shape, generator=draw))
        return self._drawn(rows_of(self.tokenizer, split_documents(load_text(name), "calibration")))

    def _drawn(self, rows: Tensor) -> list[Batch]:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        chosen = rows[order[: CALIBRATION[self.scale]], :-1]
        return [{"input_ids": part} for part in chosen.split(BATCH)]

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """BATCH windows and the tokens that follow each of theirs, (BATCH, LENGTH) both, without end: the training
        windows in an order drawn by the seed, then in another."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            for rows in self.train[torch.randperm(len(self.train), generator=draw)].split(BATCH):
                if len(rows) == BATCH:
                    yield {"input_ids": rows[:, :-1]}, rows[:, 1:]

    def validate(self, model: nn.Module) -> float:
        """Minus the nats per token on the validation windows."""
        return -nats(model, self.validation)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The dense model and its windows; `seed` draws the calibration windows, each arm's own seed its batches.

    Raises ModelError and TextError for a model or text that cannot be used.
    """
    name = model or MODELS[0]
    module, tokenizer, provenance = load_causal_lm(name)
    text = load_text(data or TEXTS.get(name, "news"))
    train, validation = _divided(split_documents(text, "calibration"))
    large = provenance["parameters"] > SMALL
    share = 10 if large else 1
    other = load_text(OTHER[text.id]) if text.id in OTHER else None
    held_out = split_documents(other, "held-out") if other else ()
    return Setting(
        module,
        tokenizer,
        provenance,
        text,
        _enough(rows_of(tokenizer, train), BATCH, text),
        _spread(rows_of(tokenizer, validation), VALIDATION[scale] // (4 if large else 1), text),
        _spread(rows_of(tokenizer, split_documents(text, "held-out")), TEST[scale] // share, text),
        _spread(rows_of(tokenizer, held_out), SIDE[scale] // share, other) if other else None,
        other,
        seed,
        scale,
        STEPS[scale] // share,
        tuple(rate / 10 for rate in RATES) if large else RATES,
    )


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed: only the calibration windows are drawn again."""
    return replace(setting, seed=seed)


def _divided(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Documents to train on, and every tenth, by the order of their hashes, to choose a learning rate by."""
    ranked = sorted(documents, key=lambda document: hashlib.sha256(document.encode()).digest())
    chosen = set(ranked[::10])
    return [document for document in documents if document not in chosen], ranked[::10]


def rows_of(tokenizer: Any, documents: Sequence[str]) -> Tensor:
    """(n, LENGTH + 1) token ids, without overlap: the documents, each followed by the separator, are one stream."""
    between, stream = separator(tokenizer), list[int]()
    for ids in tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"] if documents else []:
        stream += [*ids, between] if between is not None else ids
    count = len(stream) // (LENGTH + 1)
    return torch.tensor(stream[: count * (LENGTH + 1)], dtype=torch.long).view(count, LENGTH + 1)


def _enough(rows: Tensor, count: int, text: Text | None) -> Tensor:
    """The rows, if there are `count`. Raises TextError."""
    if len(rows) < count:
        raise TextError(
            f"text {text.id if text else ''!r} is too short: a part of it has {len(rows)} windows of {LENGTH + 1} "
            f"tokens and needs {count}; give about {math.ceil(count / max(len(rows), 1))} times as much text"
        )
    return rows


def _spread(rows: Tensor, count: int, text: Text | None) -> Tensor:
    """`count` of the rows, evenly spread."""
    return _enough(rows, count, text)[torch.arange(count) * (len(rows) // count)]


@torch.no_grad()
def nats(model: nn.Module, rows: Tensor) -> float:
    """Mean negative log-likelihood of the tokens of the rows, all but the first of each."""
    total = 0.0
    for part in rows.split(CHUNK):
        logits = model(input_ids=part[:, :-1], use_cache=False).logits.double()
        total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return total / rows[:, 1:].numel()


@torch.no_grad()
def judged(model: nn.Module, setting: Setting) -> tuple[float, float]:
    """On the test windows: mean nats per token, and mean KL(dense || model) at every KL_STRIDE-th position."""
    nll, kl, count = 0.0, 0.0, 0
    for first in range(0, len(setting.test), CHUNK):
        rows = setting.test[first : first + CHUNK]
        if first not in setting.said:
            said = setting.model(input_ids=rows[:, :-1], use_cache=False).logits[:, ::KL_STRIDE]
            setting.said[first] = said.float().log_softmax(-1)
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits.float()
        nll += F.cross_entropy(logits.double().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
        mine, dense = logits[:, ::KL_STRIDE].log_softmax(-1), setting.said[first]
        kl += F.kl_div(mine, dense, log_target=True, reduction="sum").item()
        count += dense[..., 0].numel()
    return nll / setting.test[:, 1:].numel(), kl / count


def describe(setting: Setting) -> dict[str, Any]:
    """Model and data with their hashes; counts, budget and rates; threads, which decide the order of sums."""
    other = setting.other_text
    return {
        "model": setting.provenance["id"],
        "provenance": setting.provenance,
        "data": {**setting.text.describe(), **({"other": other.id, "other_sha256": other.sha256} if other else {})},
        "window": LENGTH,
        "train_windows": len(setting.train),
        "validation_windows": len(setting.validation),
        "test_windows": len(setting.test),
        "calibration_windows": min(CALIBRATION[setting.scale], len(setting.train)),
        "steps": setting.steps,
        "tokens": setting.steps * BATCH * LENGTH,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test windows as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned | Compressed, setting: Setting) -> dict[str, float]:
    """parameters; nonzero ones; bytes, density of what is stored compressed; optimizer steps, tokens that they read,
    parameters that they trained, the learning rate that was chosen."""
    compressed = arm if isinstance(arm, Compressed) else arm.compressed
    count = sum(parameter.numel() for parameter in arm.model.parameters())
    found = {"parameters": float(count), "bytes": count * UNTOUCHED_BITS / 8, "density": 1.0}
    if compressed is not None:
        found |= {name: compressed.totals()[name] for name in ("bytes", "density")}
    found["nonzero"] = float(sum(int(parameter.count_nonzero()) for parameter in arm.model.parameters()))
    trained = arm if isinstance(arm, Tuned) else Tuned(arm.model, 0.0)
    found |= {"steps": trained.steps, "tokens": trained.steps * BATCH * LENGTH, "trained": trained.trained}
    return found | ({"rate": trained.rate} if trained.steps else {})


def score(arm: Tuned | Compressed, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """nll: nats per token of the held-out windows. perplexity: its exponential. kl: to the dense model's predictions.
    nll_other: on a text of another kind, where the data is one of paperlab's own."""
    if start:
        return
    model = arm.model.eval()
    nll, kl = judged(model, setting)
    found = {"nll": nll, "perplexity": math.exp(min(nll, 700.0)), "kl": kl}
    yield found if setting.other is None else {**found, "nll_other": nats(model, setting.other)}
