"""Distilling a tuned encoder into one of half its blocks: how many held-out texts does the student get right?

As `cls`, but every arm trains a student made of the encoder's first blocks, and has a teacher: all blocks, tuned on the
seed's training texts before any arm begins. Default: questions in 42 classes, where a teacher can say more than the
label does. At `quick` the student's first block is frozen.
"""

from paperlab.core.task import Metric
from paperlab.tasks import cls
from paperlab.tasks.cls import Setting, describe, items, score, totals  # noqa: F401

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
COST = {"quick": 110, "full": 1500}
ARM_SECONDS = {"minilm-l6": 8}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS = ("minilm-l6",)
DATA = cls.DATA


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The setting, its teacher trained once for each seed and kept. Raises as `cls.make`."""
    return cls.setting_of(cls.corpus_of(model or MODELS[0], data or cls.DEFAULT, scale), seed, scale, distil=True)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed, with that seed's teacher."""
    return cls.setting_of(setting.corpus, seed, setting.scale, distil=True)
