"""Signs of life of the worker's loops, by which a job that hangs is told from one that works for hours.

The worker works in several loops, each in a thread. A loop that turns is alive, and so is a job that calls `sign` as it
gets on. What each loop is doing goes into the pulse, a pipe to the process that watches: that one knows what was being
done even where a job holds Python's lock, or the process was stopped. Outside of a worker all of this does nothing.
"""

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

HUNG = "!"  # before the name of a job that shows no sign of life; "." is the sign of the process as a whole
_LOCAL = threading.local()


@dataclass
class Loop:
    """One loop. job: what it is doing, "" between jobs. at: its last sign, on the monotonic clock."""

    name: str
    job: str = ""
    at: float = field(default_factory=time.monotonic)
    thread: int = field(default_factory=threading.get_ident)


_loops: list[Loop] = []
_pulse = -1


def _write(line: str) -> None:
    if _pulse >= 0:
        with contextlib.suppress(OSError):  # full: the parent is busy; closed: it is gone
            os.write(_pulse, f"{line}\n".encode()[-500:])


def loop(name: str) -> None:
    """Make this thread a loop that is to show signs of life from now on. name: without spaces."""
    _LOCAL.loop = Loop(name)
    _loops.append(_LOCAL.loop)


def sign(*_: object) -> None:
    """This loop, or its job, gets on. Takes whatever a progress callback is given."""
    mine: Loop | None = getattr(_LOCAL, "loop", None)
    if mine is not None:
        mine.at = time.monotonic()


@contextlib.contextmanager
def doing(job: str) -> Iterator[None]:
    """What this loop does; within it another may be named, of which it is a part."""
    mine: Loop | None = getattr(_LOCAL, "loop", None)
    if mine is None:
        yield
        return
    before = mine.job
    try:
        _is(mine, job)
        yield
    finally:
        _is(mine, before)


def _is(mine: Loop, job: str) -> None:
    mine.job, mine.at = job, time.monotonic()
    _write(f"{mine.name} {job}")


def watch(pulse: int, patience: float) -> None:
    """Tell through the pulse, every second from now on, that this process lives, until one of its loops has shown no
    sign of life for `patience` seconds: then what it was doing, and where."""
    global _pulse
    _pulse = pulse
    os.set_blocking(pulse, False)

    def beat() -> None:
        told = False
        while not told:
            now = time.monotonic()
            for one in list(_loops):
                if now - one.at > patience:
                    told = True
                    job = one.job or one.name
                    frame = sys._current_frames().get(one.thread)
                    where = "".join(traceback.format_stack(frame)[-6:]) if frame else ""
                    logger.error("%s has shown no sign of life for %.0f s; it is at\n%s", job, now - one.at, where)
                    _write(f"{HUNG} {job}")
            if not told:
                _write(".")
            time.sleep(min(1.0, patience / 5))

    threading.Thread(target=beat, name="alive", daemon=True).start()


def read(said: str, doing: dict[str, str]) -> list[str]:
    """Note in `doing` what the lines of a pulse say each loop does; the jobs that they say hang."""
    hung = []
    for line in said.split("\n"):
        name, _, job = line.partition(" ")
        if name == HUNG:
            hung.append(job)
        elif job:
            doing[name] = job
        else:
            doing.pop(name, None)
    return hung
