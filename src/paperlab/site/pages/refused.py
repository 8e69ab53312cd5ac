"""Pages that say no: what was wrong, and what to do."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def refused(request: HttpRequest, status: int, title: str, why: str = "") -> HttpResponse:
    """A page for an address that cannot be answered."""
    return render(request, "pages/refused.html", {"title": title, "why": why, "status": status}, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400."""
    return refused(request, 400, "This address cannot be read", "Something in it is not as it should be.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return refused(request, 403, "This is not for you", "")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    why = exception.args[0] if exception.args and isinstance(exception.args[0], str) else ""
    return refused(request, 404, "Nothing here", f"There is {why}." if why.startswith("no ") else "")


def broken(request: HttpRequest) -> HttpResponse:
    """500: asks nothing of the store, which may be what broke."""
    return refused(request, 500, "Something broke here", "It is not your doing; the log of the site says more.")
