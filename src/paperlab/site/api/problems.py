"""Errors of the API as RFC 9457 problems: one shape, whatever went wrong, with every bad parameter named."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.http import HttpResponse

TYPE = "application/problem+json"


class Problem(Exception):
    """An error that the caller is to read. errors: what is wrong with each parameter, by its name."""

    def __init__(self, status: int, detail: str, errors: Mapping[str, str] | None = None) -> None:
        self.status, self.detail, self.errors = status, detail, dict(errors or {})
        super().__init__(detail)


def bad(errors: Mapping[str, str]) -> Problem:
    """The problem of bad parameters."""
    return Problem(400, "; ".join(f"{name}: {message}" for name, message in errors.items()), errors)


def response(problem: Problem, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """A problem as it goes out."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors:
        body["errors"] = [{"parameter": name, "detail": message} for name, message in problem.errors.items()]
    message = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return HttpResponse(
        message, status=problem.status, content_type=TYPE, headers={"Cache-Control": "no-store"} | dict(headers or {})
    )


# What Django answers by itself, in words of ours: its own pages are HTML, and a traceback never goes out.
MESSAGES = {
    400: "the request cannot be read: its address, its form or its Host header (PAPERLAB_HOSTS has those known)",
    403: "this may not be read",
    404: "there is no such address; /api/openapi.json lists all of them",
    405: "the API accepts GET and HEAD only",
    500: "the site failed on this request; its log says why, and the same request may work later",
    503: "the site is busy or its database is locked; try again in a moment",
}


def of_status(status: int) -> Problem:
    """The problem behind a bare status."""
    return Problem(status, MESSAGES.get(status, MESSAGES[400] if status < 500 else MESSAGES[500]))
