"""What a task module must offer, and how the lab finds one."""

import ast
import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from paperlab.core.parsing import syntax_tree

TASKS = Path(__file__).resolve().parent.parent / "tasks"
SCALES = ("quick", "full", "gpu")


@dataclass(frozen=True)
class Metric:
    """How items become one figure.

    better: the good direction. of: the key of the per-item value. aggregate: "mean", or "exp_mean"
    (perplexity from nats per token).
    """

    better: Literal["lower", "higher"]
    of: str
    aggregate: Literal["mean", "exp_mean"] = "mean"


class Task(Protocol):
    """A module in `tasks/`. `arm` is what a driver built (where TIMED, a function that builds it).

    The constants VERSION, SCORES, SUPPLIES, AXES and MODELS are literals: they are read without importing the task.
    """

    VERSION: int
    SCORES: tuple[str, ...]  # kinds of result that it judges, as drivers name them in BUILDS
    SUPPLIES: tuple[str, ...]  # attributes of its setting that drivers may hand to a method
    AXES: tuple[str, ...]  # totals by which arms may be compared: bytes, density, steps, seconds ...
    TIMED: bool  # True: `score` gets a builder to time, and arms take turns item by item
    METRICS: dict[str, Metric]
    PAIRED_BY: Literal["items", "seeds"]
    COST: dict[str, int]  # seconds for all arms and seeds, per scale, on 2 cores
    ARM_SECONDS: dict[str, float]  # by model: seconds of one arm on one seed at `quick`, on one core
    MODELS: tuple[str, ...]  # default models, the cheapest first, or () where the task trains its own
    SEEDS: dict[str, int]  # number of seeds per scale
    # Optional: MODEL_SEEDS: dict[str, dict[str, int]], for a default model on which a draw takes long.
    DATA: dict[str, str]  # what, licence, where from

    def make(self, seed: int, scale: str, *, model: str | None, data: str | None) -> Any:
        """The setting: model, calibration and held-out data, all from the seed."""

    # Optional: DRAWS = True where more of the setting than calibration data is drawn by the seed. Where PAIRED_BY is
    # "items", the items are the same for all seeds.
    # Optional: def remake(setting, seed) -> setting. The setting for another seed, without loading the model again.

    def describe(self, setting: Any) -> dict[str, Any]:
        """What a record keeps of the setting: model id, hash and source; data id, hash and counts."""

    def items(self, setting: Any) -> int:
        """Number of items that `score` yields."""

    def totals(self, arm: Any, setting: Any) -> dict[str, float]:
        """Figures of the arm as a whole, those of AXES among them: bits per weight, bytes, density, steps."""

    def score(self, arm: Any, setting: Any, start: int = 0) -> Iterator[dict[str, float]]:
        """One dict of values per item, from item `start` on; deterministic."""


def tasks() -> tuple[str, ...]:
    """Names of all tasks, by their files."""
    return tuple(sorted(path.stem for path in TASKS.glob("*.py") if not path.name.startswith("_")))


def load_task(name: str) -> ModuleType:
    """Import a task (this is what loads torch). Raises LookupError with near names."""
    name = name.replace("-", "_")
    if name not in tasks():
        near = difflib.get_close_matches(name, tasks(), n=2, cutoff=0.4)
        raise LookupError(f"no task {name!r}; known: {', '.join(near or tasks())}")
    return importlib.import_module(f"paperlab.tasks.{name}")


def constants(name: str) -> dict[str, Any]:
    """The literal constants of a task, read without importing it; {} if there is no such task."""
    file = TASKS / f"{name}.py"
    try:
        stat = file.stat()
    except OSError:
        return {}
    return _constants(file, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _constants(file: Path, _: int) -> dict[str, Any]:
    found = {}
    for node in syntax_tree(file.read_text(encoding="utf-8"), file).body:
        target, value = None, None
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        if isinstance(target, ast.Name) and target.id.isupper() and value is not None:
            try:
                found[target.id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found


def task_version(name: str) -> int | None:
    """The VERSION of a task, read without importing it; None if there is no such task."""
    version = constants(name).get("VERSION")
    return None if version is None else int(version)
