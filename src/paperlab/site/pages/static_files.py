"""Serve the pages' own files: style, scripts, type. Each is read and compressed once, and kept by browsers.

An address holds a piece of the file's hash, so a browser may keep it for ever and a new release is a new address.
"""

import gzip
import hashlib
import mimetypes
import os
import stat
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response

from paperlab.site.compression import accepted

_TYPES = {".woff2": "font/woff2", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_VENDOR = "/vendor/"  # files of others: the version is in their names


@dataclass(frozen=True)
class StaticFile:
    """A file in memory. packed: gzip's, where that is smaller."""

    body: bytes
    compressed: bytes | None
    kind: str
    mark: str


@cache
def _load(path: str, changed: int) -> StaticFile:
    file = Path(path)
    body = file.read_bytes()
    kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    compressed = gzip.compress(body, 9, mtime=0)
    small = len(compressed) < 0.9 * len(body)
    return StaticFile(body, compressed if small else None, kind, hashlib.sha256(body).hexdigest()[:12])


@lru_cache(maxsize=256)
def _located(path: str) -> str:
    """Where a file is; "" for none."""
    located = finders.find(path)  # joins safely: what leads out of the folders is refused
    return located if isinstance(located, str) else ""


def _find(path: str) -> StaticFile | None:
    located = _located(path)
    try:
        found = os.stat(located)
    except OSError:
        return None
    return _load(located, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def address(path: str) -> str:
    """The address of a file, with its mark. Raises LookupError where there is none: a mistake in a template."""
    asset = _find(path)
    if asset is None:
        raise LookupError(f"no static file {path!r}")
    whole = f"/{settings.STATIC_URL.strip('/')}/{path}"
    return whole if _VENDOR in path else f"{whole}?v={asset.mark}"


def serve(request: HttpRequest, path: str) -> HttpResponse:
    """A static file."""
    asset = None if "\0" in path or len(path) > 300 else _find(path)
    if asset is None:
        raise Http404("no such file")
    for_ever = _VENDOR in path or request.GET.get("v") == asset.mark
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if for_ever else "public, no-cache",
        "ETag": f'"{asset.mark}"',
        "Vary": "Accept-Encoding",
    }
    body = asset.body
    if asset.compressed is not None and accepted(request):
        body, headers["Content-Encoding"] = asset.compressed, "gzip"
        headers["ETag"] = f'"{asset.mark}-gzip"'
    answer = HttpResponse(body, content_type=asset.kind, headers=headers)
    return get_conditional_response(request, etag=headers["ETag"], response=answer) or answer
