"""Networks of several sizes from one encoder that is fine-tuned on text classification: how good is the front?

As `cls`, but an arm leaves a front of networks (`kit.elastic.Front`), between which validation data chose, and has a
budget of compute for all that it trains and tries: `steps` training steps of the whole network. A front is judged on
test texts by its hypervolume: the mean over shares of parameters, from a tenth to all, of the accuracy of the network
that would be used where that share may stay. Shares are of the blocks that are trained: at `quick` the upper four of
six, as the lower ones are run once for all texts; at `full` all. Embeddings, lower blocks and head are the same
whatever is chosen, and do not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.core.task import Metric
from paperlab.kit import classifier
from paperlab.kit.classifier import Classifier, States, states_after, upper
from paperlab.kit.elastic import Front, Member
from paperlab.kit.tuning import Tuned
from paperlab.kit.walk import blocks
from paperlab.tasks import cls
from paperlab.tasks.cls import items  # noqa: F401

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ()
AXES = ("parameters", "compute", "evaluations", "steps", "trained")
TIMED = False
METRICS = {
    "hypervolume": Metric("higher", "hypervolume"),
    "accuracy_50": Metric("higher", "correct_50"),
    "accuracy_30": Metric("higher", "correct_30"),
    "accuracy": Metric("higher", "correct"),
}
PAIRED_BY = "seeds"
COST = {"quick": 180, "full": 1000}  # of two arms
ARM_SECONDS = {"minilm-l6": 60}
SEEDS = {"quick": 3, "full": 5, "gpu": 5}
MODELS = ("minilm-l6",)
DATA = cls.DATA

STEPS = {"quick": 230, "full": 720, "gpu": 3000}  # compute of an arm, in training steps of the whole network
RATES = {
    "quick": (1e-4, 2e-4, 4e-4, 8e-4),
    "full": (5e-5, 1e-4, 2e-4, 4e-4),
    "gpu": (5e-5, 1e-4, 2e-4, 4e-4),
}  # tried by every arm
VALIDATION = 240
LEAST = 0.1  # the smallest share that counts
FORWARD = 1 / 3  # compute of a forward pass, of a training step on as many texts


@dataclass
class Setting(cls.Setting):
    """As that of `cls`; validation also judges a front, by its hypervolume."""

    @property
    def validation_steps(self) -> float:
        """Compute of validating the whole network, in training steps."""
        return FORWARD * len(self.validation) / cls.BATCH

    def validate(self, model: nn.Module) -> float:
        """Accuracy of a network, or hypervolume of a front, on the validation texts."""
        if isinstance(model, Front):
            return model.hypervolume([member.validation for member in model.members], LEAST)
        return super().validate(model)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The setting; the seed draws the split. Raises as `cls.make`."""
    corpus = cls.corpus_of(model or MODELS[0], data or cls.DEFAULT, scale)
    frozen = len(blocks(corpus.encoder)[1]) // 3 if scale == "quick" else 0
    if frozen:
        corpus.states[frozen] = _states(corpus, frozen, scale)
    return setting_of(corpus, seed, scale)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed: only what it draws is made again."""
    return setting_of(setting.corpus, seed, setting.scale)


def _states(corpus: cls.Corpus, frozen: int, scale: str) -> States:
    """What block `frozen` leaves of each text, computed once and kept."""

    def compute() -> dict[str, Tensor]:
        return {"flat": states_after(corpus.encoder, corpus.ids, (frozen,))[frozen].flat}

    key = {
        "weights": corpus.provenance["sha256"], **corpus.about, "scale": scale, "frozen": frozen,
        "texts": len(corpus.ids), "threads": torch.get_num_threads(),
    }  # fmt: skip
    flat = cached_tensors("cls_elastic", key, compute, code=str(classifier.__file__))["flat"]
    return States(flat, torch.tensor([0, *map(len, corpus.ids)]).cumsum(0))


def setting_of(corpus: cls.Corpus, seed: int, scale: str) -> Setting:
    """The corpus split by the seed as in `cls`, and where arms start: its linear probe on more trainable blocks."""
    known = cls.setting_of(corpus, seed, scale)
    given = {field.name: getattr(known, field.name) for field in fields(known)}
    frozen = len(blocks(corpus.encoder)[1]) // 3 if scale == "quick" else 0
    encoder = upper(corpus.encoder, frozen) if frozen else known.model.encoder
    start = Classifier(encoder, len(corpus.names), corpus.provenance["pooling"])
    start.head.load_state_dict(known.model.head.state_dict())  # type: ignore[union-attr]
    given |= {
        "model": start.eval(), "frozen": frozen, "steps": STEPS[scale], "rates": RATES[scale],
        "train": torch.cat([known.train, known.validation[VALIDATION:]]), "validation": known.validation[:VALIDATION],
    }  # fmt: skip
    return Setting(**given)


def describe(setting: Setting) -> dict[str, Any]:
    """As `cls.describe`."""
    return {**cls.describe(setting), "least": LEAST}


def _front(arm: Tuned) -> Front:
    """The arm's front; a single model is one of its own, of the whole size."""
    return arm.model if isinstance(arm.model, Front) else Front([Member(1.0, 0.0, arm.model)], 0.0, 1)


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """compute, in training steps of the whole network; evaluations: networks that were tried; members: of the front;
    parameters: of all models that the front needs, without frozen blocks and what a member shares with another;
    steps, the learning rate that was chosen, and the largest number of parameters that were trained at once."""
    front = _front(arm)
    return {
        "compute": front.compute,
        "evaluations": float(front.evaluations),
        "members": float(len(front.members)),
        "parameters": float(sum(parameter.numel() for parameter in front.parameters())),
        "steps": float(arm.steps),
        "rate": arm.rate,
        "trained": float(arm.trained),
    }


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """On the test texts: hypervolume from a tenth of the parameters to all; correct: share that the largest network of
    the front gets right; correct_50, correct_30: the one that is used where so much may stay, 0 where none is."""
    if start:
        return
    front, found = _front(arm), list[float]()
    for index in range(len(front.members)):
        with front.used(index) as model:
            logits, labels = setting.logits(model, setting.test)
        found.append((logits.argmax(-1) == labels).double().mean().item())

    def at(share: float) -> float:
        index = front.at(share)
        return 0.0 if index is None else found[index]

    yield {
        "hypervolume": front.hypervolume(found, LEAST),
        "correct": found[-1],
        "correct_50": at(0.5),
        "correct_30": at(0.3),
    }
