"""Running checks: which, on what, and the record of each.

What is finished is never done again: each value goes to a journal as soon as it exists, and `resume` goes on behind the
last whole line. A check is recorded as soon as its arms are complete. The smallest model goes first.
"""

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from paperlab.assets.models import ModelError
from paperlab.core.card import Arm, Check
from paperlab.core.methods import Method, filled, find_method, methods
from paperlab.core.published import publish
from paperlab.core.record import ArmResult, Record, Status, append
from paperlab.core.signature import show
from paperlab.core.sources import arm_sources
from paperlab.core.task import SCALES, constants, load_task
from paperlab.lab.arms import check_arms, check_values
from paperlab.lab.errors import RunError
from paperlab.lab.estimate import START, Estimate
from paperlab.lab.execute import Progress
from paperlab.lab.journal import Journal
from paperlab.lab.machine import describe_machine, machine_id
from paperlab.lab.pool import Executor, Here, executor
from paperlab.lab.provenance import code_hash, git_state, package_versions
from paperlab.lab.stage import Member, Running, Stage, expected, member, ordered
from paperlab.lab.state import random_state_kept


@dataclass(frozen=True)
class Wanted:
    """A check to be run. on: the task and model (as the task names it) that it is to be run on; None: all of them.
    changed: whether the user set parameters."""

    method: Method
    check: Check
    on: tuple[str, str | None] | None = None
    changed: bool = False


def run_checks(
    name: str,
    *,
    claim: str | None = None,
    scale: str = "quick",
    model: str | None = None,
    data: str | None = None,
    params: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    resume: bool = False,
    jobs: int | None = None,
    on: str | None = None,
    progress: Progress = lambda event: None,
) -> list[Record]:
    """Run the checks of method `name` and append a record for each task and model they name.

    claim: only this one. model, data: the user's own in place of the task's. params: override the method
    arm's parameters, and those of the other arms that had the same value (the record then belongs to no claim of the
    card). seeds: how many, from 0. jobs: processes of one thread each, as many as there are cores unless named; 1 runs
    in this process. on: a Ray cluster to run on (`paperlab.lab.cluster`), else this machine.
    Raises RunError, UnknownMethod, or what the task says of an unusable model or text. An arm that breaks
    does not raise: its error is in the record. Random states and torch's threads are left as they are.
    """
    wanted = chosen(find_method(name), claim, params or {})
    return run_all(
        wanted, scale=scale, model=model, data=data, params=params, seeds=seeds, resume=resume, jobs=jobs,
        on=on, progress=progress,
    )  # fmt: skip


def run_all(
    wanted: Sequence[Wanted],
    *,
    scale: str = "quick",
    model: str | None = None,
    data: str | None = None,
    params: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    resume: bool = False,
    jobs: int | None = None,
    on: str | None = None,
    progress: Progress = lambda event: None,
) -> list[Record]:
    """Run checks of any methods together: an arm that several of them have runs once. Otherwise as `run_checks`."""
    if scale not in SCALES:
        raise RunError(f"no scale {scale!r}; use one of {', '.join(SCALES)}")
    run = _Run(scale, model, data, dict(params or {}), seeds, resume, progress)
    stages = stages_of(wanted, scale, model, data, seeds)
    run.plan(stages)
    with random_state_kept():
        workers = executor(jobs or (1 if run.short and on is None else None), on)
        try:
            return run.all(workers)
        finally:
            workers.close()
            run.estimate.keep()


def chosen(method: Method, claim: str | None = None, params: Mapping[str, Any] | None = None) -> list[Wanted]:
    """The checks of a method, or one of them, with the method's parameters overridden. Raises RunError for none."""
    checks = [check for check in method.card.checks if claim in (None, check.claim)]
    if not checks:
        known = ", ".join(check.claim for check in method.card.checks)
        if claim is None:
            raise RunError(f"{method.slug} is a baseline: it makes no claim to check; `paperlab compare` shows it")
        raise RunError(f"{method.slug} has no check {claim!r}; it has {known or 'none'}")
    return [Wanted(method, with_params(check, params or {}), changed=bool(params)) for check in checks]


def with_params(check: Check, params: Mapping[str, Any]) -> Check:
    """The check with parameters of its method overridden, and of every other arm that has the same parameter with the
    same value: what was held equal stays equal."""
    if not params:
        return check
    own = filled(check.method).params

    def changed(arm: Arm) -> Arm:
        has = filled(arm).params
        shared = {name: value for name, value in params.items() if name in has and has[name] == own.get(name)}
        return Arm(arm.method, {**arm.params, **shared}, arm.after)

    gates = tuple(replace(gate, method=changed(gate.method), baseline=changed(gate.baseline)) for gate in check.gates)
    return replace(
        check,
        method=Arm(check.method.method, {**check.method.params, **params}, check.method.after),
        baseline=changed(check.baseline),
        rivals=tuple(map(changed, check.rivals)),
        beside=tuple(map(changed, check.beside)),
        trivial=check.trivial and changed(check.trivial),
        ablation=check.ablation and changed(check.ablation),
        gates=gates,
    )  # fmt: skip


def of_family(family: str) -> list[Wanted]:
    """All checks of a family's methods. Raises RunError where there are none."""
    found = [one for m in methods().values() if m.card.family == family and m.card.checks for one in chosen(m)]
    if not found:
        raise RunError(f"no method of the family {family!r} has a check")
    return found


def outdated(what: str | None = None) -> dict[str, list[Wanted]]:
    """By scale, exactly the checks whose current verdict is outdated; of one family or method, if named."""
    from paperlab.core.standings import outdated_checks

    found: dict[str, list[Wanted]] = {}
    for slug, claim, task, model, scale in outdated_checks():
        method = find_method(slug)
        if what is not None and what not in (slug, method.card.family):
            continue
        known = constants(task).get("MODELS", ())
        if known and model not in known:
            continue  # a model of the user's: only they know where it lies
        (one,) = chosen(method, claim)
        found.setdefault(scale, []).append(replace(one, on=(task, model if known else None)))
    return found


def stages_of(
    wanted: Iterable[Wanted], scale: str, model: str | None, data: str | None, seeds: int | None
) -> dict[Stage, list[Member]]:
    """What meets on which stage. A check's own data set is used unless the user names another."""
    stages: dict[Stage, list[Member]] = {}
    for one in wanted:
        for task_name in one.check.tasks:
            task = load_task(task_name)
            for model_name in (model,) if model or not task.MODELS else one.check.models or task.MODELS:
                if model is None and task.MODELS and model_name not in task.MODELS:
                    continue  # a check may name models of one of its tasks only
                if one.on is not None and one.on != (task_name, model_name):
                    continue
                check_arms(one.check, task_name)  # a wrong name or parameter stops here, before any work
                if one.changed:
                    check_values(one.check.method, task_name)
                own = getattr(task, "MODEL_SEEDS", {}).get(model_name, {})
                planned = tuple(range(seeds or own.get(scale) or task.SEEDS.get(scale, 1)))
                stage = Stage(task_name, model_name, scale, data or one.check.data or None, planned, seeds is not None)
                stages.setdefault(stage, []).append(member(one.method, one.check, task_name))
    return stages


class _Run:
    """One call: its stages, what they left, and how long the rest will take."""

    def __init__(
        self, scale: str, model: str | None, data: str | None, params: dict[str, Any], seeds: int | None, resume: bool,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.scale, self.model, self.data, self.params, self.seeds = scale, model, data, params, seeds
        self.resume, self.progress = resume, progress
        self.estimate = Estimate()
        self.stages: list[tuple[Stage, list[Member]]] = []
        self.machines: set[str] = set()
        self.records: list[Record] = []
        self.journals: list[Journal] = []

    def plan(self, stages: Mapping[Stage, list[Member]]) -> None:
        """The quickest stage first; what is timed last, when nothing else runs."""

        def cost(found: tuple[Stage, list[Member]]) -> tuple[bool, float]:
            return load_task(found[0].task).TIMED, expected(*found, self.estimate, 1)

        self.stages = sorted(stages.items(), key=cost)

    @property
    def short(self) -> bool:
        """Whether all arms together take less than a process takes to start."""
        return sum(expected(*one, self.estimate, 1) - START for one in self.stages) < START

    def all(self, workers: Executor) -> list[Record]:
        """Every stage; what they left is recorded and their journals are closed."""
        unusable: ModelError | None = None
        for number, (stage, members) in enumerate(self.stages):
            later = sum(expected(*one, self.estimate, workers.workers) for one in self.stages[number + 1 :])
            try:
                self.one(stage, members, workers, later)
            except ModelError as error:
                if self.model is None:
                    raise
                unusable = error  # a language model given to a check that has an encoder's task too, or the reverse
                self.progress({"kind": "skipped", "task": stage.task, "message": str(error)})
        if unusable and not self.records:
            raise unusable
        # Only now: a run of several stages that is killed in the last one must find the first ones done when resumed.
        self.progress({"kind": "recorded", "records": self.records})
        for journal in self.journals:
            with suppress(FileNotFoundError):
                journal.close()
        return self.records

    def one(self, stage: Stage, members: list[Member], workers: Executor, later: float) -> None:
        """All arms of one stage, and a record for each check."""
        task = load_task(stage.task)
        entries = ordered(members)
        names = [entry.name for entry in entries]
        self.progress({"kind": "stage", "task": stage.task, "model": stage.model, "scale": stage.scale, "arms": names})
        ahead = later + expected(stage, members, self.estimate, workers.workers)
        self.progress({"kind": "estimate", "seconds": round(ahead, 1)})
        host: Executor = Here() if task.TIMED and not isinstance(workers, Here) else workers
        about = host.about(stage.place, stage.seeds[0])
        setting = about["setting"]
        identity = {
            **asdict(stage), "setting": setting, "version": task.VERSION,
            "arms": {entry.key: arm_sources(entry.arm, stage.task) for entry in entries},
        }  # fmt: skip
        journal = Journal.open(identity)
        if journal.rows and not self.resume:  # an interrupted run is evidence too
            with journal.alone():
                left = Running(stage, members, journal, self.progress, lambda one: None, self.estimate, later, 1)
                for one in members:
                    append(self.record(left, one, setting, "interrupted"))
                text = f"an earlier run ({journal.rows} values) is kept as interrupted; --resume would have gone on"
                self.progress({"kind": "left", "message": text})
                journal.close()
            journal = Journal.open(identity)

        made: dict[str, Record] = {}  # by method and claim

        def recorded(one: Member) -> None:
            record = self.record(running, one, setting)
            describe_machine(append(record).parent.parent)
            made[f"{one.method.slug} {one.check.claim}"] = record
            self.progress({"kind": "record", "record": record})

        self.machines = host.machines
        with journal.alone():
            running = Running(stage, members, journal, self.progress, recorded, self.estimate, later, workers.workers)
            running.run(host, model_bytes(setting))
        self.records += [made[f"{one.method.slug} {one.check.claim}"] for one in members]
        publish()
        self.journals.append(journal)

    def record(self, running: Running, one: Member, setting: dict[str, Any], status: Status | None = None) -> Record:
        """What a check left, as a record. status: "interrupted", else as its arms ended."""
        stage, check, method = running.stage, one.check, one.method
        task, seeds, draws = load_task(stage.task), running.seeds(one), running.draws(one)
        arms: list[ArmResult] = [
            running.result(entry, arm, seeds) for entry, arm in zip(one.entries, check.arms, strict=True)
        ]
        decisive = [arm.error for arm in arms[:2] if arm.error]
        commit, dirty = git_state()
        started = running.journal.started
        if others := self.machines - {machine_id()}:
            setting = {**setting, "computed_on": sorted(others)}
        identity = f"{method.slug} {check.hash} {stage} {started.isoformat()}"
        return Record(
            id=hashlib.sha256(identity.encode()).hexdigest()[:12],
            method=method.slug,
            paper=method.card.paper,
            check=check,
            check_hash=check.hash,
            task=stage.task,
            task_version=task.VERSION,
            metric=check.tasks[stage.task],
            metrics=task.METRICS,
            paired_by=task.PAIRED_BY,
            model=setting.get("model", stage.model or "trained here"),
            setting={**setting, "draws": draws} if draws else setting,
            scale=stage.scale,
            seeds=list(seeds),
            arms=arms,
            status=status or ("failed" if decisive else "finished"),
            code_hash=code_hash(),
            commit=commit,
            dirty=dirty,
            packages=package_versions(),
            machine=machine_id(),
            command=self.command(method, check),
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            error="; ".join(decisive) or None,
            card_sources=method.card.sources,
        )

    def command(self, method: Method, check: Check) -> str:
        """The command that repeats a check."""
        words = ["paperlab", "run", method.slug, "--claim", check.claim, "--scale", self.scale]
        words += ["--model", self.model] if self.model else []
        words += ["--data", self.data] if self.data else []
        for name, value in self.params.items():
            words += ["--set", f"{name}={show(value)}"]
        return shlex.join([*words, *(["--seeds", str(self.seeds)] if self.seeds else [])])


def model_bytes(setting: Mapping[str, Any]) -> int:
    """Bytes of a setting's model in float32; 0 where it does not say."""
    provenance = setting.get("provenance")
    return 4 * int(provenance.get("parameters", 0)) if isinstance(provenance, Mapping) else 0
