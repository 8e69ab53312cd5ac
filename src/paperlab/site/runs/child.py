"""Keeps one run's process within its limits and ends it when the worker ends. Imports nothing of paperlab, and the run
is a process of its own: what it loads decides the hash of its code.

python child.py MEMORY_IN_BYTES COMMAND …
"""

import os
import resource
import signal
import subprocess
import sys
import threading


def main(memory: int, command: list[str]) -> int:
    """Run the command; the exit status is its own, or 128 + the signal that killed it."""

    def watch() -> None:
        """Standard input is a pipe that the worker holds: it closes however the worker ends."""
        try:
            while os.read(0, 1):
                pass
        finally:
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    # The worker measures and says what happened; this holds where memory is taken faster than it looks.
    soft = memory * 3 // 2
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard < 0 else min(soft, hard), hard))
    os.nice(5)  # the site answers first
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # where the machine has no memory left, the run goes, not the site
    except OSError:
        pass
    status = subprocess.run(command, stdin=subprocess.DEVNULL, close_fds=False).returncode
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
