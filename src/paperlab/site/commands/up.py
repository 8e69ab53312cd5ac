"""`paperlab up`: start the site's processes and the worker, watch them, and stop them together.

The socket is opened here and inherited, so a taken port is known at once, several processes can serve it, and one that
is started again loses no connection that waits.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from paperlab.core.address import is_local, listen, url
from paperlab.core.home import home, make_private
from paperlab.site import alive
from paperlab.site.start import start

GRACE = 10.0  # seconds to end in before a process is killed
AGAIN = 1.0  # seconds before a process that died is started again
GIVE_UP = 3  # deaths of one process within WINDOW seconds after which all is stopped
WINDOW = 30.0
SILENT = 30.0  # seconds without a sign of life after which a process is replaced
LOADING = 180.0  # and while it starts


class UpError(RuntimeError):
    """The site cannot be kept up; the message says why and what to do."""


@dataclass
class Child:
    """A process that is kept running. It is given a pipe to write signs of life into (`paperlab.site.alive` has the
    words), and replaced where none come. doing: by loop, what it said that it does; hung: what it was doing when it was
    replaced, which its successor is told."""

    name: str
    command: list[str]
    descriptors: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    pulse: int = -1
    heard: float = 0.0  # until when it need not be heard of
    asked: float = 0.0  # when it was asked to end because it was silent
    due: float = 0.0
    deaths: list[float] = field(default_factory=list)
    rest: str = ""  # of a line that has not come whole
    doing: dict[str, str] = field(default_factory=dict)
    hung: list[str] = field(default_factory=list)

    def spawn(self) -> None:
        """Start it: in a session of its own, so that ctrl-C reaches `paperlab up` alone, which then asks it to end."""
        self.pulse, theirs = os.pipe()
        os.set_blocking(self.pulse, False)
        try:
            self.process = subprocess.Popen(
                [*self.command, str(theirs), *([json.dumps(self.hung)] if self.hung else [])],
                stdin=subprocess.PIPE,
                pass_fds=(*self.descriptors, theirs),
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        self.heard, self.asked = time.monotonic() + LOADING, 0.0
        self.rest, self.doing, self.hung = "", {}, []

    def is_silent(self, now: float) -> bool:
        """Whether nothing has been heard of it for too long, or it has said that something hangs."""
        with contextlib.suppress(BlockingIOError):
            if said := os.read(self.pulse, 65536):
                self.heard = now + SILENT
                whole, _, self.rest = (self.rest + said.decode(errors="replace")).rpartition("\n")
                self.hung += alive.read(whole, self.doing)
        return bool(self.hung) or now > self.heard

    def forget(self) -> None:
        """Close what is left of a process that has ended."""
        if self.process is not None and self.process.stdin:
            self.process.stdin.close()
        if self.pulse >= 0:
            os.close(self.pulse)
        self.process, self.pulse = None, -1


def up(host: str, port: int, workers: int, say: Callable[[str], None]) -> None:
    """Bring the store up to date, then run until SIGINT, SIGTERM or SIGHUP.

    Raises AddressError, UpError, StoreError, …
    """
    make_private(home(), again=True)
    opened = listen(host, port)
    start()
    _remember(url(opened))
    from django.conf import settings
    from django.db import connections

    from paperlab.site.store import arriving

    fetched = arriving.announcement()
    connections.close_all()
    here = [sys.executable, "-m"]
    fd = opened.fileno()
    children = [worker()]
    children += [
        Child(f"server {n}", [*here, "paperlab.site.commands.server", str(fd)], (fd,)) for n in range(1, workers + 1)
    ]

    def begun() -> None:
        door = f"?token={settings.PAPERLAB_TOKEN}" if settings.PAPERLAB_TOKEN else ""
        say(f"paperlab is up at {url(opened)}/{door} (API at {url(opened)}/api/); ctrl-C stops it")
        if settings.PAPERLAB_LOCAL and not is_local(opened.getsockname()[0]):
            say("it answers to localhost only: set PAPERLAB_HOSTS to the names by which others reach it")
        for line in fetched:
            say(line)

    try:
        keep(children, say, begun)
    finally:
        opened.close()


def worker() -> Child:
    """The worker, to be kept."""
    return Child("worker", [sys.executable, "-m", "paperlab.site.commands.worker", "child"])


def keep(children: list[Child], say: Callable[[str], None], begun: Callable[[], None] = lambda: None) -> None:
    """Start processes and keep them running until SIGINT, SIGTERM or SIGHUP. begun: called once they are started.

    Raises UpError.
    """
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for child in children:
            child.spawn()
        begun()
        while not stopped:
            _watch(children, say)
            time.sleep(0.1)
    finally:
        _end(children)
        for number, handler in before.items():
            signal.signal(number, handler)


def _remember(address: str) -> None:
    """Where the site is, for the links in its mail, and in that of `paperlab digest`."""
    if not os.environ.get("PAPERLAB_HOSTS"):
        os.environ.setdefault("PAPERLAB_URL", address)
        with contextlib.suppress(OSError):
            (home() / "address").write_text(address, encoding="ascii")


def _watch(children: list[Child], say: Callable[[str], None]) -> None:
    """Start again what has died. Raises UpError for one that dies over and over."""
    now = time.monotonic()
    for child in children:
        if child.process is not None and (status := child.process.poll()) is not None:
            child.forget()
            if child.asked:  # said already
                child.due, child.asked = now, 0.0
                continue
            child.deaths = [then for then in child.deaths if now - then < WINDOW] + [now]
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            if len(child.deaths) >= GIVE_UP:
                raise UpError(f"the {child.name} {how}, {GIVE_UP} times in {WINDOW:.0f} s; its messages above say why")
            say(f"the {child.name} {how}; it is started again")
            child.due = now + AGAIN
        elif child.process is None and now >= child.due:
            child.spawn()
        elif child.process is not None and child.is_silent(now):
            _replace(child, now, say)


def _replace(child: Child, now: float, say: Callable[[str], None]) -> None:
    """Ask a process that does not answer to end, and end it where it does not hear that either."""
    assert child.process is not None
    if not child.asked:
        child.asked = now
        child.hung = child.hung or sorted(set(child.doing.values()))
        at = f" ({', '.join(child.hung)})" if child.hung else ""
        say(f"the {child.name} does not answer{at}; it is replaced")
        child.process.terminate()
    elif now - child.asked > GRACE:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)


def _end(children: list[Child]) -> None:
    """Ask all to end, wait, and kill what does not."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin:
            process.stdin.close()
