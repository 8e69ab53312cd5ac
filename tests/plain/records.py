"""Synthetic records for tests, built through the real dataclasses: `record()` with any field replaced."""

import random
from dataclasses import replace
from typing import Any

from paperlab.core.card import Arm, Check
from paperlab.core.record import ArmResult, Record
from paperlab.core.task import Metric

METRICS = {
    "perplexity": Metric("lower", "nll", "exp_mean"),
    "kl": Metric("lower", "kl"),
    "accuracy": Metric("higher", "right"),
}


def check(**fields: Any) -> Check:
    """A check of "easyquant" against round-to-nearest; any field can be replaced."""
    standard: dict[str, Any] = {
        "claim": "better-than-rtn",
        "says": "At 4 bits, keeping outliers exact loses less than rounding; the paper: 7.0 against 10.3 on BLOOM-7B",
        "task": "lm_compress",
        "metric": "perplexity",
        "expect": "lower",
        "margin": 0.02,
        "method": Arm("easyquant", {"bits": 4, "group": None}),
        "baseline": Arm("round-to-nearest", {"bits": 4, "group": None}),
        "gap": "the paper: 7 to 176 billion parameters; here 135 million. A pass says nothing about large models.",
        "beside": (Arm("gptq", {"bits": 4, "group": None}), Arm("nf4", {"group": 64})),
        "equal": {"bits_per_weight": 0.02},
    }
    return Check(**{**standard, **fields})


def arm_result(
    arm: Arm, *, loss: float, items: int = 64, seeds: tuple[int, ...] = (0,), bits: float = 4.25, build: float = 3.0,
    noise: float = 0.05, error: str | None = None,
) -> ArmResult:  # fmt: skip
    """Per-item values around `loss` nats; the difficulty of an item is shared by all arms, so pairing pays."""
    samples: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        shared, own = random.Random(1000 + seed), random.Random(f"{arm}/{seed}")
        hard = [shared.gauss(0, 0.4) for _ in range(items)]
        nll = [max(0.0, loss + h + own.gauss(0, noise)) for h in hard]
        samples[str(seed)] = {
            "nll": nll,
            "kl": [max(0.0, (loss - 2.9) * own.uniform(0.5, 1.5)) for _ in nll],
            "right": [float(own.random() < 1 / (1 + loss / 3)) for _ in nll],
        }
    return ArmResult(
        arm=arm,
        samples={} if error else samples,
        totals={} if error else {"bits_per_weight": bits, "bytes": round(106e6 * bits / 8), "parameters": 134_515_008},
        seconds={"build": [] if error else [build] * len(seeds), "score": [] if error else [1.5] * len(seeds)},
        peak_memory=1_250_000_000,
        error=error,
        params=dict(arm.params),
        sources={"kit/layers.py": "0" * 12},
    )


def record(check_: Check | None = None, losses: dict[str, float] | None = None, **fields: Any) -> Record:
    """A finished record of `check_`. losses: nats per arm, named by its text or its method's slug."""
    check_ = check_ or check()
    known = {"easyquant": 3.15, "round-to-nearest": 3.30, "gptq": 3.10, "nf4": 3.12, **(losses or {})}
    seeds = fields.get("seeds", [0])
    arms = [
        arm_result(arm, loss=known.get(str(arm), known.get(arm.method, 3.2)), seeds=tuple(seeds),
                   bits=4.25 if i < 2 else 3.75 + 0.25 * i, build=1.5 + 4 * i)
        for i, arm in enumerate(check_.arms)
    ]  # fmt: skip
    standard = Record(
        id="20260101T120000-easyquant-4f2a",
        method="easyquant",
        paper="easyquant",
        check=check_,
        check_hash=check_.hash,
        task=check_.task,
        task_version=1,
        metric=check_.metric,
        metrics=METRICS,
        paired_by="items",
        model="SmolLM2-135M-Instruct",
        setting={"model": {"id": "SmolLM2-135M-Instruct", "hash": "ab12"}, "data": {"id": "text", "windows": 64}},
        scale="quick",
        seeds=[0],
        arms=arms,
        status="finished",
        code_hash="0" * 12,
        commit="791de42",
        dirty=False,
        packages={"torch": "2.13.0", "numpy": "2.4.6"},
        machine="two-core-box",
        command="paperlab run easyquant --scale quick",
        started="2026-01-01T12:00:00+00:00",
        finished="2026-01-01T12:01:30+00:00",
    )
    return replace(standard, **fields)
