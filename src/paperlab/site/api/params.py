"""Parameters of the API: the classes that read them and describe them in the OpenAPI document."""

from collections.abc import Iterable
from datetime import date
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Schema
from pydantic import BeforeValidator, Field, WithJsonSchema

from paperlab.core.paper import FAMILIES, KINDS
from paperlab.core.standings import MIXED, NOT_RUN
from paperlab.core.verdict import WORDS
from paperlab.site.api.problems import bad
from paperlab.site.search.query import DEPTH, LIMIT, SORTS
from paperlab.site.store.clean import FIRST_YEAR


def _day(value: Any) -> Any:
    if isinstance(value, str):
        try:
            if len(value) == 10:
                return date.fromisoformat(value)
        except ValueError:
            pass
        raise ValueError(f"expected a day as YYYY-MM-DD, not {value[:40]!r}")
    return value


def _yes(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("1", "0", "true", "false"):
            raise ValueError(f"expected 1, 0, true or false, not {value[:40]!r}")
        return value in ("1", "true")
    return value


# What `search.query.read` takes; an empty value, as forms send, is one that is not given.
def _word(*allowed: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": ["", *allowed]})


def _form(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern})?$"})


def _each(one: WithJsonSchema) -> WithJsonSchema:
    return WithJsonSchema({"type": "array", "items": one.json_schema})


_TEXT = WithJsonSchema({"type": "string", "pattern": r"^[^\x00]*$"})
_YES = _word("1", "0", "true", "false", "yes", "no", "on")
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Yes = Annotated[bool, BeforeValidator(_yes), WithJsonSchema({"type": "string", "enum": ["1", "0", "true", "false"]})]
Year = Annotated[int, Field(ge=FIRST_YEAR, le=9999)]
Family = Literal[FAMILIES]  # type: ignore[valid-type]
Kind = Literal[KINDS]  # type: ignore[valid-type]
Word = Literal[(*WORDS, MIXED)]  # type: ignore[valid-type]
Cursor = Annotated[str, Field(max_length=60)]


class PapersParams(Schema):
    """Of GET /api/papers."""

    family: Family | None = Field(None, description="Only this family.", examples=["quantization"])
    kind: Kind | None = Field(None, description="Only this kind.", examples=["method"])
    year: Year | None = Field(None, description="Only this year.", examples=[2023])
    code: Yes | None = Field(None, description="1: only papers with a link to code; 0: only those without.")
    since: Day | None = Field(None, description="Published on this day or later.", examples=["2024-05-01"])
    until: Day | None = Field(None, description="Published on this day or earlier.", examples=["2024-05-31"])
    order: Literal["published", "added", "changed"] = Field(
        "published",
        description="published: newest first. added: in the order they were stored. changed: as they last changed, "
        "which is the order to follow a store by: keep the cursor, and ask again with it later.",
    )
    limit: int = Field(50, ge=1, le=100, description="Papers on one page.")
    cursor: str = Field(
        "",
        pattern=r"^(p(\d{4}-\d{2}-\d{2})?\.\d{1,18}|a\d{1,18}|c\d{1,18}\.\d{1,18})?$",
        description="`next_cursor` of the previous page, in the same order.",
        examples=["p2024-05-01.123"],
    )


class SearchParams(Schema):
    """Of the two searches; `search.query.read` reads them, so this only describes."""

    q: Annotated[str, _TEXT] = Field(
        "",
        description='Words, "a phrase", a title, an arXiv id; may hold filters, e.g. has:code.',
        examples=["weight-only quantization"],
    )
    family: Annotated[list[str], _each(_word(*FAMILIES))] = Field([], description="One of these families.")
    category: Annotated[list[str], _each(_form(r"[a-z-]+(\.[A-Za-z-]+)?"))] = Field(
        [],
        description="One of these arXiv categories; an archive such as cs includes all its categories.",
        examples=[["cs.CL"]],
    )
    author: Annotated[list[str], _each(_TEXT)] = Field([], description="Part of an author's name.")
    year: Annotated[str, _form(r"\d{4}|\d{4}-\d{4}|\d{4}-|-\d{4}")] = Field(
        "", description="2024, 2020-2024, 2020- or -2020.", examples=["2022-2024"]
    )
    code: Annotated[str, _YES] = Field("", description="1: only papers with code.")
    runnable: Annotated[str, _YES] = Field("", description="1: only papers with a check that runs here.")
    verdict: Annotated[list[str], _each(_word(*WORDS, MIXED, NOT_RUN))] = Field(
        [], description="One of these verdicts."
    )
    sort: Annotated[str, _word(*SORTS)] = Field("", description="The order of the results; relevance if not given.")
    limit: Annotated[str, _form(r"[1-9]\d?|100")] = Field(
        "", description=f"Papers in one answer, at most {LIMIT}; 20 if not given."
    )
    offset: Annotated[str, _form(r"\d{1,3}|1000")] = Field(
        "", description=f"Papers to skip at the beginning, at most {DEPTH}."
    )


class RelatedParams(Schema):
    """Of GET /api/papers/{paper}/related."""

    limit: int = Field(10, ge=1, le=LIMIT, description="Papers in the answer.")


class DailyParams(Schema):
    """Of GET /api/daily_papers."""

    date: Day | None = Field(None, description="The list of this day; today's (UTC) if no day, week or month is given.",
                             examples=["2024-05-27"])  # fmt: skip
    week: str | None = Field(
        None, pattern=r"^[12]\d{3}-W(0[1-9]|[1-4]\d|5[0-3])$", description="The lists of a week.", examples=["2024-W22"]
    )
    month: str | None = Field(
        None, pattern=r"^[12]\d{3}-(0[1-9]|1[0-2])$", description="The lists of a month.", examples=["2024-05"]
    )
    sort: Literal["upvotes", "publishedAt", "trending"] = Field(
        "upvotes",
        description="Most votes first; newest first; or trending on the last of the days: also "
        "papers that are not in that day's list.",
    )
    limit: int = Field(50, ge=1, le=100, description="Papers on one page.")
    p: int = Field(0, ge=0, le=10_000, description="Page, from 0.")


class VerdictParams(Schema):
    """Of GET /api/verdicts."""

    word: Word | None = Field(None, description="Only this verdict.", examples=["fails"])
    method: str | None = Field(
        None, max_length=120, description="Only checks of this method file.", examples=["easyquant"]
    )
    all: Yes = Field(False, description="1: also what is superseded, repeated or unfinished, and the controls.")
    limit: int = Field(100, ge=1, le=1000, description="Verdicts on one page.")
    cursor: Cursor = Field("", description="`next_cursor` of the previous page.")


class RecordParams(Schema):
    """Of records."""

    samples: Yes = Field(False, description="1: with every value of every configuration, which makes a record large.")


class ExportParams(Schema):
    """Of the export of papers."""

    cursor: str = Field(
        "",
        pattern=r"^(c\d{1,18}\.\d{1,18})?$",
        description="`cursor` of the last line that was kept: only what follows is sent.",
    )


class RecordExportParams(RecordParams):
    """Of the export of records."""

    cursor: Cursor = Field("", description="`id` of the last record that was kept.")


class Nothing(Schema):
    """Of an address that takes no parameters."""


def strange(request: HttpRequest, names: Iterable[str]) -> dict[str, str]:
    """What is wrong with the parameters that an address does not have: a filter misspelt would silently not filter."""
    have = list(names)
    hint = f"there are: {', '.join(have)}" if have else "this address has none"
    return {name[:60]: f"no such parameter; {hint}" for name in request.GET if name not in have}


def known(request: HttpRequest, schema: type[Schema]) -> None:
    """Refuse parameters that an address does not have. Raises Problem."""
    if extra := strange(request, schema.model_fields):
        raise bad(extra)
