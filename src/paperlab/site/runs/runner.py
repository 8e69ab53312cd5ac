"""The worker's side: take what waits, one at a time, start its process, follow it, end it.

What a run has left decides what became of it, so a worker that is killed finds out as well: a run that recorded all is
done; one that did not goes on with --resume, and its records keep their ids. The lock of a run is held by its processes
themselves: as long as one of them lives, no other is started.
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

from paperlab.core.home import home
from paperlab.core.signature import show
from paperlab.site.runs import child, queue
from paperlab.site.runs.models import CANCELLED, DONE, FAILED, INTERRUPTED, RUNNING, WAITING, Run

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks
GRACE = 5.0  # seconds to end in before the processes are killed
STARTS = 4  # of one run: what takes its worker down with it is not started for ever
TAIL = 20_000  # characters of the log that the store keeps
MOST_LOG = 50_000_000  # bytes
BEAT = 5.0
KEPT = 50  # folders of ended runs
_STEP = re.compile(r"  (?P<arm>.{1,200}): (?P<doing>.{1,120}) (?P<done>\d{1,9})/(?P<total>\d{1,9})")
_STAGE = re.compile(r"(?P<stage>\S.{0,200}): \d+ arms")
_STRANGE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass
class Held:
    """The process of the run that is under way."""

    run: Run
    process: subprocess.Popen[bytes]
    began: float
    told: tuple[int, int] = (-1, -1)
    ending: float = 0.0
    why: str = ""


def folder(run: Run) -> Path:
    """Where a run's output lies: log.txt, out.json, lock."""
    return home() / "queue" / str(run.pk)


def command(run: Run) -> list[str]:
    """What is executed."""
    script = Path(sys.executable).with_name("paperlab")
    words = [str(script)] if script.exists() else [sys.executable, "-m", "paperlab"]
    words += ["run", run.method, "--scale", run.scale]
    words += ["--claim", run.claim] if run.claim else []
    for name, value in run.params.items():
        words += ["--set", f"{name}={show(value)}"]
    return [*words, *(["--resume"] if run.starts else []), "--json"]


def hours(run: Run) -> float:
    """Seconds that a run may take."""
    return float(settings.PAPERLAB_RUN_HOURS) * 3600 * (1 if run.scale == "full" else 0.25)


def log(run: Run, most: int = TAIL) -> str:
    """The end of a run's log, as text without control characters."""
    try:
        with open(folder(run) / "log.txt", "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            said = file.read().decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
    return _STRANGE.sub("", said)


def progress(said: str) -> dict[str, Any]:
    """What the log says of how far the run is: the stage it is in, and each arm's last step there."""
    stage = ""
    arms: dict[str, list[str | int]] = {}
    for line in said.splitlines():
        if match := _STAGE.fullmatch(line):
            stage, arms = match["stage"], {}
        elif match := _STEP.fullmatch(line):
            arms[match["arm"]] = [match["doing"], int(match["done"]), int(match["total"])]
    return {"stage": stage, "arms": arms}


def left(run: Run) -> list[str] | None:
    """The ids of the records that a run has left, if it has recorded all that it was to."""
    for line in reversed(log(run).splitlines()):
        if line.startswith("recorded: "):
            return line.removeprefix("recorded: ").split()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        rows = json.loads((folder(run) / "out.json").read_text())
        return [str(row["id"]) for row in rows]
    return None


def resident(group: int) -> int | None:
    """Bytes of memory that a process group holds; None where the system does not tell."""
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
        self.held: Held | None = None
        self.beaten = 0.0

    def step(self) -> bool:
        """One look; whether something is under way."""
        now = time.monotonic()
        if now - self.beaten > BEAT:
            queue.beat()
            self.beaten = now
        if self.held is not None:
            self._follow(self.held)
            return True
        run = self._next()
        if run is not None:
            self._begin(run)
        return run is not None

    def _next(self) -> Run | None:
        """A run that the worker before left behind, else the first that waits, made ours."""
        run = Run.objects.filter(state=RUNNING, worker=queue.me()).order_by("pk").first()
        if run is not None:
            return run
        for pk in queue.waiting().values_list("pk", flat=True)[:5]:
            taken = {"state": RUNNING, "worker": queue.me()}
            if Run.objects.filter(pk=pk, state=WAITING).update(**taken):
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
            if run.starts and (records := left(run)) is not None:
                return self._end(run, DONE, records=records)
            if run.stop:
                return self._end(run, CANCELLED)
            if run.starts >= STARTS:
                said = f"its worker ended {run.starts} times while it ran; `paperlab run … --resume` goes on by hand"
                return self._end(run, INTERRUPTED, error=said)
            words = command(run)
            # Counted before it is started: one that takes the machine down is counted too.
            run.starts += 1
            run.started = run.started or timezone.now()
            Run.objects.filter(pk=run.pk).update(starts=run.starts, started=run.started)
            with open(place / "log.txt", "ab") as said_, open(place / "out.json", "wb") as out:
                if run.starts > 1:
                    said_.write(b"note: the worker was interrupted; the run goes on where it stopped\n")
                process = subprocess.Popen(
                    [sys.executable, "-P", child.__file__, str(queue.memory()), *words],
                    stdin=subprocess.PIPE, stdout=out, stderr=said_, pass_fds=(descriptor,), start_new_session=True,
                    cwd=place,
                )  # fmt: skip
            (place / "group").write_text(str(process.pid))
        self.held = Held(run, process, time.monotonic())

    def _stop_strays(self, place: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            group = int((place / "group").read_text())
            if group > 1:
                os.killpg(group, signal.SIGKILL)

    def _follow(self, held: Held) -> None:
        """See how far the process is; end it where it must end."""
        run, now = held.run, time.monotonic()
        row = Run.objects.filter(pk=run.pk).values("stop", "state").first()
        status = held.process.poll()
        if status is None:
            self._tell(held)
            if not held.ending:
                held.why = self._too_much(held, row)
                if held.why:
                    self._signal(held, signal.SIGTERM)
                    held.ending = now
            elif now - held.ending > GRACE:
                self._signal(held, signal.SIGKILL)
            return
        self._signal(held, signal.SIGKILL)  # whatever of its group is left
        if held.process.stdin:
            held.process.stdin.close()
        self._tell(held)
        self.held = None
        records = left(run)
        if row is None:
            shutil.rmtree(folder(run), ignore_errors=True)
        elif records is not None:
            self._end(run, DONE, records=records)
        elif held.why == CANCELLED:
            self._end(run, CANCELLED)
        elif held.why:
            self._end(run, FAILED, error=held.why)
        elif status < 0 or status > 128:
            number = -status if status < 0 else status - 128
            said = f"its process was killed by {_signal_name(number)}, not by paperlab; was there too little memory?"
            self._end(run, INTERRUPTED, error=said)
        else:
            lines = [line for line in log(run).splitlines() if line.strip()]
            said = lines[-1].removeprefix("paperlab: ")[:2000] if lines else f"it ended with status {status}"
            self._end(run, FAILED, error=said)

    def _too_much(self, held: Held, row: dict[str, Any] | None) -> str:
        """Why a process must end now; "" if it need not."""
        if row is None or row["stop"]:
            return CANCELLED
        if time.monotonic() - held.began > hours(held.run):
            return f"it took more than {hours(held.run) / 3600:g} hours (PAPERLAB_RUN_HOURS) and was stopped"
        if (resident(held.process.pid) or 0) > queue.memory():
            return f"it took more than {queue.memory() / 1e9:.1f} GB of memory (PAPERLAB_RUN_MEMORY) and was stopped"
        with contextlib.suppress(OSError):
            if (folder(held.run) / "log.txt").stat().st_size > MOST_LOG:
                return "it wrote more than 50 MB into its log and was stopped"
        return ""

    @staticmethod
    def _signal(held: Held, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(held.process.pid, number)

    def _tell(self, held: Held) -> None:
        """Put what is new in the log into the store."""
        with contextlib.suppress(OSError):
            stat = (folder(held.run) / "log.txt").stat()
            if (stat.st_size, stat.st_mtime_ns) == held.told:
                return
            held.told = (stat.st_size, stat.st_mtime_ns)
            said = log(held.run, 200_000)
            Run.objects.filter(pk=held.run.pk).update(log=said[-TAIL:], progress=progress(said))

    @staticmethod
    def _end(run: Run, state: str, *, records: list[str] | None = None, error: str = "") -> None:
        changed = {"records": records or [], "error": error, "ended": timezone.now(), "log": log(run)}
        Run.objects.filter(pk=run.pk, state=RUNNING).update(state=state, **changed)
        kept = sorted((home() / "queue").glob("[0-9]*"), key=lambda path: int(path.name))
        for old in kept[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """End what is under way; the next worker goes on with it."""
        if self.held is not None:
            self._signal(self.held, signal.SIGKILL)
            self.held.process.wait()


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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def work(stop: threading.Event) -> None:
    """Follow the queue until told to stop: the worker does this beside its other jobs, which may take long."""
    runner, said = Runner(), ""
    while not stop.is_set():
        try:
            close_old_connections()
            runner.step()
            said = ""
        except Exception as error:
            now = " ".join(str(error).split())
            if now != said:
                logger.exception("runs: %s; tried again", now)
                said = now
            stop.wait(TICK * 10)
        stop.wait(TICK)
    runner.close()
    connections.close_all()
