"""Routes of the JSON API."""

import json
from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI, Path, Query
from ninja.errors import ValidationError, ValidationErrorContext
from ninja.openapi.schema import OpenAPISchema

from paperlab.core.install import version
from paperlab.core.paper import papers as catalogue
from paperlab.site import records
from paperlab.site.api import answers, cursor, daily, export, hits, params, shapes
from paperlab.site.api.guard import last_modified
from paperlab.site.api.problems import TYPE, Problem, bad, of_status, response
from paperlab.site.search.query import BadQuery
from paperlab.site.store.models import Paper

ABOUT = """Papers, the daily lists they appeared in, and the results of testing their claims here.

Read-only, without a key. `/api/daily_papers`, `/api/papers/{id}` and `/api/papers/search` have the shapes of the known
Daily Papers API, so its clients work here; what is specific to paperlab is under `paperlab`.

**Pages** have a cursor: take `next_cursor`, or the `Link` header's `rel="next"`. New papers do not shift the pages.
**Caching**: every answer has an `ETag`; send it back as `If-None-Match`, and an unchanged answer is a 304.
**Errors** are RFC 9457 problems (`application/problem+json`); `errors` names each bad parameter.
**Rates** are limited by address; `RateLimit` says how many requests are left, `Retry-After` how long to wait.
Requests from any web page are allowed (CORS)."""

_DESCRIBED = {
    "304": {"description": "Not changed since the `ETag` that you sent."},
    "400": "A parameter is not valid; `errors` names each.",
    "404": "Not found.",
    "405": "This method is not allowed here.",
    "429": "Too many requests; `Retry-After` says how many seconds to wait.",
    "500": "Internal error.",
    "503": "The database is busy.",
}


class Api(NinjaAPI):
    """Ninja's API, whose document also describes what is the same for every address."""

    def validation_error_from_error_contexts(self, error_contexts: list[ValidationErrorContext]) -> ValidationError:
        """Ninja's error, which also knows what could have been asked."""
        error = super().validation_error_from_error_contexts(error_contexts)
        of = [getattr(c.model, "__ninja_flatten_map__", {}) for c in error_contexts]  # a body alone has none
        error.names = [name for names in of for name in names]  # type: ignore[attr-defined]
        return error

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """The document, with problems, 304 and media types."""
        made = super().get_openapi_schema(**options)
        for path, methods in made["paths"].items():
            for operation in methods.values():
                _complete(path, operation)
        made["components"]["schemas"]["ProblemAnswer"] = answers.ProblemAnswer.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        made["components"]["schemas"]["ProblemAnswer"].pop("$defs", None)
        made["components"]["schemas"]["Wrong"] = answers.Wrong.model_json_schema()
        made["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        return made


def _complete(path: str, operation: dict[str, Any]) -> None:
    replies = {str(code): reply for code, reply in operation["responses"].items()}
    if path.endswith(".jsonl"):
        replies["200"] = {
            "description": "One JSON object per line, until the end of the store.",
            "content": {"application/jsonl": {"schema": {"type": "string"}}},
        }
    for code, reply in _DESCRIBED.items():
        if isinstance(reply, dict):
            replies[code] = reply
        elif code != "404" or "{" in path:
            schema = {"$ref": "#/components/schemas/ProblemAnswer"}
            replies[code] = {"description": reply, "content": {TYPE: {"schema": schema}}}
    operation["responses"] = dict(sorted(replies.items()))


api = Api(title="paperlab", version=version(), description=ABOUT, docs_url=None, urls_namespace="api")


@api.exception_handler(Problem)
def _problem(request: HttpRequest, problem: Problem) -> HttpResponse:
    return response(problem)


_FORMS = {
    "cursor": "not a cursor; take the one from the previous page",
    "week": "expected a week as YYYY-Www, such as 2024-W22",
    "month": "expected a month as YYYY-MM, such as 2024-05",
}


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    errors = params.strange(request, getattr(error, "names", request.GET))
    for part in error.errors:
        name = str(part["loc"][-1])
        mismatch = part["type"] == "string_pattern_mismatch" and _FORMS.get(name)
        errors[name] = mismatch or part["msg"].removeprefix("Value error, ")
    return response(bad({name: f"{text[:1].lower()}{text[1:]}" for name, text in errors.items()}))


@api.exception_handler(BadQuery)
def _unread(request: HttpRequest, error: BadQuery) -> HttpResponse:
    return response(bad(error.problems))


@api.exception_handler(DatabaseError)
def _busy(request: HttpRequest, error: DatabaseError) -> HttpResponse:
    import logging

    logging.getLogger(__name__).error("%s: %s", request.get_full_path(), error)
    return response(of_status(503), {"Retry-After": "1"})


# What every part of the API answers to what can go wrong.
handlers: tuple[tuple[Any, Any], ...] = (
    (Problem, _problem),
    (ValidationError, _invalid),
    (BadQuery, _unread),
    (DatabaseError, _busy),
)


def _json(body: Any, *, following: str | None = None, total: int | None = None) -> HttpResponse:
    answer = HttpResponse(
        json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace"),
        content_type="application/json",
    )
    if following is not None:
        answer.headers["Link"] = f'<{following}>; rel="next"'
    if total is not None:
        answer.headers["X-Total-Count"] = str(total)
    return answer


def _next(request: HttpRequest, **changed: str) -> str:
    """The address of the next page: this one with other parameters."""
    query = request.GET.copy()
    for name, value in changed.items():
        query[name] = value
    return f"{request.path}?{query.urlencode()}"


def find(name: str) -> Paper:
    """The paper of a name. Raises Problem."""
    row = shapes.find(name)
    if row is None:
        raise Problem(404, f"no paper {name[:120]!r}; /api/papers/search?q=… finds papers by words")
    return row


NAME = Path(..., description="arXiv id (with or without version, old or new), or slug.", examples=["2403.02775"])


@api.get("/papers", response=answers.Papers, summary="Papers, page by page", operation_id="papers", tags=["papers"])
def papers(request: HttpRequest, asked: Query[params.PapersParams]) -> HttpResponse:
    """All stored papers that match the filters, newest first unless `order` says otherwise."""
    params.known(request, params.PapersParams)
    if asked.since and asked.until and asked.since > asked.until:
        raise bad({"since": f"{asked.since} is after until={asked.until}"})
    rows = Paper.objects.defer(*shapes.UNREAD)
    if asked.family:
        rows = rows.filter(family=asked.family)
    if asked.kind:
        # Only papers of the catalogue have a kind, so few slugs stand for it; the column has no index.
        rows = rows.filter(slug__in=[paper.slug for paper in catalogue().values() if paper.kind == asked.kind])
    if asked.year:
        rows = rows.filter(year=asked.year)
    if asked.code is not None:
        rows = rows.exclude(code="") if asked.code else rows.filter(code="")
    if asked.since:
        rows = rows.filter(published__gte=asked.since)
    if asked.until:
        rows = rows.filter(published__lte=asked.until)
    one_more = cursor.page(rows, asked.order, asked.cursor, asked.limit + 1)
    page, more = one_more[: asked.limit], len(one_more) > asked.limit
    behind = cursor.of(page[-1], asked.order) if page and (more or asked.order == "changed") else None
    if behind is None and asked.order == "changed":
        behind = asked.cursor or None
    known = records.record_index()
    body = {"papers": [shapes.paper(row, known) for row in page], "next_cursor": behind}
    return _json(body, following=_next(request, cursor=behind) if more and behind else None)


@api.get(
    "/papers/search",
    response=list[answers.Listed],
    summary="Search, as a list",
    operation_id="search_papers",
    tags=["search"],
)
def search_papers(request: HttpRequest, asked: Query[params.SearchParams]) -> HttpResponse:
    """The hits of a search, best first; `X-Total-Count` says how many match. /api/search gives more details."""
    params.known(request, params.SearchParams)
    answer, following = hits.search(request, facets=False)
    return _json(answer["hits"], following=following, total=answer["total"])


@api.get(
    "/search", response=answers.SearchAnswer, summary="Search, with counts", operation_id="search", tags=["search"]
)
def search(request: HttpRequest, asked: Query[params.SearchParams]) -> HttpResponse:
    """The hits of a search with how many match, by family, year and so on, and the query with corrected spelling."""
    params.known(request, params.SearchParams)
    answer, following = hits.search(request, facets=True)
    return _json(answer, following=following, total=answer["total"])


@api.get(
    "/daily_papers", response=list[answers.Listed], summary="Daily lists", operation_id="daily_papers", tags=["papers"]
)
def daily_papers(request: HttpRequest, asked: Query[params.DailyParams]) -> HttpResponse:
    """The papers that were in the daily lists of a day, a week or a month. A day without a list gives an empty list,
    also for today: no other day is substituted."""
    params.known(request, params.DailyParams)
    rows, total = daily.papers(asked)
    more = (asked.p + 1) * asked.limit < total
    return _json(rows, following=_next(request, p=str(asked.p + 1)) if more else None, total=total)


@api.get(
    "/papers/{path:paper}/related",
    response=list[answers.Listed],
    summary="Related papers",
    operation_id="related",
    tags=["search"],
)
def related(request: HttpRequest, asked: Query[params.RelatedParams], paper: str = NAME) -> HttpResponse:
    """Papers that are similar in meaning, most similar first."""
    params.known(request, params.RelatedParams)
    return _json(hits.related(find(paper), asked.limit))


@api.get(
    "/papers/{path:paper}/records",
    response=answers.Records,
    summary="Records of a paper",
    operation_id="records_of",
    tags=["checks"],
)
def records_of(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """Every execution of the paper's checks, without the samples; those that no longer count too."""
    params.known(request, params.Nothing)
    row, known = find(paper), records.record_index()
    names = [place.id for place in known.places.values() if row.slug and place.paper == row.slug]
    body = [record for name in names if (record := records.read(name)) is not None]
    return _dated(_json({"records": body}), known)


@api.get(
    "/papers/{path:paper}/verdicts",
    response=answers.Verdicts,
    summary="Verdicts on a paper",
    operation_id="verdicts_on",
    tags=["checks"],
)
def verdicts_on(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """The verdicts of the checks of the paper's claims here. `state` says which of them count today."""
    params.known(request, params.Nothing)
    row, known = find(paper), records.record_index()
    body = known.by_paper.get(row.slug, []) if row.slug else []
    return _dated(_json({"verdicts": body, "next_cursor": None}), known)


@api.get("/papers/{path:paper}", response=answers.Paper, summary="One paper", operation_id="paper", tags=["papers"])
def one_paper(request: HttpRequest, paper: str = NAME) -> HttpResponse:
    """A paper by arXiv id (2403.02775, 2403.02775v2, math/0601001, math.AG/0601001v1) or slug, with its versions, the
    days on which it was in a list, and its claims."""
    params.known(request, params.Nothing)
    return _json(shapes.detail(find(paper), records.record_index()))


def _dated(answer: HttpResponse, known: records.RecordIndex) -> HttpResponse:
    if known.modified:
        answer.headers["Last-Modified"] = last_modified(known.modified)
    return answer


@api.get("/verdicts", response=answers.Verdicts, summary="All verdicts", operation_id="verdicts", tags=["checks"])
def verdicts(request: HttpRequest, asked: Query[params.VerdictParams]) -> HttpResponse:
    """The verdicts on all claims that count today, oldest first; with all=1 every verdict."""
    params.known(request, params.VerdictParams)
    known = records.record_index()
    rows = [
        row
        for row in known.verdicts.values()
        if (asked.all or (row["state"] == "current" and row["role"] == "claim"))
        and asked.word in (None, row["word"])
        and asked.method in (None, row["method"])
    ]
    if asked.cursor:
        last = known.verdicts.get(asked.cursor)
        if last is None:
            raise bad({"cursor": f"no verdict {asked.cursor!r}; take the one that the page before gave"})
        rows = [row for row in rows if (row["started"], row["id"]) > (last["started"], last["id"])]
    page = rows[: asked.limit]
    behind = page[-1]["id"] if len(rows) > len(page) else None
    body = {"verdicts": page, "next_cursor": behind}
    return _dated(_json(body, following=_next(request, cursor=behind) if behind else None, total=None), known)


@api.get("/records/{record}", response=answers.Record, summary="One record", operation_id="record", tags=["checks"])
def record(
    request: HttpRequest,
    asked: Query[params.RecordParams],
    record: str = Path(..., description="The record's id, as verdicts name it.", examples=["04378fb4fd7c"]),
) -> HttpResponse:
    """One execution of one check: what was run, on what, and the results. A diverged value is the word "NaN" or
    "Infinity"."""
    params.known(request, params.RecordParams)
    body = records.read(record, samples=asked.samples)
    if body is None:
        raise Problem(404, f"no record {record[:60]!r}; /api/verdicts lists their ids")
    return _dated(_json(body), records.record_index())


@api.get(
    "/coverage",
    response=answers.Coverage,
    summary="How far the catalogue is checked",
    operation_id="coverage",
    tags=["checks"],
)
def coverage(request: HttpRequest) -> HttpResponse:
    """Counts by family: papers by what can be done, claims by how far their checks came, verdicts by word."""
    params.known(request, params.Nothing)
    return _dated(_json(records.coverage()), records.record_index())


@api.get("/export/papers.jsonl", response=str, summary="All papers", operation_id="export_papers", tags=["export"])
def export_papers(request: HttpRequest, asked: Query[params.ExportParams]) -> HttpResponseBase:
    """Every paper, one a line, in the order of their last change. An interrupted export goes on behind the `cursor` of
    the last line; the same, asked later, gives what changed since."""
    params.known(request, params.ExportParams)
    return export.stream(request, export.paper_lines(asked.cursor))


@api.get("/export/records.jsonl", response=str, summary="All records", operation_id="export_records", tags=["export"])
def export_records(request: HttpRequest, asked: Query[params.RecordExportParams]) -> HttpResponseBase:
    """Every record, one a line, oldest first; with samples=1 all that `paperlab verify` needs."""
    params.known(request, params.RecordExportParams)
    return export.stream(request, export.record_lines(asked.cursor, asked.samples))


@api.get(
    "/export/verdicts.jsonl", response=str, summary="All verdicts", operation_id="export_verdicts", tags=["export"]
)
def export_verdicts(request: HttpRequest) -> HttpResponseBase:
    """Every verdict, one a line, oldest first; `state` says which count today."""
    params.known(request, params.Nothing)
    return export.stream(request, iter(records.record_index().verdicts.values()))
