"""The worker: one background process that does what no request should wait for.

    python -m paperlab.site.worker

A job is a function that does one piece of work, if there is any, and returns whether it did something. Jobs keep their
progress in the store or in files, so a worker that is killed goes on where it was. Never two workers at once in one
data folder: the second waits until the first ends. One of whose loops shows no sign of life is replaced (`up`), and the
job that hung is counted (`store.hangs`).
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from paperlab.core.home import home
from paperlab.site import alive

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks at what is to be done
PATIENCE = (5.0, 300.0)  # seconds until a job that failed is tried again: at first, and at most
LOCK = "worker.lock"


@dataclass
class Job:
    """A recurring piece of work. run: does some and returns whether there was any; may raise. not_before: on the
    monotonic clock. failures: in a row. message: of the last failure."""

    name: str
    run: Callable[[], bool]
    not_before: float = 0.0
    failures: int = 0
    message: str = ""


class _Moved(Exception):
    """The store has changed while vectors were made: words go first, then the rest of the vectors."""


def revision() -> int:
    """The store's revision: rises with every change."""
    from paperlab.site.store.models import Counter

    return Counter.objects.filter(name="revision").values_list("value", flat=True).first() or 0


def words() -> Callable[[], bool]:
    """The job that makes a new paper findable by its words, which takes a moment."""
    from paperlab.site.search import index

    reached = -1

    def run() -> bool:
        nonlocal reached
        now = revision()
        if now == reached and not index.lost():
            return False
        index.refresh(meaning=False, progress=alive.sign)
        reached = now
        return True

    return run


def meaning() -> Callable[[], bool]:
    """The job that makes it findable by its meaning, which takes longer, and steps back when more papers arrive."""
    from paperlab.site.search import index

    reached: tuple[int, str] = (-1, "")

    def run() -> bool:
        nonlocal reached
        now = revision()
        if (now, index.state().generation) == reached:  # another generation has no vectors, or those it was given
            return False
        looked = time.monotonic()

        def look(*_: object) -> None:
            nonlocal looked
            alive.sign()
            if time.monotonic() - looked > TICK:
                looked = time.monotonic()
                if revision() != now:
                    raise _Moved

        try:
            index.refresh(progress=look)
            reached = now, index.state().generation
        except _Moved:
            pass
        return True

    return run


def families() -> Callable[[], bool]:
    """The job that guesses the families of new papers, once their vectors are there."""
    from paperlab.site.search import families, index

    reached: tuple[int, object] = (-1, None)

    def run() -> bool:
        nonlocal reached
        now = (revision(), index.engine().state)
        if now == reached:
            return False
        families.assign()
        reached = now
        return True

    return run


def verdicts() -> Callable[[], bool]:
    """The job that publishes the verdicts of new records."""
    from paperlab.core.published import publish
    from paperlab.core.record import records_folder
    from paperlab.site import records

    seen: list[str] = []

    def run() -> bool:
        mark = records.mark()[0]
        if seen == [mark]:
            return False
        if records_folder().exists():
            publish()
        seen[:] = [mark]
        return True

    return run


def jobs() -> list[Job]:
    """The jobs that compute, in the order of their turns."""
    return [Job("words", words()), Job("meaning", meaning()), Job("families", families()), Job("verdicts", verdicts())]


def light() -> list[Job]:
    """The jobs that wait for others rather than compute: they run in a thread of their own."""
    from paperlab.site.digest import letters, send
    from paperlab.site.people import counting, fetching
    from paperlab.site.replies import actions as replies

    return [
        Job("letters", letters.urgent),
        Job("submissions", fetching.fetch),
        Job("replies", replies.check),
        Job("digest", send.due()),
        Job("new accounts' votes", counting.arrivals()),
    ]


def fetching() -> list[Job]:
    """The job that brings papers by itself, in a thread of its own: a source may take hours, or hang."""
    from paperlab.site.store.arriving import due

    return [Job("fetch", due())]


def pictures() -> list[Job]:
    """The job that fetches the pictures of papers, in a thread of its own: nobody waits for it."""
    from paperlab.site.store.teasers import due

    return [Job("pictures", due())]


def _work(name: str, todo: list[Job], stop: threading.Event) -> None:
    """A loop over some jobs."""
    alive.loop(name)
    while not stop.is_set():
        alive.sign()
        if not turn(todo, time.monotonic()):
            stop.wait(TICK)


def turn(todo: list[Job], now: float) -> bool:
    """Give each job that is due its turn; whether one did something. A job that fails waits, the others go on."""
    from django.db import close_old_connections

    from paperlab.site.store import hangs

    close_old_connections()
    did = False
    for job in todo:
        if now < job.not_before:
            continue
        try:  # around all that asks the store: it may be away
            if hangs.is_aside(job.name):
                continue
            with alive.doing(job.name):
                did |= job.run()
            hangs.over(job.name)
            job.failures, job.message = 0, ""
        except Exception as error:
            job.failures += 1
            wait = min(PATIENCE[0] * 2 ** (job.failures - 1), PATIENCE[1])
            job.not_before = now + wait
            message = f"{job.name}: {' '.join(str(error).split())}"
            if message != job.message:  # once, not every few minutes for as long as a machine is offline
                # These are made to be read; of others the trace is wanted.
                clear = isinstance(error, OSError) or type(error).__module__.startswith("paperlab.")
                logger.error("%s; tried again in %.0f s", message, wait, exc_info=None if clear else error)
                job.message = message
    return did


def main() -> None:
    """Keep a worker at work until SIGTERM or SIGINT."""
    from paperlab.site.commands.up import keep, worker

    keep([worker()], lambda line: print(line, file=sys.stderr, flush=True))


def child(pulse: int, hung: list[str]) -> None:
    """Work until SIGTERM, or until the parent ends. pulse: the pipe for signs of life. hung: the jobs at which the
    worker before this one was replaced."""
    import filelock
    from django.conf import settings

    from paperlab.site.commands.child import follow_parent
    from paperlab.site.start import configure, start

    configure()
    alive.watch(pulse, settings.PAPERLAB_WORKER_PATIENCE)
    from paperlab.site.runs import runner
    from paperlab.site.store import arriving, hangs

    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        raise SystemExit(0)  # also out of a job that has hours to go: each goes on where it was

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    follow_parent()
    start()
    hangs.count(hung)
    lock = filelock.FileLock(home() / LOCK, timeout=0)
    warned = False
    while not stop.is_set():
        try:
            with lock:
                logger.debug("worker %d begins", os.getpid())
                arriving.release()
                # In threads: a run lasts minutes, and cancelling it should not wait for a job that lasts as long.
                threading.Thread(target=runner.work, args=(stop,), name="runs", daemon=True).start()
                for name, beside in (("light", light()), ("fetch", fetching()), ("pictures", pictures())):
                    threading.Thread(target=_work, args=(name, beside, stop), name=name, daemon=True).start()
                _work("main", jobs(), stop)
        except filelock.Timeout:
            if not warned:
                logger.warning("another worker is at work in %s; this one stands by", home())
                warned = True
            stop.wait(TICK)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else [])
    else:
        main()
