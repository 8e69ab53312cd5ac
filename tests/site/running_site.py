"""A site that is up in processes of its own, for tests that look at the wire."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a process with a data folder of its own, without the settings of this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERLAB_", "DJANGO_"))}
    return {
        **kept,
        "PAPERLAB_HOME": str(home),
        "PAPERLAB_ENCODER": "none",
        "PAPERLAB_FETCH": "off",
        "PAPERLAB_TOKEN": "off",
        **more,
    }


@contextmanager
def running(home: Path, **settings: str) -> Iterator[str]:
    """The address of a site, without its last slash, until the block ends."""
    log = home.parent / f"{home.name}-log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "paperlab", "up", "--port", "0"],
            stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment(home, **settings),
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://\S+(?=/ )", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[0]
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            for child in [*children, psutil.Process(process.pid)]:
                child.kill()


def within(home: Path, code: str, **settings: str) -> str:
    """What a few lines of Python print that have the site's store."""
    setup = "from paperlab.site.start import start\nstart()\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + code], env=environment(home, **settings),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
