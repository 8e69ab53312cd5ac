"""Execution in this process: a setting is made once, an arm is built and scored on it, its values are journalled."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from paperlab.core.card import Arm, arm_from
from paperlab.core.task import load_task
from paperlab.lab.arms import build_arm, tune_arm
from paperlab.lab.journal import Journal
from paperlab.lab.provenance import peak_memory, reset_peak_memory
from paperlab.lab.state import seed_all

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Place:
    """Where arms are run: a task, its model (None: its own), scale and data (None: the task's)."""

    task: str
    model: str | None
    scale: str
    data: str | None


@dataclass(frozen=True)
class Job:
    """One arm on one seed of a run.

    name: as shown. key: as in the journal. shift: added to the seed. tuned: what was chosen on the first seed; chosen
    by this job where None.
    """

    place: Place
    arm: Arm
    name: str
    key: str
    seed: int
    shift: int
    tuned: dict[str, Any] | None
    journal: Path

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {**asdict(self), "journal": str(self.journal)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Job":
        """A job from its JSON form."""
        given = {**row, "place": Place(**row["place"]), "arm": arm_from(row["arm"]), "journal": Path(row["journal"])}
        return cls(**given)


class Settings:
    """The setting that this process works on: a model is loaded once, only what a seed draws is made for each seed."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.seed: int | None = None
        self.setting: Any = None

    def get(self, place: Place, seed: int) -> Any:
        """The task's setting for a seed. Raises what the task raises for a model or text that cannot be used."""
        task = load_task(place.task)
        if (place, seed) == (self.place, self.seed):
            return self.setting
        if place == self.place and hasattr(task, "remake"):
            self.setting = task.remake(self.setting, seed)
        else:
            self.place, self.setting = None, None  # two models at once may not fit
            self.setting = task.make(seed, place.scale, model=place.model, data=place.data)
        self.place, self.seed = place, seed
        return self.setting

    def about(self, place: Place, seed: int) -> dict[str, Any]:
        """{"setting": what a record keeps of it, "items": how many an arm is scored on}."""
        task, setting = load_task(place.task), self.get(place, seed)
        # As JSON has it, in whichever process it was made.
        return json.loads(json.dumps({"setting": task.describe(setting), "items": task.items(setting)}))


def turns(job: Job, settings: Settings, progress: Progress) -> Iterator[None]:
    """Build and score one arm on one seed, yielding after each item; what the journal has already is skipped.

    An arm that breaks leaves its error in the journal. Raises OSError: the disk or the machine, not the method; the
    run stops and can be resumed.
    """
    task = load_task(job.place.task)
    # Where seeds are what is paired, a shifted seed trains on the very split of the seed that it is paired with;
    # elsewhere the items are the same for all seeds, and a shifted seed draws its own setting.
    setting = settings.get(job.place, job.seed + (job.shift if task.PAIRED_BY == "items" else 0))
    journal = Journal(job.journal)
    with journal.writing(job.key, job.seed) as writer:
        if writer is None:
            return
        try:
            yield from _turns(job, task, setting, writer, progress)
        except OSError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            writer.write({"error": text})
            progress({"kind": "error", "arm": job.name, "seed": job.seed, "message": text})


def _turns(job: Job, task: ModuleType, setting: Any, writer: Any, progress: Progress) -> Iterator[None]:
    seed, total = job.seed + job.shift, task.items(setting)

    def report(what: str, step: int, steps: int) -> None:
        progress({"kind": "build", "arm": job.name, "seed": job.seed, "what": what, "done": step, "total": steps})

    reset_peak_memory()
    seed_all(seed)
    clock = time.perf_counter()
    tuned = job.tuned or writer.tuned
    if tuned is None:
        tuned = tune_arm(job.arm, job.place.task, setting, seed, report)
        if tuned is not None:
            tuned = json.loads(json.dumps(tuned))  # as a resumed run will read it
            writer.write({"tuned": tuned})

    def make() -> Any:
        return build_arm(job.arm, job.place.task, setting, seed, report, tuned)

    built = make if task.TIMED else make()
    build_seconds = time.perf_counter() - clock
    totals = task.totals(built, setting)
    clock = time.perf_counter()
    for number, values in enumerate(task.score(built, setting, start=writer.done), writer.done + 1):
        writer.write({"item": values})
        progress({"kind": "item", "arm": job.name, "seed": job.seed, "done": number, "total": total, "values": values})
        yield
    score_seconds = time.perf_counter() - clock
    writer.write(
        {"end": {"totals": totals, "build": build_seconds, "score": score_seconds, "peak_memory": peak_memory()}}
    )


def run(job: Job, settings: Settings, progress: Progress) -> None:
    """All turns of one arm."""
    for _ in turns(job, settings, progress):
        pass


def run_in_turns(jobs: list[Job], settings: Settings, progress: Progress) -> None:
    """Several arms item by item, A B A B …: what slows the machine for a while slows them all."""
    waiting = [turns(job, settings, progress) for job in jobs]
    while waiting:
        waiting = [one for one in waiting if next(one, "end") != "end"]
