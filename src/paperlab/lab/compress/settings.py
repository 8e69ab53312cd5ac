"""What is asked of a compression, read from words: a target, a limit of quality, budgets of time."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from paperlab.lab.errors import RunError
from paperlab.lab.recovery import Budget

METRICS = ("perplexity", "flips", "kl")
EXPORTS = ("hf", "compressed-tensors", "gguf")
TEXT = "abstracts"
NONE = Budget()
SIZES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Target:
    """times: smaller than 16 bits per weight; bytes: of the weights' file; speed: generated tokens per second here."""

    kind: Literal["times", "bytes", "speed"]
    value: float

    def says(self) -> str:
        """As it may be written."""
        if self.kind == "times":
            return f"{self.value:g}x"
        return f"{self.value / 1e6:g}MB" if self.kind == "bytes" else f"{self.value:g}tok/s"

    def bytes(self, weights: int) -> int | None:
        """The most bytes of the result; None for a speed."""
        if self.kind == "speed":
            return None
        return int(self.value if self.kind == "bytes" else 2 * weights / self.value)


def target_of(word: str) -> Target:
    """4x, 120MB, 1.5GB, 200tok/s. Raises RunError."""
    plain = word.strip().lower().replace(" ", "")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:(x)|([kmg]?)(i?)b|(tok/s|tokens/s|t/s))", plain)
    if not found or float(found[1]) <= 0:
        raise RunError(
            f"target {word!r}: a ratio such as 4x (to 16 bits a weight), a size (120MB) or a speed (200tok/s)"
        )
    number = float(found[1])
    if found[2]:
        if number <= 1:
            raise RunError(f"target {word!r}: more than 1x, which is 16 bits for each weight: 4x")
        return Target("times", number)
    if found[5]:
        return Target("speed", number)
    return Target("bytes", number * (1024 ** " kmg".index(found[3] or " ") if found[4] else SIZES[found[3]]))


def share_of(word: str | float) -> float:
    """1%, 1 % or 0.01 as 0.01. Raises RunError."""
    try:
        plain = str(word).strip()
        share = float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 10 or (share >= 1 and not str(word).strip().endswith("%")):
        raise RunError(f"within {word!r}: a percentage such as 1%, or a share such as 0.01")
    return share


def budget_of(word: str | float) -> Budget:
    """30m, 90s, 1h, 200steps, 50ktokens; 0: none. Raises RunError."""
    plain = str(word).strip().lower().replace(" ", "")
    if plain in ("0", "0.0", "none", "off"):
        return Budget()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:(s|m|min|h)|([km]?)(tokens|steps))", plain)
    if not found:
        raise RunError(f"{word!r}: a time such as 30m, 90s or 2h, or 200steps, or 50ktokens; 0 for none")
    number = float(found[1])
    if found[2]:
        return Budget(seconds=number * {"s": 1, "m": 60, "min": 60, "h": 3600}[found[2]])
    count = round(number * SIZES[found[3]])
    return Budget(tokens=count) if found[4] == "tokens" else Budget(steps=count)


@dataclass(frozen=True)
class Settings:
    """target, within: both, or one of them. metric: what `within` limits: perplexity relative to the original's, the
    share of flips, or KL in nats per token. data: a text's name or file. texts: documents instead. recipe: a file of an
    earlier run. recover: its budget. search: seconds for the evolution. tokens: of held-out text that decide."""

    target: Target | None
    within: float | None
    metric: str = "perplexity"
    data: str = TEXT
    texts: tuple[str, ...] | None = None
    recipe: Path | None = None
    recover: Budget = NONE
    search: float = 120.0
    tokens: int = 4096
    exports: tuple[str, ...] = ("gguf",)
    anyway: bool = False
    keep: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.target is None and self.within is None and self.recipe is None:
            raise RunError("what is wanted: a target (4x, 120MB, 200tok/s), a limit (within 1%), or both; or a recipe")
        if self.recipe is not None and self.target is not None:
            raise RunError("a recipe says every level; leave the target out")
        if self.metric not in METRICS:
            raise RunError(f"no metric {self.metric!r}; {', '.join(METRICS)}")
        if unknown := set(self.exports) - set(EXPORTS):
            raise RunError(f"no export {min(unknown)!r}; {', '.join(EXPORTS)}")

    def says(self) -> dict[str, Any]:
        """For the recipe file."""
        return {
            "target": self.target.says() if self.target else None,
            "within": self.within,
            "metric": self.metric,
            "data": "texts given from Python" if self.texts is not None else self.data,
            "recover": {name: value for name, value in asdict(self.recover).items() if value},
            "search_seconds": self.search,
            "seed": self.seed,
        }
