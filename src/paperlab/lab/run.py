"""Running a method's checks: arms side by side on a task, every value journalled, one record per check.

What is finished is never done again: each value goes to a journal as soon as it exists, and `resume` goes
on behind the last whole line. The journal of a run is keyed by everything that decides its values.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from paperlab.assets.models import ModelError
from paperlab.core.card import Arm, Check
from paperlab.core.files import write_atomically
from paperlab.core.home import home
from paperlab.core.install import version as paperlab_version
from paperlab.core.methods import Method, find_method
from paperlab.core.record import ArmResult, Record, Status, append
from paperlab.core.task import SCALES, load_task
from paperlab.core.verdict import publish
from paperlab.lab.arms import OUTSIDE, build_arm, check_arms
from paperlab.lab.errors import RunError
from paperlab.lab.machine import describe_machine, machine_id

Progress = Callable[[dict[str, Any]], None]
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Stage:
    """One task on one model at one scale: the arms of all checks that meet there run once."""

    task: str
    model: str | None
    scale: str
    data: str | None
    seeds: tuple[int, ...]


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
    progress: Progress = lambda event: None,
) -> list[Record]:
    """Run the checks of method `name` and append a record for each task and model they name.

    claim: only this one. model, data: the user's own in place of the task's. params: override the method
    arm's parameters (the record then belongs to no claim of the card). seeds: how many, from 0.
    Raises RunError, UnknownMethod, or what the task says of an unusable model or text. An arm that breaks
    does not raise: its error is in the record.
    """
    method = find_method(name)
    checks = _chosen(method, claim, params or {})
    if scale not in SCALES:
        raise RunError(f"no scale {scale!r}; use one of {', '.join(SCALES)}")
    records: list[Record] = []
    journals: list[Journal] = []
    unfit: ModelError | None = None
    for stage, members in _stages(checks, scale, model, data, seeds).items():
        try:
            records += _run_stage(method, stage, members, resume, progress, journals)
        except ModelError as error:
            if model is None:
                raise
            unfit = error  # a language model given to a check that has an encoder's task too, or the reverse
            progress({"kind": "skipped", "task": stage.task, "message": str(error)})
    if unfit and not records:
        raise unfit
    # Only now: a run of several stages that is killed in the last one must find the first ones done when resumed.
    progress({"kind": "recorded", "records": records})
    for journal in journals:
        journal.close()
    return records


def _chosen(method: Method, claim: str | None, params: Mapping[str, Any]) -> list[Check]:
    checks = [check for check in method.card.checks if claim in (None, check.claim)]
    if not checks:
        known = ", ".join(check.claim for check in method.card.checks)
        if claim is None:
            raise RunError(f"{method.slug} is a baseline: it makes no claim to check; `paperlab compare` shows it")
        raise RunError(f"{method.slug} has no check {claim!r}; it has {known or 'none'}")
    return [replace(c, method=Arm(c.method.method, {**c.method.params, **params})) for c in checks]


def _stages(
    checks: list[Check], scale: str, model: str | None, data: str | None, seeds: int | None
) -> dict[Stage, list[Check]]:
    stages: dict[Stage, list[Check]] = {}
    for check in checks:
        for task_name in check.tasks:
            task = load_task(task_name)
            count = seeds or task.SEEDS.get(scale, 1)
            for model_name in (model,) if model or not task.MODELS else check.models or task.MODELS:
                if model is None and task.MODELS and model_name not in task.MODELS:
                    continue  # a check may name models of one of its tasks only
                stages.setdefault(Stage(task_name, model_name, scale, data, tuple(range(count))), []).append(check)
    return stages


def _run_stage(
    method: Method, stage: Stage, checks: list[Check], resume: bool, progress: Progress, journals: list["Journal"]
) -> list[Record]:
    """All arms of `checks` on one setting, then a record for each check; its journal is left in `journals`."""
    task = load_task(stage.task)
    by_name = {name: arm for check in checks for name, arm in _named_arms(check)}
    arms = list(by_name)
    for check in checks:
        check_arms(check, stage.task)  # a wrong name or parameter stops here, before any work
    progress({"kind": "stage", "task": stage.task, "model": stage.model, "scale": stage.scale, "arms": arms})
    settings = {seed: task.make(seed, stage.scale, model=stage.model, data=stage.data) for seed in stage.seeds[:1]}
    about = task.describe(settings[stage.seeds[0]])
    identity = {**asdict(stage), "setting": about, "version": task.VERSION, "code": code_hash(), "arms": arms}
    journal = Journal.open(identity)
    if journal.rows and not resume:  # an interrupted run is evidence too
        for check in checks:
            left = {name: journal.result(name, arm, stage.seeds) for name, arm in _named_arms(check)}
            append(_record(method, stage, task, check, left, about, journal.started, "interrupted"))
        said = f"an earlier run ({journal.rows} values) is kept as interrupted; --resume would have gone on with it"
        progress({"kind": "left", "message": said})
        journal.close()
        journal = Journal.open(identity)
    for seed in stage.seeds:  # seeds outside, arms inside: A B A B …
        if seed not in settings:
            settings.clear()
            settings[seed] = task.make(seed, stage.scale, model=stage.model, data=stage.data)
        turns = [_score_arm(task, stage, name, by_name[name], settings[seed], seed, journal, progress) for name in arms]
        if not task.TIMED:
            for turn in turns:
                for _ in turn:
                    pass
        while task.TIMED and turns:
            turns = [turn for turn in turns if next(turn, "end") != "end"]
    results = {name: journal.result(name, arm, stage.seeds) for name, arm in by_name.items()}
    records = [_record(method, stage, task, check, results, about, journal.started) for check in checks]
    for record in records:
        describe_machine(append(record).parent.parent)
        progress({"kind": "record", "record": record})
    publish()
    journals.append(journal)
    return records


def _named_arms(check: Check) -> list[tuple[str, Arm]]:
    """The check's arms with the names they run under: what several checks share runs once, but an arm beside
    itself (an A/A control) runs twice, or it could show no noise."""
    names = [str(arm) for arm in check.arms]
    if names[0] == names[1]:
        names[1] += " again"
    return list(zip(names, check.arms, strict=True))


def _score_arm(
    task: ModuleType, stage: Stage, name: str, arm: Arm, setting: Any, seed: int, journal: "Journal",
    progress: Progress,
) -> Iterator[None]:  # fmt: skip
    """Build and score one arm for one seed, yielding after each item; what the journal has is skipped."""
    done = journal.begin(name, seed)
    total = task.items(setting)
    if done is None:
        return

    def tell(what: str, step: int, steps: int) -> None:
        progress({"kind": "build", "arm": name, "seed": seed, "what": what, "done": step, "total": steps})

    def make() -> Any:
        return build_arm(arm, stage.task, setting, seed, tell)

    _reset_peak_memory()
    try:
        clock = time.perf_counter()
        built = make if task.TIMED else make()
        build_seconds = time.perf_counter() - clock
        totals = task.totals(built, setting)
        clock = time.perf_counter()
        for number, values in enumerate(task.score(built, setting, start=done), done + 1):
            journal.write(name, seed, {"item": values})
            progress({"kind": "item", "arm": name, "seed": seed, "done": number, "total": total, "values": values})
            yield
        score_seconds = time.perf_counter() - clock
        end = {"totals": totals, "build": build_seconds, "score": score_seconds, "peak_memory": peak_memory()}
        journal.write(name, seed, {"end": end})
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except OSError:
        raise  # the disk or the machine, not the method: the run stops and can be resumed
    except Exception as error:
        journal.write(name, seed, {"error": f"{type(error).__name__}: {error}"})
        progress({"kind": "error", "arm": name, "seed": seed, "message": f"{type(error).__name__}: {error}"})


@dataclass(frozen=True)
class Journal:
    """The values of an unfinished run, one file per arm and seed, one JSON line per value.

    folder: home/runs/<key>, the key being a hash of stage, setting, task version and code.
    """

    folder: Path

    @classmethod
    def open(cls, identity: Mapping[str, Any]) -> "Journal":
        """The journal of this very run, new or as it was left."""
        text = json.dumps(identity, sort_keys=True, default=str)
        folder = home() / "runs" / hashlib.sha256(text.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run.json").exists():
            started = datetime.now(UTC).isoformat(timespec="microseconds")
            write_atomically(folder / "run.json", json.dumps({**identity, "started": started}, default=str).encode())
        return cls(folder)

    @property
    def started(self) -> datetime:
        """When the run began, however often it was resumed: with the check it makes a record's id."""
        return datetime.fromisoformat(json.loads((self.folder / "run.json").read_text())["started"])

    @property
    def rows(self) -> int:
        """Whole lines that are there."""
        return sum(file.read_bytes().count(b"\n") for file in self.folder.glob("*.jsonl"))

    def _file(self, name: str, seed: int) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}-{seed}.jsonl"

    def lines(self, name: str, seed: int) -> list[dict[str, Any]]:
        """Whole lines, up to the torn end that a kill or a power cut may leave."""
        file = self._file(name, seed)
        raw = file.read_bytes() if file.exists() else b""
        rows = []
        for line in raw.split(b"\n")[:-1]:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def begin(self, name: str, seed: int) -> int | None:
        """Cut off a torn line and any error; the number of items that are done, or None if all is."""
        rows = [row for row in self.lines(name, seed) if "error" not in row]
        if any("end" in row for row in rows):
            return None
        with open(self._file(name, seed), "wb") as file:
            file.writelines(_line(row) for row in rows)
        return len(rows)

    def write(self, name: str, seed: int, row: dict[str, Any]) -> None:
        """Add one line. It survives the process at once; the disk has it when the arm ends (a flush per item
        would cost more than many items do)."""
        with open(self._file(name, seed), "ab", buffering=0) as file:
            file.write(_line(row))
            if "item" not in row:
                os.fsync(file.fileno())

    def result(self, name: str, arm: Arm, seeds: tuple[int, ...]) -> ArmResult:
        """What an arm left, over all seeds."""
        samples: dict[str, dict[str, list[float]]] = {}
        ends, errors = [], []
        for seed in seeds:
            rows = self.lines(name, seed)
            columns: dict[str, list[float]] = {}
            for row in rows:
                for key, value in row.get("item", {}).items():
                    columns.setdefault(key, []).append(value)
            samples[str(seed)] = columns
            ends += [row["end"] for row in rows if "end" in row]
            errors += [row["error"] for row in rows if "error" in row]
        keys = ends[0]["totals"] if ends else {}
        return ArmResult(
            arm=arm,
            samples=samples,
            totals={key: sum(end["totals"][key] for end in ends) / len(ends) for key in keys},
            seconds={what: [end[what] for end in ends] for what in ("build", "score")},
            peak_memory=max((end["peak_memory"] for end in ends), default=0),
            error="; ".join(dict.fromkeys(errors)) or None,
        )

    def close(self) -> None:
        """The records are written: the journal is no longer needed. It goes at once or not at all."""
        self.folder.rename(self.folder.with_name(f".done-{self.folder.name}-{os.getpid()}"))
        for done in self.folder.parent.glob(".done-*"):
            shutil.rmtree(done, ignore_errors=True)


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _record(
    method: Method, stage: Stage, task: ModuleType, check: Check, results: Mapping[str, ArmResult],
    about: dict[str, Any], started: datetime, status: Status | None = None,
) -> Record:  # fmt: skip
    arms = [results[name] for name, _ in _named_arms(check)]
    decisive = [arm.error for arm in arms[:2] if arm.error]
    commit, dirty = git_state()
    finished = datetime.now(UTC)
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
        model=about.get("model", stage.model or "trained here"),
        setting=about,
        scale=stage.scale,
        seeds=list(stage.seeds),
        arms=arms,
        status=status or ("failed" if decisive else "finished"),
        code_hash=code_hash(),
        commit=commit,
        dirty=dirty,
        packages=_versions(),
        machine=machine_id(),
        command=shlex.join(["paperlab", *sys.argv[1:]])
        if Path(sys.argv[0]).name == "paperlab"
        else _command(method, check, stage),
        started=started.isoformat(timespec="seconds"),
        finished=finished.isoformat(timespec="seconds"),
        error="; ".join(decisive) or None,
    )


def _command(method: Method, check: Check, stage: Stage) -> str:
    words = ["paperlab", "run", method.slug, "--claim", check.claim, "--scale", stage.scale]
    return shlex.join(words + (["--model", stage.model] if stage.model else []))


def code_hash() -> str:
    """Hash over every paperlab file and outside method that this process has loaded: shared code changes results."""
    root = Path(__file__).resolve().parent.parent
    loaded = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in ("paperlab", OUTSIDE)]
    files = {Path(file).resolve() for module in loaded if (file := getattr(module, "__file__", None))}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(str(file.relative_to(root) if file.is_relative_to(root) else file.name).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def git_state() -> tuple[str | None, bool]:
    """Commit of the paperlab sources and whether they differ from it; (None, False) for an installed package."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        with suppress(OSError):
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None, False
    return commit, bool(git("status", "--porcelain", "--", ".", ":!data/records"))


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3])), "paperlab": paperlab_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _reset_peak_memory() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Highest resident size in bytes since the arm began (Linux), else of the whole process."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
