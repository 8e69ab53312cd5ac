"""Runs on the machines of a Ray cluster: the same jobs, journals and records as on this one.

The process that began the run decides what is computed and keeps the journal. Each worker is a Ray actor of one thread
on one CPU; what it computes comes over as the lines of a journal of its own, item by item, so that a machine that is
lost costs what it had not sent. Its arm and seed then go on elsewhere. A worker has to run the very same code.
"""

import importlib
import os
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paperlab.core.sources import arm_sources
from paperlab.lab import execute
from paperlab.lab.errors import RunError
from paperlab.lab.execute import Job, Place, Progress, Settings
from paperlab.lab.journal import Journal, Writer
from paperlab.lab.machine import machine_id
from paperlab.lab.pool import DEATHS, ONE, Done, Take, arm_of, broke, error_from
from paperlab.lab.state import one_thread

NEWS = 0.5  # seconds that a worker waits for something to tell
PATIENCE = 60.0  # seconds in which a cluster must have a free CPU


class Remote:
    """What an actor does: one job at a time, and meanwhile it says what is new."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.told: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.folder = Path(tempfile.mkdtemp(prefix="paperlab-run-"))

    def who(self) -> dict[str, str]:
        """The machine that it runs on."""
        return {"machine": machine_id(), "host": os.uname().nodename}

    def about(self, place: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What `Settings.about` says, or how it failed."""
        return self._caught(lambda: self._about(Place(**place), seed))

    def _about(self, place: Place, seed: int) -> dict[str, Any]:
        execute.load_task(place.task)
        with one_thread():
            return {"kind": "about", "about": self.settings.about(place, seed)}

    def run(self, row: Mapping[str, Any], lines: list[dict[str, Any]], sources: Mapping[str, str]) -> dict[str, Any]:
        """Run a job behind the lines that there are of it. sources: what the code must be."""
        return self._caught(lambda: self._run(Job.from_json({**row, "journal": str(self.folder)}), lines, sources))

    def _run(self, job: Job, lines: list[dict[str, Any]], sources: Mapping[str, str]) -> dict[str, Any]:
        execute.load_task(job.place.task)
        if arm_sources(job.arm, job.place.task) != sources:
            raise RunError(f"{os.uname().nodename} has other code than this machine: install the same paperlab there")
        journal = Journal(self.folder)
        journal.forget(job.key, job.seed)
        with journal.writing(job.key, job.seed) as writer:
            assert writer is not None
            for line in lines:
                writer.write(line)
        sent = len(lines)

        def tell(event: dict[str, Any]) -> None:
            nonlocal sent
            there = journal.lines(job.key, job.seed)
            with self.changed:
                self.told += [{"line": line} for line in there[sent:]]
                self.told.append({"event": event})
                self.changed.notify()
            sent = len(there)

        with one_thread():
            execute.run(job, self.settings, tell)
        tell({"kind": "sent"})
        return {"kind": "done"}

    def news(self) -> list[dict[str, Any]]:
        """Lines and events since the last call; waits a little for some."""
        with self.changed:
            if not self.told:
                self.changed.wait(NEWS)
            found, self.told = self.told, []
            return found

    @staticmethod
    def _caught(call: Any) -> dict[str, Any]:
        try:
            return call()
        except Exception as error:
            return {"kind": "failed", "type": type(error).__name__, "message": str(error)}


class _Worker:
    """An actor. job: what it is at; last: what it had before. writing: the journal's open file for the job."""

    def __init__(self, actor: Any, who: Mapping[str, str]) -> None:
        self.actor, self.who = actor, who
        self.job: Job | None = None
        self.last: Job | None = None
        self.writer: Writer | None = None
        self.open = ExitStack()
        self.answer: Any = None
        self.news: Any = None


class Cluster:
    """An `Executor` on a Ray cluster. address: "ray://host:port", "host:port" of a head node, "auto" for the cluster
    that this machine belongs to, "local" for one that begins and ends with the run. workers: at most so many, else one
    for each CPU.

    Raises RunError where Ray is not installed, does not answer or has no CPU to give.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise RunError("Ray is not installed: pip install 'paperlab-daily[lab,ray]'") from None
        self.ray = ray
        _reachable(address)
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        local = {"include_dashboard": False, "num_cpus": workers or os.cpu_count()} if address == "local" else {}
        try:
            ray.init(address=address, **quiet, **local)
        except Exception as error:  # of many kinds: what matters is that there is no cluster
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"no Ray cluster at {address!r}: {why}") from None
        self.workers = min(workers or 10**6, int(ray.cluster_resources().get("CPU", 0)))
        if not self.workers:
            ray.shutdown()
            raise RunError(f"the Ray cluster at {address!r} has no CPU")
        self.alive: list[_Worker] = []
        self.asked: list[tuple[Any, Any]] = []  # workers that have not come yet, each with who it will say it is
        self.again: list[Job] = []
        self.deaths: Counter[tuple[str, str]] = Counter()
        self.machines: set[str] = set()

    def _ask(self) -> None:
        """Ask the cluster for a worker; it comes once a CPU is free."""
        environment = {"env_vars": {**dict.fromkeys(ONE, "1"), "TERM": "dumb"}}
        actor = (
            self.ray.remote(Remote)
            .options(num_cpus=1, max_concurrency=2, max_restarts=0, runtime_env=environment)
            .remote()
        )
        self.asked.append((actor, actor.who.remote()))

    def _come(self, seconds: float) -> None:
        """Take in the workers that have come, waiting at most so long for the first. Raises RunError."""
        ready, _ = self.ray.wait([who for _, who in self.asked], timeout=seconds) if self.asked else ([], [])
        for one in [one for one in self.asked if one[1] in ready]:
            self.asked.remove(one)
            try:
                who = self.ray.get(one[1])
            except self.ray.exceptions.RayError as error:
                raise RunError(f"a worker could not be started on the cluster: {_first_line(error)}") from None
            self.machines.add(who["machine"])
            self.alive.append(_Worker(one[0], who))

    def about(self, place: Place, seed: int) -> dict[str, Any]:
        """See `Executor`."""
        for _ in range(DEATHS):
            if not self.alive:
                self._ask()
                self._come(PATIENCE)
            if not self.alive:
                raise RunError(f"the cluster had no free CPU for {PATIENCE:.0f} seconds")
            try:
                found = self.ray.get(self.alive[0].actor.about.remote(asdict(place), seed))
            except self.ray.exceptions.RayActorError:
                self.alive.pop(0)
                continue
            if found["kind"] == "failed":
                raise error_from(found)
            return found["about"]
        raise RunError(f"a worker was lost on loading {place.model or place.task}, {DEATHS} times")

    def run(self, take: Take, progress: Progress, done: Done, size: int) -> None:
        """See `Executor`. How much memory there is, each machine's own Ray knows."""
        empty = False
        while True:
            while not empty and len(self.alive) + len(self.asked) < self.workers:
                self._ask()
            self._come(0 if self.alive else PATIENCE)
            for worker in [worker for worker in self.alive if worker.job is None]:
                job = self.again.pop() if self.again else take(worker.last)
                while job is not None and self.deaths[arm_of(job)] == DEATHS:
                    broke(job, progress)
                    done(job)
                    job = take(worker.last)
                empty = job is None
                if job is not None:
                    self._give(worker, job)
            busy = [worker for worker in self.alive if worker.job]
            if not busy:
                if self.again or not empty:
                    raise RunError("the cluster has no worker left to give; --resume goes on behind what was computed")
                return
            waiting = [one for worker in busy for one in (worker.answer, worker.news)]
            ready, _ = self.ray.wait([*waiting, *(who for _, who in self.asked)], timeout=5.0)
            for worker in busy:
                if worker.answer in ready or worker.news in ready:
                    self._hear(worker, progress, done, ended=worker.answer in ready)

    def _give(self, worker: _Worker, job: Job) -> None:
        journal = Journal(job.journal)
        worker.job = job
        worker.writer = worker.open.enter_context(journal.writing(job.key, job.seed))
        lines = journal.lines(job.key, job.seed)
        worker.answer = worker.actor.run.remote(job.to_json(), lines, arm_sources(job.arm, job.place.task))
        worker.news = worker.actor.news.remote()

    def _hear(self, worker: _Worker, progress: Progress, done: Done, *, ended: bool) -> None:
        job = worker.job
        assert job is not None
        try:
            found = self.ray.get(worker.answer) if ended else None
            self._take_down(worker, self.ray.get(worker.news), progress)
            if found is None:
                worker.news = worker.actor.news.remote()
                return
            self._take_down(worker, self.ray.get(worker.actor.news.remote()), progress)  # what came after the last look
        except self.ray.exceptions.RayActorError as error:
            worker.open.close()
            self.alive.remove(worker)
            self.deaths[arm_of(job)] += 1
            self.again.append(job)
            text = f"the worker on {worker.who['host']} that ran {job.name} is lost ({_first_line(error)})"
            progress({"kind": "note", "message": f"{text}; it goes on elsewhere"})
            return
        worker.open.close()
        if found["kind"] == "failed":
            raise error_from(found)
        worker.job, worker.last = None, job
        done(job)

    @staticmethod
    def _take_down(worker: _Worker, news: list[dict[str, Any]], progress: Progress) -> None:
        for one in news:
            if "line" in one and worker.writer is not None:
                worker.writer.write(one["line"])
            elif one.get("event", {}).get("kind") not in (None, "sent"):
                progress(one["event"])

    def close(self) -> None:
        """Let the cluster go; a local one ends."""
        for worker in self.alive:
            worker.open.close()
        for actor in [*(worker.actor for worker in self.alive), *(actor for actor, _ in self.asked)]:
            with suppress(Exception):  # it may have gone already
                self.ray.kill(actor)
        self.alive, self.asked = [], []
        self.ray.shutdown()


def _reachable(address: str) -> None:
    """Raises RunError where nothing listens: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address not in ("auto", "local"):
            raise RunError(f"no Ray cluster is called {address!r}: give ray://HOST:PORT, HOST:PORT, auto or local")
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(f"no Ray cluster at {address!r}: {error}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
