"""The API's documentation page, rendered here from the OpenAPI document, without a script or a foreign server."""

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from paperlab.site.api.app import api
from paperlab.site.api.problems import of_status, response


@cache
def _operations() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    made = api.get_openapi_schema(path_prefix="/api/")
    operations = []
    for path, methods in made["paths"].items():
        for operation in methods.values():
            given = [{**p, "hint": _hint(p["schema"])} for p in operation.get("parameters", [])]
            operations.append({"path": path, **operation, "parameters": given})
    return made["info"], operations


def _hint(schema: dict[str, Any]) -> str:
    """What a parameter may be, in a few words."""
    for one in (schema, schema.get("items", {}), *schema.get("anyOf", [])):
        if "enum" in one:
            return ", ".join(str(value) for value in one["enum"] if value != "")
        if "minimum" in one:
            return f"{one['minimum']} to {one.get('maximum', '…')}"
        if one.get("format") == "date":
            return "YYYY-MM-DD"
    return ""


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """What the API has."""
    info, operations = _operations()
    return render(request, "api/docs.html", {"info": info, "operations": operations})


def missing(request: HttpRequest, rest: str | None = None) -> HttpResponse:
    """The answer to an address under /api that there is none of."""
    return response(of_status(404))
