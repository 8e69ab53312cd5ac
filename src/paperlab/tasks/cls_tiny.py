"""Text classification by a model of 3 MB: which shape should it have, and what should it learn from?

A pretrained encoder is fine-tuned on one half of the training texts with their labels, once for each seed; it is the
teacher, and says what it thinks of the other half, whose labels no arm sees. An arm makes a student of its own, from
random weights, within the limit of bytes, and trains it for the same number of steps on either half. Data, splits and
figures are those of `cls`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from paperlab.assets.cache import cached_tensors
from paperlab.core.task import Metric
from paperlab.kit.classifier import Classifier, Teacher, lower
from paperlab.kit.tuning import Batch, Tuned, cross_entropy, fit, logits_of
from paperlab.tasks import cls
from paperlab.tasks.cls import items, score  # noqa: F401

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ()
AXES = ("bytes", "parameters", "steps", "trained")
TIMED = False
METRICS = {
    "accuracy": Metric("higher", "correct"),
    "cross_entropy": Metric("lower", "nats"),
    "shifted": Metric("higher", "shifted"),
}
PAIRED_BY = "seeds"
COST = {"quick": 175, "full": 1600}  # of two arms
ARM_SECONDS = {"minilm-l6": 60}
SEEDS = {"quick": 3, "full": 3, "gpu": 5}
MODELS = ("minilm-l6",)
DATA = cls.DATA

LIMIT = 3_000_000  # bytes of a student, at 32 bits for each parameter
STEPS = {"quick": 540, "full": 5000, "gpu": 6000}
RATES = (5e-4, 1.5e-3, 5e-3, 1.5e-2)  # tried by every arm on each seed, as shapes change with it
TEACHER_STEPS = {"quick": 120, "full": 400, "gpu": 400}
TEACHER_RATE = 2e-4


@dataclass
class Setting(cls.Setting):
    """As that of `cls`; train: the half with labels, which the teacher was tuned on. others: the half without. limit:
    bytes of a student. length: tokens of the longest text. seed_rates: learning rates that an arm tries on each seed,
    by itself; `rates` is one, so that nothing is chosen on the first seed."""

    others: Tensor = None  # type: ignore[assignment]
    limit: int = LIMIT
    length: int = 0
    seed_rates: tuple[float, ...] = RATES

    def unlabelled(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """As `batches`, of the half without labels: -1 stands for each."""
        for rows in self.order(self.others, seed):
            yield self.inputs(rows), torch.full((len(rows),), -1)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The setting, its teacher tuned once for each seed and kept. Raises as `cls.make`."""
    return setting_of(cls.corpus_of(model or MODELS[0], data or cls.DEFAULT, scale), seed, scale)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed, with that seed's teacher."""
    return setting_of(setting.corpus, seed, setting.scale)


def setting_of(corpus: cls.Corpus, seed: int, scale: str) -> Setting:
    """The corpus split by the seed as in `cls`, its training part halved; the start is the untouched encoder, its head
    fitted to the labelled half."""
    known = cls.setting_of(corpus, seed, scale)
    half = len(known.train) // 2
    start = _start(corpus, known.depth, known.train[:half])
    given = {field.name: getattr(known, field.name) for field in fields(known)} | {
        "model": start.eval(), "frozen": 0, "train": known.train[:half], "steps": STEPS[scale], "rates": RATES[:1],
    }  # fmt: skip
    made = Setting(**given, others=known.train[half:], limit=LIMIT, length=cls.LENGTH[scale])
    made.teacher = _teacher(made)
    return made


def _start(corpus: cls.Corpus, depth: int, train: Tensor) -> Classifier:
    """All blocks of the untouched encoder, with a head fitted to its features of these texts."""
    model = Classifier(lower(corpus.encoder, depth), len(corpus.names), corpus.provenance["pooling"])
    weight, bias = cls.probe(corpus.features[depth][train], corpus.labels[train], len(corpus.names))
    model.head.weight.data, model.head.bias.data = weight, bias
    return model


def _teacher(setting: Setting) -> Teacher:
    """The encoder tuned on the labelled half, with what it says of both halves."""
    corpus, scale = setting.corpus, setting.scale
    model = _start(corpus, setting.depth, setting.train)
    model.encoder.get_input_embeddings().requires_grad_(False)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def train() -> Mapping[str, Tensor]:
        whole = replace(setting, model=model, steps=TEACHER_STEPS[scale])
        with torch.random.fork_rng(devices=[]):
            fit(model, whole, cross_entropy, rate=TEACHER_RATE, seed=setting.seed, asks=("student", "labels"))
        known = torch.full((len(corpus.ids), len(corpus.names)), torch.nan)
        with torch.no_grad():
            for rows in torch.cat([setting.train, setting.others]).split(64):
                known[rows] = logits_of(model, setting.inputs(rows))
        state = model.state_dict()
        return {"known": known, **{name: state[name] for name in names}}

    key = {
        "weights": corpus.provenance["sha256"], **corpus.about, "scale": scale, "seed": setting.seed,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    stored = cached_tensors("cls_tiny", key, train, code=__file__)
    model.load_state_dict({name: stored[name] for name in names}, strict=False)
    return Teacher(model, stored["known"])


def describe(setting: Setting) -> dict[str, Any]:
    """As `cls.describe`, how many texts come without labels, the limit, and the rates that an arm tries."""
    rates = {"rates": list(setting.seed_rates)}
    return {**cls.describe(setting), "unlabelled": len(setting.others), "limit": setting.limit, **rates}


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters and bytes of the student, 32 bits for each; steps, rate, parameters that were trained; its sizes."""
    count = float(sum(parameter.numel() for parameter in arm.model.parameters()))
    config: Any = arm.model.encoder.config if isinstance(arm.model, Classifier) else None
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    sizes = {name: float(getattr(config, name)) for name in names if config is not None}
    rate = float(getattr(arm.model, "rate", arm.rate))  # what the arm found, where it tried several
    told = {"parameters": count, "bytes": 4 * count, "steps": float(arm.steps), "rate": rate}
    return told | {"trained": float(arm.trained)} | sizes
