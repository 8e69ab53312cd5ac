"""Error pages: what was wrong, and what to do."""

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string


def sentence(error: Exception) -> str:
    """What an error says, as a sentence."""
    said = str(error)
    return f"{said[:1].upper()}{said[1:]}."


def refused(request: HttpRequest, status: int, title: str, why: str = "") -> HttpResponse:
    """A page for an address that cannot be answered."""
    return render(request, "pages/refused.html", {"title": title, "why": why, "status": status}, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400."""
    return refused(request, 400, "Bad request", "The address or the form contains something that is not valid.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return refused(request, 403, "You do not have access to this page", "")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    why = exception.args[0] if exception.args and isinstance(exception.args[0], str) else ""
    return refused(request, 404, "Page not found", f"There is {why}." if why.startswith("no ") else "")


def broken(request: HttpRequest) -> HttpResponse:
    """500, or 503 where the database does not answer. Asks nothing of the store: not even who reads."""
    away = isinstance(sys.exc_info()[1], (OperationalError, InterfaceError))
    context = {
        "status": 503 if away else 500,
        "title": "The site is busy" if away else "Internal error",
        "why": "Its database does not respond; nothing was changed. Try again in a moment."
        if away
        else "This is a fault of the site, not of your request. Its log has the details.",
    }
    headers = {"Retry-After": "2"} if away else {}
    return HttpResponse(render_to_string("pages/refused.html", context), status=context["status"], headers=headers)
