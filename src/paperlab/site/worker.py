"""The worker: one process beside the site that does what no request should wait for. python -m paperlab.site.worker

A job is a function that does one piece of what is to be done, if there is any, and says whether it did something. Jobs
keep what they have reached in the store or in files, so a worker that is killed goes on where it was. Never two workers
at once in one data folder: the second waits until the first ends.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from paperlab.core.home import home

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks at what is to be done
PATIENCE = (5.0, 300.0)  # seconds until a job that failed is tried again: at first, and at most
LOCK = "worker.lock"


@dataclass
class Job:
    """Something to be done again and again. run: whether it did something; may raise. not_before: on the monotonic
    clock. failures: in a row."""

    name: str
    run: Callable[[], bool]
    not_before: float = 0.0
    failures: int = 0


def index() -> Callable[[], bool]:
    """The job that brings the search index up to the store."""
    import importlib

    from paperlab.site.catalogue.models import Counter

    search_index = importlib.import_module("paperlab.site.search.index")
    reached: list[int] = []

    def run() -> bool:
        revision = Counter.objects.filter(name="revision").values_list("value", flat=True).first() or 0
        if reached == [revision]:
            return False
        search_index.refresh()
        reached[:] = [revision]
        return True

    return run


def verdicts() -> Callable[[], bool]:
    """The job that publishes the verdicts of new records."""
    from paperlab.core import record, standing
    from paperlab.site import evidence

    seen: list[str] = []

    def run() -> bool:
        mark = evidence.mark()[0]
        if seen == [mark]:
            return False
        if record.records_folder().exists():
            standing.refresh(record.records_folder())
        seen[:] = [mark]
        return True

    return run


def jobs() -> list[Job]:
    """What is to be done, in order."""
    import importlib.util

    found = [Job("verdicts", verdicts())]
    if importlib.util.find_spec("paperlab.site.search.index"):
        found.insert(0, Job("index", index()))
    return found


def turn(todo: list[Job], now: float) -> bool:
    """Give each job that is due its turn; whether one did something. A job that fails waits, the others go on."""
    from django.db import close_old_connections

    close_old_connections()
    did = False
    for job in todo:
        if now < job.not_before:
            continue
        try:
            did |= job.run()
            job.failures = 0
        except Exception:
            job.failures += 1
            wait = min(PATIENCE[0] * 2 ** (job.failures - 1), PATIENCE[1])
            job.not_before = now + wait
            logger.exception("%s failed, tried again in %.0f s", job.name, wait)
    return did


def main() -> None:
    """Work until SIGTERM or SIGINT; what is under way is finished first."""
    import filelock

    from paperlab.site.child import follow_parent
    from paperlab.site.start import start

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    follow_parent()
    start()
    lock = filelock.FileLock(home() / LOCK, timeout=0)
    told = False
    while not stop.is_set():
        try:
            with lock:
                logger.debug("worker %d begins", os.getpid())
                todo = jobs()
                while not stop.is_set():
                    if not turn(todo, time.monotonic()):
                        stop.wait(TICK)
        except filelock.Timeout:
            if not told:
                logger.warning("another worker is at work in %s; this one stands by", home())
                told = True
            stop.wait(TICK)


if __name__ == "__main__":
    main()
