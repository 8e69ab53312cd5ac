"""How long a run will take: from what the same arms took before on this machine, else from what their task says."""

import json
from contextlib import suppress
from pathlib import Path

from paperlab.core.card import Arm
from paperlab.core.files import write_atomically
from paperlab.core.home import home
from paperlab.core.methods import identity
from paperlab.core.task import load_task
from paperlab.lab.execute import Place

START = 8.0  # seconds for a process to load torch and a model
MOST = 5000  # arms remembered


def file() -> Path:
    """Seconds by arm and place, in the user's cache: only a memory, never the source of anything."""
    return home() / "cache" / "seconds.json"


class Estimate:
    """Seconds of arms, expected and measured."""

    def __init__(self) -> None:
        self.known: dict[str, float] = {}
        self.expected = self.measured = 0.0
        with suppress(OSError, ValueError):
            self.known = {str(key): float(value) for key, value in json.loads(file().read_bytes()).items()}

    def of(self, place: Place, arm: Arm) -> float:
        """Seconds that one draw of an arm should take, at the pace of this run so far."""
        pace = (self.measured + START) / (self.expected + START)
        return pace * self._of(place, arm)

    def _of(self, place: Place, arm: Arm) -> float:
        known = self.known.get(_key(place, arm))
        if known is not None:
            return known
        task = load_task(place.task)
        by_model = getattr(task, "ARM_SECONDS", {})
        quick = by_model.get(place.model) or max(by_model.values(), default=task.COST.get("quick", 60) / 8)
        return quick * task.COST.get(place.scale, 60) / max(task.COST.get("quick", 60), 1)

    def took(self, place: Place, arm: Arm, seconds: float) -> None:
        """What a draw of an arm took."""
        self.expected += self._of(place, arm)
        self.measured += seconds
        self.known.pop(_key(place, arm), None)
        self.known[_key(place, arm)] = round(seconds, 2)

    def keep(self) -> None:
        """Remember what was measured; a folder that cannot be written is no error."""
        with suppress(OSError):
            file().parent.mkdir(parents=True, exist_ok=True)
            latest = dict(list(self.known.items())[-MOST:])
            write_atomically(file(), json.dumps(latest, indent=0).encode())


def _key(place: Place, arm: Arm) -> str:
    return f"{place.task} {place.model} {place.scale} {place.data}: {identity(arm)}"
