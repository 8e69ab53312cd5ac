"""Django behind ASGI with threads that are kept: a request runs in one thread from end to end, as under WSGI.

Django's own handler begins a thread for each request, with a new connection to the database and its statements to be
read anew, and goes from thread to thread where one middleware can be asynchronous and the next cannot.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase

KEPT = 16  # threads without work that are kept, each with its connection


class Handler(ASGIHandler):
    """Django's handler with the whole of its middleware and the view in one thread, which the next request gets."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: deque[ThreadPoolExecutor] = deque()

    def load_middleware(self, is_async: bool = False) -> None:
        """Load it to be called from a thread."""
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """The answer, made in the request's thread."""
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        thread = self._thread()
        try:
            async with ThreadSensitiveContext(executor=thread):
                await super().__call__(scope, receive, send)
        finally:
            # Behind all that the request left in its thread: one whose client has left may still be at work.
            thread.submit(int).add_done_callback(lambda done: self._back(thread, done))

    def _thread(self) -> ThreadPoolExecutor:
        try:
            return self.idle.pop()
        except IndexError:
            return ThreadPoolExecutor(max_workers=1, thread_name_prefix="page")

    def _back(self, thread: ThreadPoolExecutor, _: "Future[int]") -> None:
        if len(self.idle) < KEPT:
            self.idle.append(thread)
        else:
            thread.shutdown(wait=False)
