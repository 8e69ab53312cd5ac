"""Gzip for answers: whole ones by Django's middleware, streams as one gzip file."""

import zlib
from collections.abc import Iterable, Iterator

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware, re_accepts_gzip


class Gzip(GZipMiddleware):
    """Django's middleware without streams: under ASGI it makes each of their chunks a gzip file of its own, and clients
    that read only the first (curl and httpx do) would lose the rest without notice."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """The answer, compressed if it is whole and the client takes gzip."""
        return response if response.streaming else super().process_response(request, response)


def accepted(request: HttpRequest) -> bool:
    """Whether a client takes gzip."""
    return bool(re_accepts_gzip.search(request.headers.get("Accept-Encoding", "")))


def compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks as one gzip file, which is sent as it grows."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    for chunk in chunks:
        if made := compressor.compress(chunk):
            yield made
    yield compressor.flush()
