"""Answers made small on their way: gzip, whole ones by Django, streams as one piece."""

import zlib
from collections.abc import Iterable, Iterator

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware, re_accepts_gzip


class Gzip(GZipMiddleware):
    """Django's, but for streams: under ASGI it makes each of their chunks a gzip file of its own, and clients that
    read only the first (curl and httpx do) would lose the rest without a word."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """The answer, packed where that serves."""
        return response if response.streaming else super().process_response(request, response)


def accepted(request: HttpRequest) -> bool:
    """Whether a client takes gzip."""
    return bool(re_accepts_gzip.search(request.headers.get("Accept-Encoding", "")))


def packed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks as one gzip file, which is sent as it grows."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    for chunk in chunks:
        if made := packer.compress(chunk):
            yield made
    yield packer.flush()
