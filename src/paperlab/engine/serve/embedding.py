"""Embed texts for many clients: one thread owns the encoder, and a run takes some of every client's texts."""

import logging
import threading
from collections.abc import Callable

import numpy as np

from paperlab.engine.encoder import Encoder
from paperlab.engine.native import EngineError
from paperlab.engine.serve.batching import Busy, Stopping
from paperlab.engine.serve.metrics import Metrics

AT_ONCE = 2048  # tokens of one run

log = logging.getLogger("paperlab.serve")


class Job:
    """The texts of one request, as token ids. vectors: (n, width) float32 once it is done; error: why it failed."""

    def __init__(self, ids: list[list[int]]) -> None:
        self.ids = ids
        self.vectors: np.ndarray | None = None
        self.error: str | None = None
        self.cancelled = False
        self.done = 0


class Embedder:
    """Embeds with one model, in a thread of its own. deliver: takes jobs that are over."""

    def __init__(self, model: Encoder, metrics: Metrics, deliver: Callable[[Job], None], *, queue: int) -> None:
        self.model, self.metrics, self.deliver, self.queue = model, metrics, deliver, queue
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self.thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Busy and Stopping."""
        with self._changed:
            if self._stopping:
                raise Stopping
            if len(self._jobs) >= self.queue:
                raise Busy(f"{len(self._jobs)} requests wait already; try again later")
            job.vectors = np.empty((len(job.ids), self.model.width), np.float32)
            self._jobs.append(job)
            self._changed.notify()

    def stop(self, grace: float) -> None:
        """Take nothing new; jobs under way have `grace` seconds, then they fail."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        timer = threading.Timer(grace, self._give_up)
        timer.daemon = True
        timer.start()

    def queued(self) -> int:
        """Jobs that are not done."""
        return len(self._jobs)

    def _give_up(self) -> None:
        with self._changed:
            for job in self._jobs:
                job.error = str(Stopping())

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._stopping:
                    self._changed.wait()
                for job in [job for job in self._jobs if job.cancelled or job.error or job.done == len(job.ids)]:
                    self._jobs.remove(job)
                    if not job.cancelled:
                        self.deliver(job)
                jobs = list(self._jobs)
                if not jobs and self._stopping:
                    return
            if jobs:
                self._embed(jobs)

    def _embed(self, jobs: list[Job]) -> None:
        """The next texts of every job, in equal shares."""
        taken: list[tuple[Job, int]] = []
        for job in jobs:
            room = AT_ONCE // len(jobs)
            while job.done < len(job.ids) and (room >= len(job.ids[job.done]) or not taken or taken[-1][0] is not job):
                room -= len(job.ids[job.done])
                taken.append((job, job.done))
                job.done += 1
        try:
            vectors = self.model.embed_ids([job.ids[i] for job, i in taken])
        except Exception as error:
            if not isinstance(error, EngineError | MemoryError):
                log.error("texts could not be embedded", exc_info=error)
            if len(jobs) > 1:  # one job's fault is not the others'
                for job in jobs:
                    job.done = min(i for other, i in taken if other is job)
                    self._embed([job])
            else:
                jobs[0].error = str(error) or type(error).__name__
            return
        for (job, i), vector in zip(taken, vectors, strict=True):
            assert job.vectors is not None
            job.vectors[i] = vector
        self.metrics.tokens.labels("embedded").inc(sum(len(job.ids[i]) for job, i in taken))
