"""The tools: each answers one question from the store, in few words, and says in its error what to ask instead."""

import difflib
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from django.db import DatabaseError, close_old_connections
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from paperlab.core import methods as core_methods
from paperlab.core.paper import FAMILIES
from paperlab.core.paper import papers as catalogue
from paperlab.core.signature import show
from paperlab.core.standings import MIXED, NOT_RUN
from paperlab.core.verdict import WORDS
from paperlab.core.words import check_sentence, what_was_read
from paperlab.site import records
from paperlab.site.agents import shapes
from paperlab.site.api import daily, params
from paperlab.site.api import shapes as api_shapes
from paperlab.site.pages import addresses, figures, text
from paperlab.site.search import query, rank
from paperlab.site.store.models import Paper, Sighting

MOST = 50  # papers or verdicts in one answer: what an agent reads costs it room
SUMMARY = 300  # characters of a paper in a list

Given = ParamSpec("Given")
Result = TypeVar("Result")
Tool = Callable[..., Any]
tools: list[Tool] = []


def tool(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A tool: its name and text are what an agent sees of it."""

    @wraps(function)
    def run(*words: Given.args, **named: Given.kwargs) -> Result:
        close_old_connections()  # each call may have another thread, and a connection is of one
        try:
            return function(*words, **named)
        except DatabaseError as error:
            raise ToolError("the database is busy; ask again in a few seconds") from error
        finally:
            close_old_connections()

    tools.append(run)
    return run


Family = Literal[FAMILIES]  # type: ignore[valid-type]
Word = Literal[(*WORDS, MIXED)]  # type: ignore[valid-type]
Searched = Literal[(*WORDS, MIXED, NOT_RUN)]  # type: ignore[valid-type]
Limit = Annotated[int, Field(ge=1, le=MOST, description="The most in one answer.")]
Offset = Annotated[int, Field(ge=0, le=query.DEPTH, description="How many to skip: `next_offset` of the page before.")]
PaperName = Annotated[
    str,
    Field(
        max_length=200,
        description="arXiv id (2403.02775, with or without version), arXiv address, or slug.",
        examples=["2403.02775"],
    ),
]


@tool
def search_papers(
    words: Annotated[
        str,
        Field(
            max_length=2_000,
            description='What to search for: words, a "phrase in quotes", a title or an arXiv id; '
            "if empty, all papers that match the filters.",
            examples=["weight-only quantization"],
        ),
    ] = "",
    family: Annotated[list[Family] | None, Field(description="Only these families of methods.")] = None,
    category: Annotated[
        list[str] | None, Field(max_length=20, description="Only these arXiv categories: cs.CL, or cs for all of it.")
    ] = None,
    author: Annotated[
        list[Annotated[str, Field(max_length=200)]] | None,
        Field(max_length=20, description="Part of an author's name."),
    ] = None,
    year: Annotated[
        str, Field(max_length=20, description="2024, 2020-2024, 2020- or -2020.", examples=["2022-2024"])
    ] = "",
    code: Annotated[bool, Field(description="Only papers with a link to code.")] = False,
    runnable: Annotated[bool, Field(description="Only papers with a check that can be run here.")] = False,
    verdict: Annotated[
        list[Searched] | None, Field(description="Only papers whose main claim has this verdict here.")
    ] = None,
    sort: Literal["relevance", "date", "trending"] = "relevance",
    limit: Limit = 10,
    offset: Offset = 0,
) -> shapes.Search:
    """Search all stored papers by words and by meaning, with filters. Start here when no id is known.

    Filters of one kind are alternatives; different kinds must all hold. Follow with get_paper for one of them.
    """
    asked: dict[str, list[str]] = {
        "q": [words], "family": list(family or ()), "category": category or [], "author": author or [],
        "year": [year], "code": ["1"] * code, "runnable": ["1"] * runnable, "verdict": list(verdict or ()),
        "sort": [sort], "limit": [str(limit)], "offset": [str(offset)],
    }  # fmt: skip
    try:
        read = query.read(asked)
    except query.BadQuery as error:
        raise ToolError(str(error)) from error
    found = rank.search(read)
    behind = offset + limit
    return shapes.Search(
        papers=_briefs([hit.paper for hit in found.hits]),
        total=found.total,
        next_offset=behind if behind < min(found.total, query.DEPTH + 1) else None,
        suggestion=found.suggestion,
        notes=list(found.notes),
    )


@tool
def daily_papers(
    day: Annotated[
        str, Field(max_length=10, description="YYYY-MM-DD; empty: today (UTC).", examples=["2024-05-27"])
    ] = "",
    sort: Annotated[
        Literal["upvotes", "published", "trending"],
        Field(description="trending: by recent votes and comments on that day."),
    ] = "upvotes",
    limit: Limit = 20,
) -> shapes.Daily:
    """The papers in the daily list of one day, most votes first.

    A day without a list gives no papers and says in `latest` which day to ask for.
    """
    try:
        on = date.fromisoformat(day) if day else datetime.now(UTC).date()
    except ValueError:
        raise ToolError(f"day: expected YYYY-MM-DD, such as 2024-05-27, not {day!r}") from None
    order = "publishedAt" if sort == "published" else sort
    rows, total = daily.papers(params.DailyParams(date=on, week=None, month=None, sort=order, limit=limit, p=0))
    latest = None
    if not total:
        last = Sighting.objects.order_by("-day").values_list("day", flat=True).first()
        latest = str(last) if last else None
    keys = [row["paper"]["paperlab"]["key"] for row in rows]
    return shapes.Daily(date=str(on), papers=_briefs(keys), total=total, latest=latest)


@tool
def get_paper(paper: PaperName) -> shapes.Paper:
    """One paper: abstract, authors, code, what it claims, and the verdict on its main claim here."""
    row = _paper(paper)
    ours, known = catalogue().get(row.slug or ""), records.record_index()
    own = [m for m in core_methods.methods().values() if row.slug and m.card.paper == row.slug]
    return shapes.Paper(
        id=api_shapes.public_id(row),
        arxiv=row.arxiv,
        slug=row.slug,
        title=text.plain(row.title),
        authors=[str(name) for name in row.authors[:50]],
        author_count=max(row.author_count or 0, len(row.authors)),
        published=str(row.published) if row.published else None,
        family=row.family or None,
        categories=[str(one) for one in row.categories],
        summary=row.summary or row.upstream_summary or None,
        abstract=row.abstract,
        code=addresses.web(row.code) or None,
        url=addresses.paper(row),
        withdrawn=row.withdrawn,
        upvotes=row.upvotes,
        claims=[
            shapes.Statement(
                claim=one.claim,
                value=_text(one.value),
                metric=_text(one.metric),
                baseline=_text(one.baseline),
                setting=_text(one.setting),
            )
            for one in (ours.claims if ours else ())
        ],
        main=[_verdict(one) for one in known.mains.get(row.slug or "", [])],
        checks=sum(check.role == "claim" for method in own for check in method.card.checks),
        methods=[method.slug for method in own],
        why_not=ours.why_not if ours else None,
    )


@tool
def related_papers(paper: PaperName, limit: Limit = 10) -> shapes.Related:
    """Papers that are similar in meaning to a paper, most similar first."""
    return shapes.Related(papers=_briefs([hit.paper for hit in rank.related(_paper(paper).pk, limit)]))


@tool
def list_verdicts(
    paper: Annotated[str, Field(max_length=200, description="Only on this paper: arXiv id or slug.")] = "",
    method: Annotated[str, Field(max_length=120, description="Only of this method.")] = "",
    family: Annotated[Family | None, Field(description="Only of methods of this family.")] = None,
    word: Annotated[Word | None, Field(description="Only this verdict.")] = None,
    history: Annotated[
        bool, Field(description="Also verdicts that no longer count, our own questions and controls.")
    ] = False,
    limit: Limit = 20,
    offset: Annotated[int, Field(ge=0, le=100_000, description="`next_offset` of the page before.")] = 0,
) -> shapes.Verdicts:
    """Verdicts of the checks that were run here, the latest first.

    Each verdict is about one small model, one set of data and one scale; quote those with it, and the interval.
    """
    slug = _paper(paper).slug if paper else None
    known_method = _method(method).slug if method else None
    of_family = {m.slug for m in core_methods.methods().values() if m.card.family == family} if family else None
    rows = [
        row
        for row in reversed(records.record_index().verdicts.values())
        if (history or (row["state"] == "current" and row["role"] == "claim"))
        and (not paper or (slug is not None and row["paper"] == slug))
        and known_method in (None, row["method"])
        and (of_family is None or row["method"] in of_family)
        and word in (None, row["word"])
    ]
    behind = offset + limit
    return shapes.Verdicts(
        verdicts=[_verdict(row) for row in rows[offset:behind]],
        total=len(rows),
        next_offset=behind if behind < len(rows) else None,
    )


@tool
def get_record(
    record: Annotated[str, Field(max_length=60, description="A verdict's `record`.", examples=["04378fb4fd7c"])],
) -> shapes.Record:
    """One execution of a check: each configuration with its figures, the machine, the command that repeats it."""
    body, details = records.read(record), figures.record(record)
    if body is None or details is None:
        raise ToolError(f"no record {record!r}; list_verdicts gives their ids in `record`")
    return shapes.Record(
        id=body["id"],
        verdict=_verdict(body["verdict"]) if body["verdict"] else None,
        metric=body["metric"],
        better=details.record.metrics[body["metric"]].better,
        arms=[
            shapes.ArmShape(
                name=str(arm.arm),
                role=arm.role,
                value=_finite(arm.value(body["metric"]).value),
                low=_finite(arm.value(body["metric"]).low),
                high=_finite(arm.value(body["metric"]).high),
                bits_per_weight=_finite(arm.bits),
                megabytes=_finite(arm.bytes / 1e6),
                build_seconds=_finite(arm.build),
                error=arm.error or None,
            )
            for arm in details.arms
        ],
        seeds=body["seeds"],
        setting=body["setting"],
        machine=body["machine"],
        started=body["started"],
        finished=body["finished"],
        status=body["status"],
        command=body["command"],
        packages=body["packages"],
        commit=body["commit"],
    )


@tool
def list_methods(
    family: Annotated[Family | None, Field(description="Only this family.")] = None,
    words: Annotated[
        str, Field(max_length=200, description="Only methods whose name or description contains all these words.")
    ] = "",
    limit: Limit = 20,
    offset: Annotated[int, Field(ge=0, le=100_000, description="`next_offset` of the page before.")] = 0,
) -> shapes.Methods:
    """Methods that can be run here and used on your own model, by name. Baselines are methods too."""
    wanted = words.lower().split()
    rows = [
        m
        for m in core_methods.methods().values()
        if family in (None, m.card.family) and all(word in f"{m.slug} {m.says}".lower() for word in wanted)
    ]
    behind = offset + limit
    return shapes.Methods(
        methods=[
            shapes.MethodBrief(
                method=m.slug, family=m.card.family, paper=m.card.paper, says=m.says, checks=len(m.card.checks)
            )
            for m in rows[offset:behind]
        ],
        total=len(rows),
        next_offset=behind if behind < len(rows) else None,
    )


@tool
def get_method(
    method: Annotated[str, Field(max_length=120, description="Its name.", examples=["easyquant"])],
) -> shapes.Method:
    """One method: its parameters, the lines of Python that use it on your own model, and how its claims are tested."""
    found = _method(method)
    card = found.card
    return shapes.Method(
        method=found.slug,
        family=card.family,
        paper=card.paper,
        says=found.says,
        read=what_was_read(card),
        departs=list(card.departs),
        parameters=[
            shapes.ParameterShape(name=p.name, takes=p.allowed, default=show(p.default))
            for p in core_methods.parameters(found)
        ],
        snippet=core_methods.snippet(found),
        run=f"paperlab run {found.slug}",
        checks=[
            shapes.CheckShape(
                claim=check.claim,
                role=check.role,
                says=check.says,
                check=check_sentence(check, " or ".join(sorted(set(check.tasks.values())))),
                gap=check.gap,
            )
            for check in card.checks
        ],
    )


@tool
def coverage() -> shapes.Coverage:
    """How many papers, claims and verdicts there are, by family and in all. Read it before any sentence on how many
    claims hold: of most papers nothing has been run."""
    counted = records.coverage()
    return shapes.Coverage(
        total=shapes.Counts(**counted["total"]),
        families={name: shapes.Counts(**one) for name, one in counted["families"].items()},
    )


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _paper(name: str) -> Paper:
    """The paper of a name. Raises ToolError with near names."""
    row = None if "\0" in name else api_shapes.find(name)
    if row is None:
        near = difflib.get_close_matches(name.strip().replace("_", "-").lower(), catalogue(), n=3, cutoff=0.6)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "search_papers finds papers by words, and gives their ids"
        )
        raise ToolError(f"no paper {name!r} is stored; {hint}")
    return row


def _method(name: str) -> core_methods.Method:
    """The method of a name. Raises ToolError with near names."""
    known = core_methods.methods()
    slug = name.strip().replace("_", "-").lower()
    if slug not in known:
        near = difflib.get_close_matches(slug, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "list_methods has all of them"
        raise ToolError(f"no method {name!r}; {hint}")
    return known[slug]


def _briefs(keys: list[int]) -> list[shapes.Brief]:
    """Papers of a list, in this order, in one query."""
    rows, known = api_shapes.by_key(keys), records.record_index()
    return [_brief(rows[key], known) for key in keys if key in rows]


def _brief(row: Paper, known: records.RecordIndex) -> shapes.Brief:
    return shapes.Brief(
        id=api_shapes.public_id(row),
        title=text.plain(row.title),
        authors=[str(name) for name in row.authors[:3]],
        published=str(row.published) if row.published else None,
        year=row.year,
        family=row.family or None,
        verdict=known.words.get(row.slug or ""),
        runnable=(row.slug or "") in records.runnable(),
        upvotes=row.upvotes,
        summary=text.beginning(row.summary or row.upstream_summary or row.abstract, SUMMARY),
    )


def _verdict(row: dict[str, Any]) -> shapes.Verdict:
    named = {name: row[name] for name in shapes.Verdict.model_fields if name in row}
    return shapes.Verdict(record=row["id"], **named)
