"""The door of a site that is one person's: on a machine that others use too, being there is no right to come in.

Whoever reaches it shows a token, as Jupyter asks for one: once in the address that `paperlab up` prints, which leaves a
cookie, or with each request of a program, as `Authorization: Bearer` or `?token=`. A request that somebody passed on is
refused unless PAPERLAB_PROXIES names who may: a proxy in front of a private site would let the whole net in.
"""

import hashlib
import os
import re
from collections.abc import Callable
from urllib.parse import unquote_plus

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.http import escape_leading_slashes

from paperlab.site.api import limits
from paperlab.site.api.problems import Problem, response

HEALTH = "/health"  # for what looks whether the site lives: no word about what is in it
KEPT = 90 * 86400  # seconds that a browser keeps the cookie
_FREE = "/static/"  # the files of the package itself, which the page at the door is drawn with
_PASSED_ON = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP")
_NO_PAGE = re.compile(r"\.[a-z]+$")  # feeds, exports and pictures are answered at once: their readers keep no cookie


def is_owner(request: HttpRequest) -> bool:
    """Whether the request has come through the door of a site for one person, as that person."""
    return getattr(request, "paperlab_owner", False) is True


def is_keeper(request: HttpRequest) -> bool:
    """Whether a request is of somebody who runs the site: the one person whose it is, or its staff."""
    user = getattr(request, "user", None)
    return is_owner(request) or bool(user is not None and user.is_authenticated and user.is_active and user.is_staff)


def cookie() -> tuple[str, str]:
    """The name and the value of the cookie that stands for the token. The name differs between data folders, as
    browsers do not tell the ports of one machine apart."""
    made = salted_hmac("paperlab.door", settings.PAPERLAB_TOKEN, algorithm="sha256").hexdigest()
    return f"paperlab-{hashlib.sha256(made.encode()).hexdigest()[:8]}", made


def is_passed_on(request: HttpRequest) -> bool:
    """Whether somebody else sent this request on for its client, as far as one can tell."""
    if any(name in _PASSED_ON or name.startswith("HTTP_X_FORWARDED") for name in request.META):
        return True
    if settings.PAPERLAB_TOKEN:
        return False
    # nginx's plain `proxy_pass` gives no sign but this; with a token it does no harm.
    spoken = getattr(request, "scope", {}).get("http_version") or request.META.get("SERVER_PROTOCOL", "")
    return str(spoken).endswith("1.0")


def _without_token(request: HttpRequest) -> str:
    """Take the token out of the address, so that no link and no log repeats it; "" where there is none."""
    parts, given = [], ""
    for part in request.META.get("QUERY_STRING", "").split("&"):
        if part.startswith("token="):
            given = unquote_plus(part[6:])
        else:
            parts.append(part)
    if given:
        request.META["QUERY_STRING"] = "&".join(parts)
    return given


class Door:
    """Middleware before everything that reads a request. A site for others has no such door: its people sign in."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer to a request."""
        if request.path_info == HEALTH:
            return HttpResponse("ok\n", content_type="text/plain", headers={"Cache-Control": "no-store"})
        if not settings.PAPERLAB_LOCAL:
            return self.get_response(request)
        try:
            request.get_host()
        except DisallowedHost:
            return self.get_response(request)  # as nobody: it is refused further in, as on any site
        if is_passed_on(request) and not os.environ.get("PAPERLAB_PROXIES"):
            return _refused(request, 403)
        if not settings.PAPERLAB_TOKEN:
            request.paperlab_owner = limits.is_loopback(request.META.get("REMOTE_ADDR") or "")
            return self.get_response(request)
        return self._with_token(request)

    def _with_token(self, request: HttpRequest) -> HttpResponseBase:
        name, value = cookie()
        given = _without_token(request)
        kind, _, borne = request.headers.get("Authorization", "").partition(" ")
        borne = borne.strip() if kind.lower() == "bearer" else ""
        shown = any(constant_time_compare(one, settings.PAPERLAB_TOKEN) for one in (given, borne))
        kept = constant_time_compare(request.COOKIES.get(name, ""), value)
        if not (shown or kept):
            own = request.path_info.startswith("/api/me/") and borne.startswith("plab_")  # which the API looks into
            free = own or request.path_info.startswith(_FREE)
            return self.get_response(request) if free else _refused(request, 401)
        request.paperlab_owner = True
        if not given or _is_api(request) or _NO_PAGE.search(request.path_info) or not _is_browser(request):
            return self._kept_private(request)
        answer = HttpResponseRedirect(_address(request.get_full_path()), headers={"Cache-Control": "no-store"})
        answer.set_cookie(name, value, max_age=KEPT, httponly=True, samesite="Lax")
        return answer

    def _kept_private(self, request: HttpRequest) -> HttpResponseBase:
        """An answer that no shared cache keeps: what is public on a site for all is the owner's here."""
        answer = self.get_response(request)
        told = answer.headers.get("Cache-Control", "")
        if told.startswith("public") and not request.path_info.startswith(_FREE):
            answer.headers["Cache-Control"] = f"private{told[6:]}"
        return answer


def _address(path: str) -> str:
    """An address of this site: "//example.org/" would be one of another."""
    return escape_leading_slashes(path)


def _is_api(request: HttpRequest) -> bool:
    return request.path_info in ("/api", "/mcp") or request.path_info.startswith(("/api/", "/mcp/"))


def _is_browser(request: HttpRequest) -> bool:
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")


def _refused(request: HttpRequest, status: int) -> HttpResponse:
    """401 to who shows no token, 403 to who passes requests on."""
    headers = {"Cache-Control": "no-store"} | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    if _is_api(request):
        token = "this site is its owner's: send the token that `paperlab up` prints, as Authorization: Bearer TOKEN"
        proxy = (
            "this site answers to its own machine only, and a proxy has sent this; PAPERLAB_HOSTS opens it to others"
        )
        return response(Problem(status, token if status == 401 else proxy), headers)
    context = {"status": status, "path": _address(request.path), "sent": request.method not in ("GET", "HEAD")}
    context["asked"] = [pair for name, values in request.GET.lists() for pair in [(name, one) for one in values]]
    return HttpResponse(render_to_string("pages/door.html", context), status=status, headers=headers)
