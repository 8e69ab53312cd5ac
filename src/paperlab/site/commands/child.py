"""Shared by the processes that `paperlab up` starts: end when the parent ends, however it ends."""

import os
import signal
import threading


def follow_parent() -> None:
    """Ask this process to end, as SIGTERM does, when its standard input closes, which the parent holds open.

    That also serves where the parent is killed outright. After ten seconds more it ends at once.
    """

    def watch() -> None:
        try:
            while os.read(0, 1):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
