"""Exports as JSON lines, made while they are sent, so that memory does not grow with the store."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from paperlab.site import compression, records
from paperlab.site.api import cursor, shapes
from paperlab.site.api.problems import bad
from paperlab.site.store.models import Paper

PAGE = 500  # papers read at once
CHUNK = 100  # lines sent at once


def paper_lines(behind: str) -> Iterator[dict[str, Any]]:
    """Every paper behind a cursor of order=changed, each with its own. Raises Problem at once for a bad one."""
    rows = Paper.objects.defer(*shapes.UNREAD)
    first = cursor.page(rows, "changed", behind, PAGE)

    def each() -> Iterator[dict[str, Any]]:
        page = first
        while page:
            known = records.record_index()
            for row in page:
                yield {**shapes.paper(row, known), "cursor": cursor.of(row, "changed")}
            page = cursor.page(rows, "changed", cursor.of(page[-1], "changed"), PAGE)

    return each()


def record_lines(behind: str, samples: bool) -> Iterator[dict[str, Any]]:
    """Every record behind one of that id. Raises Problem for an id that is none."""
    if behind and behind not in records.record_index().places:
        raise bad({"cursor": f"no record {behind!r}; give the id of the last one that was kept"})
    return records.read_all(behind or None, samples=samples)


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    each = iter(rows)
    while some := list(islice(each, CHUNK)):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for row in some]
        yield "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def stream(request: HttpRequest, rows: Iterable[dict[str, Any]]) -> StreamingHttpResponse:
    """The lines as an answer that is made while it is sent."""
    chunks = _chunks(rows)
    headers = {"Vary": "Accept-Encoding"}
    if compression.accepted(request):
        chunks = compression.compressed(chunks)
        headers["Content-Encoding"] = "gzip"
    content = _in_thread(chunks) if isinstance(request, ASGIRequest) else chunks
    return StreamingHttpResponse(content, content_type="application/jsonl", headers=headers)


async def _in_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, each made in the request's thread: under ASGI a plain iterator would be read whole first."""
    following = sync_to_async(lambda: next(chunks, None))
    while (chunk := await following()) is not None:
        yield chunk
