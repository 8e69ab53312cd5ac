"""One stage of a run: the arms of all checks that meet on one task and model, each run once.

Seeds outside, arms inside. An arm for which nothing is drawn runs on the first seed alone. How many seeds there are,
the task says; on a user's own model the first seed's draw is timed: a check with an arm that takes long then gets fewer
seeds. A rate is chosen on the first seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paperlab.core.card import Arm, Check
from paperlab.core.methods import Method, filled, find_method, identity
from paperlab.core.record import ArmResult
from paperlab.core.sources import arm_sources
from paperlab.core.task import load_task
from paperlab.lab.arms import acts_for, driver
from paperlab.lab.estimate import START, Estimate
from paperlab.lab.execute import Job, Place, Progress, run_in_turns
from paperlab.lab.journal import Journal
from paperlab.lab.pool import Executor, Here

SHIFT = 1000  # added to the seeds of an A/A control's second arm
LONG = 60.0  # seconds for one draw of an arm, above which a check gets FEW seeds
FEW = 3


@dataclass(frozen=True)
class Stage:
    """Where checks meet: a task on one model at one scale. fixed: the user chose the number of seeds."""

    task: str
    model: str | None
    scale: str
    data: str | None
    seeds: tuple[int, ...]
    fixed: bool = False

    @property
    def place(self) -> Place:
        """Where its arms are run."""
        return Place(self.task, self.model, self.scale, self.data)


@dataclass(frozen=True)
class Entry:
    """An arm as it is run. key: tells it from the others. drawn: whether its result depends on the seed."""

    arm: Arm
    name: str
    key: str
    drawn: bool
    shift: int = 0


@dataclass(frozen=True)
class Member:
    """A check of a method on a stage."""

    method: Method
    check: Check
    entries: tuple[Entry, ...]

    @property
    def drawn(self) -> bool:
        """Whether any of its arms is drawn."""
        return any(entry.drawn for entry in self.entries)


def is_drawn(arm: Arm, task: str) -> bool:
    """Whether anything is drawn for an arm: its task is paired by seeds or draws more than calibration data (DRAWS),
    its driver draws whatever it is given (DRAWS), or a method of its chain asks for the seed or for what is gathered
    from calibration data."""
    module = load_task(task)
    if module.PAIRED_BY == "seeds" or getattr(module, "DRAWS", False):
        return True
    for one, act in zip(arm.chain, acts_for(arm, task), strict=True):
        method = find_method(one.method)
        asked = {name for verb in method.verbs for name in method.asks[verb]}
        data = {name for verb in method.verbs for name in act.verbs[verb].data}
        if getattr(driver(act.name), "DRAWS", False) or asked & ({"seed"} | data):
            return True
    return False


def member(method: Method, check: Check, task: str) -> Member:
    """A check with its arms as they are run. An arm beside itself (an A/A control) runs twice: with other seeds where
    it is drawn, or it could show no noise."""
    entries = []
    for place, arm in enumerate(check.arms):
        key, drawn = identity(arm), is_drawn(arm, task)
        if place == 1 and key == identity(check.method):
            shift = SHIFT if drawn else 0
            entries.append(Entry(arm, f"{arm} again", f"{key} again", drawn, shift))
        else:
            entries.append(Entry(arm, str(arm), key, drawn))
    return Member(method, check, tuple(entries))


@dataclass
class Running:
    """A stage at work."""

    stage: Stage
    members: list[Member]
    journal: Journal
    progress: Progress
    recorded: Callable[[Member], None]
    estimate: Estimate
    later: float  # seconds expected for the stages after this one
    workers: int
    taken: set[tuple[str, int]] = field(default_factory=set)
    waiting: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entries = ordered(self.members)
        self.waiting = list(self.members)
        self.open = {(entry.key, seed) for entry in self.entries for seed in self.planned(entry)} - {
            (entry.key, seed)
            for entry in self.entries
            for seed in self.planned(entry)
            if self.journal.ended(entry.key, seed)
        }
        self.cut()

    @property
    def first(self) -> int:
        """The seed that is timed and on which rates are chosen."""
        return self.stage.seeds[0]

    def planned(self, entry: Entry) -> tuple[int, ...]:
        """The seeds that an arm is to run on, before any is left out."""
        return self.stage.seeds if entry.drawn else self.stage.seeds[:1]

    def job(self, entry: Entry, seed: int) -> Job:
        """An arm on a seed, with what was chosen on the first one."""
        tuned = None if seed == self.first else self.journal.tuned(entry.key, self.first)
        place = self.stage.place
        return Job(place, entry.arm, entry.name, entry.key, seed, entry.shift, tuned, self.journal.folder)

    def take(self, last: Job | None) -> Job | None:
        """The next job, if one can be begun: seed by seed; the process's last seed first, its setting is there."""
        seeds = list(self.stage.seeds)
        if last is not None and last.place == self.stage.place and last.seed in seeds:
            seeds.sort(key=lambda seed: seed != last.seed)
        for seed in seeds:
            for entry in self.entries:
                if (entry.key, seed) in self.open and (entry.key, seed) not in self.taken and self.ready(entry, seed):
                    self.taken.add((entry.key, seed))
                    return self.job(entry, seed)
        return None

    def ready(self, entry: Entry, seed: int) -> bool:
        """Whether all is known that a job needs: what the first seed chose, and how long its draw took."""
        if seed == self.first:
            return True
        if (entry.key, self.first) in self.open:
            return False
        return not self.measures or not any((one.key, self.first) in self.open for one in self.entries if one.drawn)

    @property
    def measures(self) -> bool:
        """Whether the number of seeds depends on the time that one takes: only where the task cannot know it."""
        known = self.stage.model is None or self.stage.model in load_task(self.stage.task).MODELS
        return len(self.stage.seeds) > FEW and not self.stage.fixed and not known

    def done(self, job: Job) -> None:
        """A job has ended: write the records of checks that are complete."""
        self.open.discard((job.key, job.seed))
        seconds = self.journal.seconds(job.key, job.seed)
        if seconds:
            self.estimate.took(job.place, job.arm, seconds)
        self.cut()
        self.tell_time()
        for one in [one for one in self.waiting if not self.missing(one)]:
            self.waiting.remove(one)
            self.recorded(one)

    def missing(self, one: Member) -> bool:
        """Whether a check lacks values."""
        seeds = self.seeds(one)
        return any(
            (entry.key, seed) in self.open for entry in one.entries for seed in self.planned(entry) if seed in seeds
        )

    def cut(self) -> None:
        """Once the first draw is complete, leave out seeds of checks that would take long."""
        if not self.measures or any((one.key, self.first) in self.open for one in self.entries if one.drawn):
            return
        needed = {(e.key, seed) for one in self.members for e in one.entries for seed in self.seeds(one)}
        self.open &= needed

    def seeds(self, one: Member) -> tuple[int, ...]:
        """The seeds of a check: one where nothing is drawn, few where a draw takes long."""
        if not one.drawn:
            return self.stage.seeds[:1]
        return self.stage.seeds[:FEW] if self.draws(one) else self.stage.seeds

    def draws(self, one: Member) -> dict[str, Any] | None:
        """What a record keeps of a number of seeds that was cut; None where it was not."""
        if not self.measures or not one.drawn or any((e.key, self.first) in self.open for e in self.entries if e.drawn):
            return None
        first = self.journal.decided("first_draw", lambda: {
            entry.key: self.journal.seconds(entry.key, self.first) for entry in self.entries if entry.drawn
        })  # fmt: skip
        longest = max(first.get(entry.key, 0.0) for entry in one.entries if entry.drawn)
        if longest <= LONG:
            return None
        return {"planned": len(self.stage.seeds), "made": FEW, "seconds": round(longest, 1)}

    def tell_time(self) -> None:
        """Say how long the rest will take."""
        place = self.stage.place
        arms = {entry.key: entry.arm for entry in self.entries}
        left = sum(self.estimate.of(place, arms[key]) for key, _ in self.open)
        self.progress({"kind": "estimate", "seconds": round(left / self.workers + self.later, 1)})

    def run(self, executor: Executor, size: int) -> None:
        """Run what is open and write all records."""
        for one in [one for one in self.waiting if not self.missing(one)]:
            self.waiting.remove(one)
            self.recorded(one)
        if not load_task(self.stage.task).TIMED:
            executor.run(self.take, self.progress, self.done, size)
            return
        here = executor if isinstance(executor, Here) else Here()
        for seed in self.stage.seeds:
            jobs = [self.job(entry, seed) for entry in self.entries if (entry.key, seed) in self.open]
            run_in_turns(jobs, here.settings, self.progress)
            for job in jobs:
                self.done(job)

    def result(self, entry: Entry, arm: Arm, seeds: tuple[int, ...]) -> ArmResult:
        """What an arm left, for a check with these seeds."""
        return ArmResult(
            arm=arm,
            params=filled(arm).params,
            sources=arm_sources(arm, self.stage.task),
            drawn=entry.drawn,
            shift=entry.shift,
            **self.journal.result(entry.key, tuple(seed for seed in self.planned(entry) if seed in seeds)),
        )


def ordered(members: Sequence[Member]) -> list[Entry]:
    """Every arm once: those of the first check, whose verdict is soonest there; then what is drawn, for it takes
    longest; then the rest."""
    first = list(members[0].entries)
    others = [entry for one in members[1:] for entry in one.entries]
    known: dict[str, Entry] = {}
    for entry in [*first, *sorted(others, key=lambda entry: not entry.drawn)]:
        known.setdefault(entry.key, entry)
    return list(known.values())


def expected(stage: Stage, members: Sequence[Member], estimate: Estimate, workers: int) -> float:
    """Seconds that a stage should take."""
    entries = ordered(members)
    timed = load_task(stage.task).TIMED
    total = sum(estimate.of(stage.place, e.arm) * (len(stage.seeds) if e.drawn else 1) for e in entries)
    return START + total / (1 if timed else workers)
