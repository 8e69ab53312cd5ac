"""One process that serves the site on an inherited socket: python -m paperlab.site.commands.server DESCRIPTOR PULSE.

PULSE is a pipe into which it writes while it lives: one that is silent is replaced by `paperlab up`.
"""

import contextlib
import os
import socket
import sys
import threading

from paperlab.site.commands.child import follow_parent

DRAIN = 5  # seconds for requests under way, and for streams, when the site stops


def warm() -> None:
    """Load pages and records before the first request; what cannot be read is reported where it is shown."""
    from django.template.loader import get_template
    from django.urls import get_resolver

    with contextlib.suppress(Exception):
        assert get_resolver().url_patterns  # asking is what imports the views
        for name in ("bundled", "feed", "search", "paper", "compare"):
            get_template(f"pages/{name}.html")
        from paperlab.site.pages import figures

        for family, _ in figures.families():
            figures.compared(family)


def main(descriptor: int, pulse: int) -> None:
    """Serve until asked to stop."""
    import uvicorn

    from paperlab.site import bounds
    from paperlab.site.start import configure

    follow_parent()
    os.umask(0o077)
    configure()
    os.set_blocking(pulse, False)

    async def beat() -> None:
        if not bounds.is_stuck():
            with contextlib.suppress(OSError):  # full: the parent is busy, and reads it later
                os.write(pulse, b".\n")

    proxies = os.environ.get("PAPERLAB_PROXIES", "127.0.0.1,::1")
    # Not uvicorn's own `fd`: it takes the socket for a Unix one, asyncio then leaves out TCP_NODELAY, and every answer
    # of two packets waits 40 ms for an acknowledgement.
    opened = socket.socket(fileno=descriptor)
    config = uvicorn.Config(
        "paperlab.site.asgi:application",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=proxies,  # only these may say for whom they ask
        timeout_graceful_shutdown=DRAIN,
        http=bounds.Timely,
        callback_notify=beat,
        timeout_notify=1,
    )
    config.load()  # before the event loop runs: what prepares the store may not be called inside it
    threading.Thread(target=warm, name="warm", daemon=True).start()
    uvicorn.Server(config).run(sockets=[opened])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
