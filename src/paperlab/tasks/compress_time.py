"""The time that a compressor takes, arms in turns: seconds to compress the first blocks of a language model."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from paperlab.core.task import Metric
from paperlab.kit.compressed import Compressed
from paperlab.kit.walk import blocks
from paperlab.tasks import lm_compress
from paperlab.tasks.lm_compress import Setting

VERSION = 2
SCORES = ("Compressed",)
SUPPLIES = ("model", "calibration")
AXES = ("bytes", "bits_per_weight", "density")
TIMED = True
METRICS = {"seconds": Metric("lower", "seconds")}
PAIRED_BY = "items"
COST = {"quick": 40, "full": 120}
SEEDS = {"quick": 1, "full": 1}
MODELS = ("smollm2-135m",)
ARM_SECONDS = {"smollm2-135m": 15}
DATA = lm_compress.DATA

BLOCKS = 2  # of the model's stack: the cost of a block is the same for all
TURNS = {"quick": 8, "full": 20, "gpu": 20}


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """As `lm_compress`, with the model cut to its first BLOCKS blocks."""
    setting = lm_compress.make(seed, scale, model=model or MODELS[0], data=data)
    del blocks(setting.model)[1][BLOCKS:]
    return setting


def describe(setting: Setting) -> dict[str, Any]:
    """As `lm_compress`, and the number of blocks."""
    return lm_compress.describe(setting) | {"blocks": BLOCKS}


def items(setting: Setting) -> int:
    """Number of turns that each arm takes."""
    return TURNS[setting.scale]


def totals(arm: Callable[[], Compressed], setting: Setting) -> dict[str, float]:
    """Size after compression; this first build is also the warm-up."""
    return arm().totals()


def score(arm: Callable[[], Compressed], setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """seconds: wall time of one whole compression, the copy of the model included for every arm alike."""
    for _ in range(start, items(setting)):
        began = time.perf_counter()
        arm()
        yield {"seconds": time.perf_counter() - began}
