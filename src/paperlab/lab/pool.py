"""A pool of processes of one thread each: they run arms, the parent decides which.

Two threads on one arm are slower than two arms on one thread each. What a process computes goes to the journal; over
its pipe it reports how far it is. A process that is killed costs the arm and seed that it was at: these are run once
more. However the parent ends, its processes end: each watches its pipe.
"""

import builtins
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from paperlab.assets.models import ModelError
from paperlab.assets.packages import PackageError
from paperlab.assets.texts import TextError
from paperlab.core.home import home
from paperlab.lab import execute
from paperlab.lab.errors import RunError
from paperlab.lab.execute import Job, Place, Progress, Settings
from paperlab.lab.journal import Journal
from paperlab.lab.machine import machine_id, memory_left, physical_cores
from paperlab.lab.state import one_thread

DEATHS = 2  # of an arm's process; then it is not run again
TIMES = 3  # a process needs as many times the bytes of its model: the model, a copy, and what is computed
ONE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
ERRORS = {error.__name__: error for error in (ModelError, PackageError, RunError, TextError)}

Take = Callable[[Job | None], Job | None]
Done = Callable[[Job], None]


class Executor(Protocol):
    """Runs jobs, in this process or in others."""

    workers: int
    machines: set[str]  # that anything was computed on

    def about(self, place: Place, seed: int) -> dict[str, Any]:
        """What `Settings.about` says, from a process that will work there."""

    def run(self, take: Take, progress: Progress, done: Done, size: int) -> None:
        """Run what `take(the process's last job)` gives until it gives None with nothing under way.

        size: bytes of the model.
        """

    def close(self) -> None:
        """End the processes."""


class Here:
    """Runs jobs in this process, one after the other, in one thread."""

    workers = 1

    def __init__(self) -> None:
        self.settings = Settings()
        self.machines = {machine_id()}

    def about(self, place: Place, seed: int) -> dict[str, Any]:
        """See `Executor`."""
        with one_thread():
            return self.settings.about(place, seed)

    def run(self, take: Take, progress: Progress, done: Done, size: int) -> None:
        """See `Executor`."""
        last = None
        with one_thread():
            while (job := take(last)) is not None:
                execute.run(job, self.settings, progress)
                done(job)
                last = job

    def close(self) -> None:
        """Forget the model."""
        self.settings = Settings()


@dataclass(eq=False)
class _Worker:
    """One process. job: what it was given; last: what it had before."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    job: Job | None = None
    last: Job | None = None
    started: bool = False

    def send(self, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it has ended: `wait` will say so
            self.pipe.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """Its next message; None where it has ended."""
        try:
            return json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return None

    def end(self) -> int:
        """Kill it; its exit status."""
        self.process.kill()
        self.pipe.close()
        return self.process.wait()


class Pool:
    """Runs jobs in up to `workers` processes, which start when there is work for them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.machines = {machine_id()}
        self.alive: list[_Worker] = []
        self.again: list[Job] = []
        self.deaths: Counter[tuple[str, str]] = Counter()  # by run and arm
        self._place: Place | None = None

    def about(self, place: Place, seed: int) -> dict[str, Any]:
        """See `Executor`. The other processes start meanwhile."""
        while len(self.alive) < self.workers:
            self.alive.append(_start())
        for _ in range(DEATHS):
            worker = self.alive[0]
            worker.send({"about": asdict(place), "seed": seed})
            while (message := worker.receive()) is not None:
                if message["kind"] == "ready":
                    worker.started = True
                elif message["kind"] == "failed":
                    raise error_from(message)
                else:
                    return message["about"]
            status = self._replace(worker)
        raise RunError(
            f"a process was ended by {_cause(status)} on loading {place.model or place.task}, {DEATHS} times"
        )

    def run(self, take: Take, progress: Progress, done: Done, size: int) -> None:
        """See `Executor`. A second process gets work only where there is memory for it."""
        while True:
            for worker in [worker for worker in self.alive if worker.job is None]:
                others = any(other.job for other in self.alive)
                new = worker.last is None or self._place is None or worker.last.place != self._place
                if others and new and memory_left() < TIMES * size:
                    continue
                job = self.again.pop() if self.again else take(worker.last)
                while job is not None and self.deaths[arm_of(job)] == DEATHS:
                    broke(job, progress)
                    done(job)
                    job = take(worker.last)
                if job is not None:
                    self._place = job.place
                    worker.job = job
                    worker.send({"job": job.to_json()})
            busy = [worker for worker in self.alive if worker.job]
            if not busy:
                return
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                self._hear(worker, progress, done)

    def _hear(self, worker: _Worker, progress: Progress, done: Done) -> None:
        message, job = worker.receive(), worker.job
        assert job is not None
        if message is None:
            status = self._replace(worker)
            self.deaths[arm_of(job)] += 1
            if self.deaths[arm_of(job)] < DEATHS:
                text = f"the process of {job.name} was ended by {_cause(status)}; it is run once more"
                progress({"kind": "note", "message": text})
            self.again.append(job)
        elif message["kind"] == "ready":
            worker.started = True
        elif message["kind"] == "failed":
            raise error_from(message)
        elif message["kind"] == "done":
            worker.job, worker.last = None, job
            done(job)
        else:
            progress(message)

    def _replace(self, worker: _Worker) -> int:
        """Start another process for one that has ended; its exit status. Raises RunError where that is of no use."""
        status = worker.end()
        self.alive.remove(worker)
        if not worker.started and status >= 0:
            raise RunError(f"a process could not be started ({_cause(status)}); --jobs 1 runs in this one")
        self.alive.append(_start())
        return status

    def close(self) -> None:
        """End all processes at once: what they had is in the journal."""
        while self.alive:
            self.alive.pop().end()


def executor(jobs: int | None, on: str | None = None) -> Executor:
    """For one job at a time this process itself, else a pool, or the workers of a Ray cluster.

    jobs: at most so many at a time, else one for each core. on: the cluster's address (see `paperlab.lab.cluster`).
    """
    if on is not None:
        from paperlab.lab.cluster import Cluster

        return Cluster(on, jobs)
    jobs = jobs or physical_cores()
    return Here() if jobs == 1 else Pool(jobs)


def error_from(message: Mapping[str, Any]) -> Exception:
    """The exception that a process met."""
    name, text = message["type"], message["message"]
    known = ERRORS.get(name) or getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, UnicodeError):
        return known(text)
    return RuntimeError(f"{name}: {text}")


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def arm_of(job: Job) -> tuple[str, str]:
    """The run and arm that a job is of, whatever its seed."""
    return str(job.journal), job.key


def broke(job: Job, progress: Progress) -> None:
    """An arm whose process ends too often has broken, on this seed as on those that are left."""
    text = f"its process was ended {DEATHS} times; was there too little memory?"
    with Journal(job.journal).writing(job.key, job.seed) as writer:
        if writer is not None:
            writer.write({"error": text})
    progress({"kind": "error", "arm": job.name, "seed": job.seed, "message": text})


def _start() -> _Worker:
    """A process that waits for jobs."""
    ours, theirs = Pipe()
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    environment = {**os.environ, **dict.fromkeys(ONE, "1"), "PYTHONPATH": path, "PAPERLAB_HOME": str(home()),
                   "TERM": "dumb"}  # fmt: skip  # progress bars are the parent's
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from paperlab.lab.pool import work; work({theirs.fileno()})"],
        stdin=subprocess.DEVNULL, stdout=2, pass_fds=(theirs.fileno(),), env=environment,
    )  # fmt: skip
    theirs.close()
    return _Worker(process, ours)


def work(descriptor: int) -> None:
    """What a process of the pool does: one job after the other, until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; the parent ends us
    pipe, waiting = Connection(descriptor), queue.SimpleQueue[dict[str, Any]]()

    def listen() -> None:
        try:
            while True:
                waiting.put(json.loads(pipe.recv_bytes()))
        except (EOFError, OSError):
            os._exit(1)  # the parent has ended, in the midst of whatever this process is at

    def tell(message: Mapping[str, Any]) -> None:
        try:
            pipe.send_bytes(json.dumps(message).encode())
        except OSError:
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    tell({"kind": "ready"})
    settings = Settings()
    while True:
        message = waiting.get()
        try:
            # The task is imported before torch's threads are set: torch may not be loaded yet.
            place = Place(**(message["about"] if "about" in message else message["job"]["place"]))
            execute.load_task(place.task)
            with one_thread():
                if "about" in message:
                    tell({"kind": "about", "about": settings.about(place, message["seed"])})
                else:
                    execute.run(Job.from_json(message["job"]), settings, tell)
                    tell({"kind": "done"})
        except Exception as error:
            tell({"kind": "failed", "type": type(error).__name__, "message": str(error)})
