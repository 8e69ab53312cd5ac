"""Index the words of papers while they are being stored: in a process of its own, as a Python uses one core.

A head start and no more: who stores refreshes the index afterwards as ever, which takes in what this process has not.
So it may end or be killed at any time, and is not there at all where few papers come, or where another process writes
the index already.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from paperlab.core.home import home
from paperlab.site.commands.terminal import ProgressLine
from paperlab.site.start import configure

WORTH = 2_000  # papers that were stored; to start a Python takes as long as it takes to index those
PAUSE = 0.1  # seconds between two looks for papers


@contextmanager
def following(line: ProgressLine) -> Iterator[Any]:
    """While papers are stored in this context: a `harvest.Progress` to be told of them, which shows them on the line.

    Leaving it waits until their words are indexed; where it is left by an error, what is not indexed yet is given up.
    """
    children: list[subprocess.Popen[bytes]] = []

    def progress(source: str, counts: Any, total: int | None) -> None:
        line(source, counts, total)
        if not children and counts.new + counts.changed >= WORTH:
            children.append(_start())

    try:
        yield progress
        for child in children:
            line.show("indexing the last papers")
            child.communicate()  # closes its standard input
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from paperlab.site.commands.following import follow; follow()"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "PAPERLAB_HOME": str(home())},
    )  # fmt: skip


def follow() -> None:
    """What the process does: index what is stored until its standard input ends, as it does when its parent ends."""
    configure()
    from paperlab.site.search import index

    ended = threading.Event()

    def listen() -> None:
        os.read(0, 1)
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    with suppress(index.Busy):
        index.refresh(meaning=False, check=False, wait=0, more=lambda: not ended.wait(PAUSE))
