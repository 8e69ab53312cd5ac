"""How far a long piece of work is, on standard error: a bar on a terminal, now and then a line elsewhere."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paperlab.core.log import quiet

EVERY, LEAST = 30.0, 2.0  # a line each tenth or 30 s, but none within 2 s of the last

Progress = Callable[[str, int, int], None]


def duration(seconds: float) -> str:
    """About how long, for people."""
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    return f"about {round(seconds / 60)} min"


@contextmanager
def progress(title: str, unit: str, scale: float = 1) -> Iterator[Progress]:
    """A callable to be told what is at work, how many are done, and of how many: shown with the time that is left.

    title: what is done, before its figures. unit: of what is counted, `scale` of them at a time. What reports nothing
    for long still shows that it goes on. Nothing is written with -q.
    """
    if quiet():
        yield lambda name, done, total: None
        return
    shown = _Shown(title, unit, scale)
    ended = threading.Event()

    def beats() -> None:
        while not ended.wait(1.0):
            shown.draw()

    beat = threading.Thread(target=beats, daemon=True)
    beat.start()
    try:
        yield shown.report
    finally:
        ended.set()
        beat.join()
        shown.clear()


class _Shown:
    """The state of one piece of work, and when it was last shown."""

    def __init__(self, title: str, unit: str, scale: float) -> None:
        self.title, self.unit, self.scale = title, unit, scale
        self.name, self.done, self.total = "", 0, 0
        self.began = self.last = time.monotonic()
        self.tenth, self.bar = 0, sys.stderr.isatty()
        self.lock = threading.Lock()

    def report(self, name: str, done: int, total: int) -> None:
        """Take what is at work, and show it if it is time to."""
        self.name, self.done, self.total = name, done, total
        self.draw()

    def draw(self) -> None:
        """Show it if it is time to."""
        with self.lock:
            now, share = time.monotonic(), self.done / self.total if self.total else 0.0
            if self.bar:
                filled = int(20 * share)
                line = f"[{'=' * filled}{' ' * (20 - filled)}] {self.words(now, share)}  {self.name}"
                print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
            elif now - self.last >= (LEAST if 10 * self.done // max(self.total, 1) > self.tenth else EVERY):
                self.last, self.tenth = now, 10 * self.done // max(self.total, 1)
                print(self.words(now, share), file=sys.stderr, flush=True)

    def words(self, now: float, share: float) -> str:
        """What is done of how much, and how long the rest takes by what it took so far."""
        spent = now - self.began
        if not share:
            return f"{self.title}: at work for {spent:.0f} s"
        counted = f"{self.done / self.scale:.0f} of {self.total / self.scale:.0f} {self.unit}"
        return f"{self.title}: {counted}, {duration(spent / share - spent)} left"

    def clear(self) -> None:
        """Take the bar away."""
        if self.bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
