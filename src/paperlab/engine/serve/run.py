"""Run the server's process: socket, signals, and a model that loads while the server already answers."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

import uvicorn

from paperlab.core.address import is_local, listen, url
from paperlab.engine.encoder import Encoder
from paperlab.engine.language import LanguageModel
from paperlab.engine.serve import guard
from paperlab.engine.serve.app import application
from paperlab.engine.serve.service import Options, Service

GRACE = 5.0  # seconds for running texts, once the server is asked to stop
CONNECTIONS = 512
BUFFER = 64 << 10  # bytes that the system buffers for a reader, few so that a stalled one is noticed soon

T = TypeVar("T")


class Server(uvicorn.Server):
    """uvicorn that, on a signal, lets running texts end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gently at the first signal, at once at the second."""
        if self.should_exit:
            os._exit(130)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new texts; running ones have a few seconds."""
        self.service.stop(GRACE)
        await super().shutdown(sockets)


async def _in_thread(work: Callable[[], T]) -> T:
    """Run work in a daemon thread, which the process does not wait for at its end; its result."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await done


def serve(
    load: Callable[[], LanguageModel | Encoder],
    options: Options,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    key: str | None = None,
    origins: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model until SIGTERM or SIGINT. load: opens it. Raises AddressError, and what `load` raises."""
    opened = listen(host, port, buffer=BUFFER)
    bound = opened.getsockname()[0]
    service = Service(options)
    failed: list[Exception] = []

    async def loading() -> None:
        try:
            service.start(await _in_thread(load))
            say(f"{options.name} is served at {url(opened)}/v1; ctrl-C stops it")
        except Exception as error:
            failed.append(error)
            server.should_exit = True

    names = frozenset({"localhost", "127.0.0.1", "::1", host, bound}) if is_local(host) else None
    if names is None and key is None:
        say(f"anybody who reaches {bound} may use this server: give an --api-key (or PAPERLAB_API_KEY)")
    config = uvicorn.Config(
        application(service, loading, key=key, names=names, origins=origins),
        http=guard.TimedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(GRACE) + 5,
    )
    server = Server(config, service)
    server.run(sockets=[opened])
    if failed:
        raise failed[0]
    if not service.join(GRACE):
        os._exit(1)  # a run of the model that does not end must not keep the process
