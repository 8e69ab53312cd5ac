"""Middleware of the API: rate limit, CORS, ETag and 304, and RFC 9457 problems instead of HTML errors.

Pages and feeds have a rate limit too, of their own.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response
from django.utils.http import parse_etags

from paperlab.core.home import home
from paperlab.core.install import version
from paperlab.site import door, records
from paperlab.site.api import limits
from paperlab.site.api.problems import TYPE, Problem, of_status, response
from paperlab.site.store.revision import revision

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "ETag, Link, RateLimit, RateLimit-Policy, Retry-After, X-Total-Count",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "If-None-Match, If-Modified-Since",
    "Access-Control-Max-Age": "86400",
}
_METHODS = "GET, HEAD, OPTIONS"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="paperlab"'}
# Ranking depends on the search index, which is a moment behind the store: these are tagged by what they say.
_RANKED = ("/api/papers/search", "/api/search")


@cache
def _code() -> str:
    """This site's own mark: its data folder (by the secret kept there), its version and the code of its answers."""
    made = hashlib.sha256(f"{settings.SECRET_KEY} {version()}".encode())
    for file in sorted(Path(__file__).parent.rglob("*.*")):
        if file.suffix in (".py", ".html"):
            made.update(file.read_bytes())
    return made.hexdigest()[:12]


def tag(request: HttpRequest) -> str:
    """The ETag of an address now, without making its answer: the store's revision, the records' state, the day."""
    parts = (_code(), revision(), records.mark()[0], datetime.now(UTC).date(), request.get_full_path())
    return f'W/"{hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()[:24]}"'


PAGES = limits.Rate(10, 200)  # pages and feeds of one address, behind which a whole laboratory may sit
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_FREE = ("/static/", "/teasers/")  # small files of one's own, which browsers keep for ever; a page has thirty


class Guard:
    """Middleware around everything under /api/; of /mcp and other addresses it only counts the requests."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        rate: limits.Rate | None = settings.PAPERLAB_RATE
        self.buckets = None if rate is None else limits.Buckets(home() / "rates.sqlite3", rate)
        self.pages = None if rate is None else limits.Buckets(home() / "rates.sqlite3", PAGES)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer to a request."""
        agents = request.path_info.rstrip("/") == "/mcp"
        # /api itself is a page, with its reader's links on it.
        if not (agents or request.path_info.startswith("/api/")) or request.path_info == "/api/":
            return self._page(request)
        if request.method == "OPTIONS" and not agents and not request.path_info.startswith("/api/me"):
            return HttpResponse(status=204, headers={**CORS, **_PREFLIGHT, "Allow": _METHODS})
        personal = request.path_info == "/api/me" or request.path_info.startswith("/api/me/")
        headers = {} if agents or personal else dict(CORS)  # what is somebody's own is for no web page elsewhere
        refused = self._identify(request)
        taken = self._take(request)
        if taken is not None and self.buckets is not None:
            headers["RateLimit-Policy"] = self.buckets.rate.policy
            headers["RateLimit"] = f'"client";r={taken.remaining};t={round(taken.full)}'
            if not taken.allowed:
                wait = max(1, -int(-taken.wait // 1))
                problem = Problem(429, f"more requests than {self.buckets.rate.per_second:g} a second; wait {wait} s")
                return response(problem, {**headers, "Retry-After": str(wait)})
        if refused is not None:
            return response(refused, {**headers, **(CHALLENGE if refused.status == 401 else {"Retry-After": "1"})})
        if agents:
            answer = self.get_response(request)
        else:
            answer = self._personal(request) if personal else self._answer(request)
        for name, value in headers.items():
            answer.headers.setdefault(name, value)
        return answer

    def _page(self, request: HttpRequest) -> HttpResponseBase:
        """A page, or word that too many were asked for, before a session or the store is looked into."""
        if request.path_info.startswith(_FREE):
            return self.get_response(request)
        if self.pages is not None and not door.is_owner(request):
            taken = self.pages.take(f"pages {limits.client(request.META.get('REMOTE_ADDR') or '')}")
            if not taken.allowed:
                wait = max(1, -int(-taken.wait // 1))
                answer = _refused(429, "Too many requests", f"Wait {wait} s, then try again.")
                answer.headers["Retry-After"] = str(wait)
                return answer
        if _has_nul(request):
            return _refused(400, "This address cannot be read", "It holds the character NUL.")
        _without_nul(request)
        return self.get_response(request)

    def _take(self, request: HttpRequest) -> limits.Taken | None:
        """Count the request; None where nothing is limited: the owner of a site for one machine is free."""
        if self.buckets is None or door.is_owner(request):
            return None
        token = getattr(request, "paperlab_token", None)
        return self.buckets.take(
            f"token {token.pk}" if token is not None else limits.client(request.META.get("REMOTE_ADDR") or "")
        )

    @staticmethod
    def _identify(request: HttpRequest) -> Problem | None:
        """Note whose token the request carries; the problem of one that is not good."""
        from paperlab.site.tokens import actions

        try:
            request.paperlab_token = actions.of(request)
        except Problem as problem:
            return problem
        except DatabaseError:
            return of_status(503)
        return None

    def _personal(self, request: HttpRequest) -> HttpResponseBase:
        """The answer to a token, kept by nobody on the way."""
        if request.method not in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            return response(of_status(405), {"Allow": "GET, HEAD, POST, PUT, DELETE"})
        head = request.method == "HEAD"
        if head:
            request.method = "GET"
        answer = self.get_response(request)
        if answer.status_code >= 400 and answer.headers.get("Content-Type") != TYPE:
            kept = {name: answer.headers[name] for name in ("Allow", "Retry-After") if name in answer.headers}
            answer = response(of_status(answer.status_code), kept)
        if answer.status_code == 401:
            answer.headers["WWW-Authenticate"] = CHALLENGE["WWW-Authenticate"]
        answer.headers["Cache-Control"] = "private, no-store"
        return _headers_only(answer) if head else answer

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        if request.method not in ("GET", "HEAD"):
            return response(of_status(405), {"Allow": _METHODS})
        try:
            if _has_nul(request):
                return response(Problem(400, "the address holds the character NUL, which no paper has"))
            ranked = request.path_info in _RANKED or request.path_info.endswith("/related")
            known = "" if ranked else tag(request)
        except SuspiciousOperation:
            return response(of_status(400))
        except DatabaseError:
            return response(of_status(503), {"Retry-After": "1"})
        asked = request.headers.get("If-None-Match", "")
        if known and known in parse_etags(asked):
            return HttpResponse(status=304, headers={"ETag": known, "Cache-Control": "public, no-cache"})
        head = request.method == "HEAD"
        request.method = "GET"  # the same answer, without its body
        answer = self.get_response(request)
        if answer.status_code >= 400 and answer.headers.get("Content-Type") != TYPE:
            answer = response(of_status(answer.status_code))
        if answer.status_code == 200:
            answer = self._tagged(request, answer, known)
        return _headers_only(answer) if head else answer

    @staticmethod
    def _tagged(request: HttpRequest, answer: HttpResponseBase, known: str) -> HttpResponseBase:
        if not known:
            known = f'W/"{hashlib.sha256(answer.content).hexdigest()[:24]}"'
        answer.headers["ETag"] = known
        answer.headers["Cache-Control"] = "public, no-cache"  # kept, and asked about: a 304 costs one small query
        since = answer.headers.get("Last-Modified")
        modified = (
            None
            if since is None
            else int(datetime.strptime(since, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp())
        )
        return get_conditional_response(request, etag=known, last_modified=modified, response=answer)


def _has_nul(request: HttpRequest) -> bool:
    """Whether an address holds the character NUL: no text here does, and PostgreSQL fails on a query with one."""
    words = [part for name, values in request.GET.lists() for part in (name, *values)]
    return "\0" in request.path_info or any("\0" in word for word in words)


def _without_nul(request: HttpRequest) -> None:
    """Take NUL out of a form, as it is taken out of all text from outside; nothing else that was written is lost."""
    if request.method != "POST" or request.content_type not in _FORMS:
        return
    assert isinstance(request.body, bytes)  # read first, so that a view can read it too
    if any("\0" in part for name, values in request.POST.lists() for part in (name, *values)):
        plain = request.POST.copy()
        for name, values in request.POST.lists():
            if name != "email":  # without its NUL it would be another address; whoever reads it refuses it
                plain.setlist(name, [value.replace("\0", "") for value in values])
        request.POST = plain


def _refused(status: int, title: str, why: str) -> HttpResponse:
    """A page that asks nothing of the store."""
    body = render_to_string("pages/refused.html", {"status": status, "title": title, "why": why})
    return HttpResponse(body, status=status, headers={"Cache-Control": "no-store"})


def last_modified(seconds: float) -> str:
    """A time as the header of that name has it."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def _headers_only(answer: HttpResponseBase) -> HttpResponseBase:
    """The answer to HEAD."""
    if answer.streaming:
        return HttpResponse(status=answer.status_code, headers=dict(answer.headers.items()))
    length = len(answer.content)
    answer.content = b""
    answer.headers["Content-Length"] = str(length)
    return answer
