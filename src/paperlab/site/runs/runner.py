"""The worker's side of the queue: take the next run, start its process, follow it, end it.

The files that a run's process leaves decide how it ended, so a worker that is started after a kill finds out as well: a
run that has recorded all its results is done; one that has not goes on with --resume, and its records keep their ids.
The processes of a run hold its lock themselves: as long as one of them lives, no other is started.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connections
from django.utils import timezone

from paperlab.core.home import home, me
from paperlab.core.signature import show
from paperlab.site import alive
from paperlab.site.runs import child, queue
from paperlab.site.runs.models import CANCELLED, DONE, FAILED, INTERRUPTED, RUNNING, WAITING, Run
from paperlab.site.runs.progress import EventFile

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks
GRACE = 5.0  # seconds to end in before the processes are killed
STARTS = 4  # of one run: what takes its worker down with it is not started for ever
TAIL = 20_000  # characters of the log that the store keeps
MOST_LOG = 50_000_000  # bytes
BEAT = 5.0
KEPT = 50  # folders of ended runs
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass
class Active:
    """The process of the run that is under way. log_state: size and time of the log that the store has. ending: when it
    was asked to end; why: the reason."""

    run: Run
    process: subprocess.Popen[bytes]
    events: EventFile
    began: float
    log_state: tuple[int, int] = (-1, -1)
    ending: float = 0.0
    why: str = ""


def folder(run: Run) -> Path:
    """Where a run's output lies: log.txt, events.jsonl, out.json, lock."""
    return home() / "queue" / str(run.pk)


def command(run: Run) -> list[str]:
    """The command line of a run's process; where its events go is in the environment."""
    script = Path(sys.executable).with_name("paperlab")
    words = [str(script)] if script.exists() else [sys.executable, "-m", "paperlab"]
    words += ["run", run.method, "--scale", run.scale]
    words += ["--claim", run.claim] if run.claim else []
    for name, value in run.params.items():
        words += ["--set", f"{name}={show(value)}"]
    return [*words, *(["--resume"] if run.starts else []), "--json"]


def time_limit(run: Run) -> float:
    """Seconds that a run may take."""
    return float(settings.PAPERLAB_RUN_HOURS) * 3600 * (1 if run.scale == "full" else 0.25)


def log(run: Run, most: int = TAIL) -> str:
    """The end of a run's log, as text without control characters."""
    try:
        with open(folder(run) / "log.txt", "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            text = file.read().decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
    return _CONTROL.sub("", text)


def events(run: Run) -> EventFile:
    """The events of a run so far."""
    file = EventFile(folder(run) / "events.jsonl")
    file.read()
    return file


def recorded(run: Run) -> list[str] | None:
    """The ids of the records that a run has made, or None if it has not recorded all that it was to."""
    names = events(run).records
    if names is not None:
        return names
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        rows = json.loads((folder(run) / "out.json").read_text())
        return [str(row["id"]) for row in rows]
    return None


def resident(group: int) -> int | None:
    """Resident bytes of a process group; None where the system does not report them."""
    total, known = 0, False
    page = os.sysconf("SC_PAGE_SIZE")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total, known = total + int(fields[21]) * page, True
    return total if known else None


class Runner:
    """Follows the queue. One for a worker; `step` never waits for a run."""

    def __init__(self) -> None:
        self.active: Active | None = None
        self.last_beat = 0.0

    def step(self) -> bool:
        """Do what is due now; whether a run is under way."""
        now = time.monotonic()
        if now - self.last_beat > BEAT:
            queue.beat()
            self.last_beat = now
        if self.active is not None:
            self._follow(self.active)
            return True
        run = self._next()
        if run is not None:
            self._begin(run)
        return run is not None

    def _next(self) -> Run | None:
        """A run that an earlier worker did not finish, else the first that waits, claimed for this worker."""
        run = Run.objects.filter(state=RUNNING, worker=me()).order_by("pk").first()
        if run is not None:
            return run
        for pk in queue.waiting().values_list("pk", flat=True)[:5]:
            claim = {"state": RUNNING, "worker": me()}
            if Run.objects.filter(pk=pk, state=WAITING).update(**claim):
                return Run.objects.get(pk=pk)
        return None

    def _begin(self, run: Run) -> None:
        """Start the process of a run that is ours, unless there is nothing left to do."""
        place = folder(run)
        place.mkdir(parents=True, exist_ok=True)
        with _lock(place / "lock") as descriptor:
            if descriptor is None:  # its processes outlived the worker that started them
                self._stop_strays(place)
                return
            if run.starts and (records := recorded(run)) is not None:
                return self._end(run, DONE, records=records)
            if run.stop:
                return self._end(run, CANCELLED)
            if run.starts >= STARTS:
                error = f"its worker ended {run.starts} times while it ran; `paperlab run … --resume` goes on by hand"
                return self._end(run, INTERRUPTED, error=error)
            words = command(run)
            # Counted before it is started: one that takes the machine down is counted too.
            run.starts += 1
            run.started = run.started or timezone.now()
            Run.objects.filter(pk=run.pk).update(starts=run.starts, started=run.started)
            with open(place / "log.txt", "ab") as log_file, open(place / "out.json", "wb") as out:
                if run.starts > 1:
                    log_file.write(b"note: the worker was interrupted; the run goes on where it stopped\n")
                process = subprocess.Popen(
                    [sys.executable, "-P", child.__file__, str(queue.memory()), *words],
                    stdin=subprocess.PIPE, stdout=out, stderr=log_file, pass_fds=(descriptor,), start_new_session=True,
                    cwd=place, env={**os.environ, "PAPERLAB_EVENTS": str(place / "events.jsonl")},
                )  # fmt: skip
            (place / "group").write_text(str(process.pid))
        self.active = Active(run, process, EventFile(place / "events.jsonl"), time.monotonic())

    def _stop_strays(self, place: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            group = int((place / "group").read_text())
            if group > 1:
                os.killpg(group, signal.SIGKILL)

    def _follow(self, active: Active) -> None:
        """See how far the process is; end it where it must end."""
        run, now = active.run, time.monotonic()
        row = Run.objects.filter(pk=run.pk).values("stop", "state").first()
        status = active.process.poll()
        if status is None:
            self._publish(active)
            if not active.ending:
                active.why = self._too_much(active, row)
                if active.why:
                    self._signal(active, signal.SIGTERM)
                    active.ending = now
            elif now - active.ending > GRACE:
                self._signal(active, signal.SIGKILL)
            return
        self._signal(active, signal.SIGKILL)  # whatever of its group is left
        if active.process.stdin:
            active.process.stdin.close()
        self._publish(active)
        self.active = None
        records = recorded(run)
        if row is None:
            shutil.rmtree(folder(run), ignore_errors=True)
        elif records is not None:
            self._end(run, DONE, records=records)
        elif active.why == CANCELLED:
            self._end(run, CANCELLED)
        elif active.why:
            self._end(run, FAILED, error=active.why)
        elif status < 0 or status > 128:
            number = -status if status < 0 else status - 128
            error = f"its process was killed by {_signal_name(number)}, not by paperlab; was there too little memory?"
            self._end(run, INTERRUPTED, error=error)
        else:
            error = active.events.error or _last_error(log(run)) or f"it ended with status {status}"
            self._end(run, FAILED, error=error)

    def _too_much(self, active: Active, row: dict[str, Any] | None) -> str:
        """Why a process must end now; "" if it need not."""
        if row is None or row["stop"]:
            return CANCELLED
        if time.monotonic() - active.began > time_limit(active.run):
            return f"it took more than {time_limit(active.run) / 3600:g} hours (PAPERLAB_RUN_HOURS) and was stopped"
        if (resident(active.process.pid) or 0) > queue.memory():
            return f"it took more than {queue.memory() / 1e9:.1f} GB of memory (PAPERLAB_RUN_MEMORY) and was stopped"
        for name in ("log.txt", "events.jsonl"):
            with contextlib.suppress(OSError):
                if (folder(active.run) / name).stat().st_size > MOST_LOG:
                    return "it wrote more than 50 MB into its log and was stopped"
        return ""

    @staticmethod
    def _signal(active: Active, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(active.process.pid, number)

    def _publish(self, active: Active) -> None:
        """Put what is new in the events and the log into the store."""
        changed: dict[str, Any] = {}
        if active.events.read():
            changed["progress"] = active.events.progress()
        with contextlib.suppress(OSError):
            stat = (folder(active.run) / "log.txt").stat()
            if (stat.st_size, stat.st_mtime_ns) != active.log_state:
                active.log_state = (stat.st_size, stat.st_mtime_ns)
                changed["log"] = log(active.run)
        if changed:
            Run.objects.filter(pk=active.run.pk).update(**changed)

    @staticmethod
    def _end(run: Run, state: str, *, records: list[str] | None = None, error: str = "") -> None:
        changed = {"records": records or [], "error": error, "ended": timezone.now(), "log": log(run)}
        Run.objects.filter(pk=run.pk, state=RUNNING).update(state=state, **changed)
        folders = sorted((home() / "queue").glob("[0-9]*"), key=lambda path: int(path.name))
        for old in folders[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """End what is under way; the next worker goes on with it."""
        if self.active is not None:
            self._signal(self.active, signal.SIGKILL)
            self.active.process.wait()


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[int | None]:
    """A descriptor that holds the lock as long as any process has it open; None if another has."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield descriptor
    finally:
        os.close(descriptor)


def _last_error(text: str) -> str:
    """The error that a process wrote last, for one that ended before its first event or lacks a package: with --json
    an object with `error`, else a line."""
    lines = [line for line in text.splitlines() if line.strip()]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(lines[-1])["error"])[:2000] if lines else ""
    return lines[-1][:2000]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def work(stop: threading.Event) -> None:
    """Follow the queue until `stop` is set; the worker does this in a thread, as its other jobs may take long."""
    runner, failure = Runner(), ""
    alive.loop("runs")
    while not stop.is_set():
        try:
            alive.sign()  # by the loop's turns: a run may take as long as it is allowed to
            close_old_connections()
            runner.step()
            failure = ""
        except Exception as error:
            message = " ".join(str(error).split())
            if message != failure:
                logger.exception("runs: %s; tried again", message)
                failure = message
            stop.wait(TICK * 10)
        stop.wait(TICK)
    runner.close()
    connections.close_all()
