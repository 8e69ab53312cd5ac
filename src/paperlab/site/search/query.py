"""Queries and results of the search: parsing words and filters, hits with the reasons for their rank."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal, get_args

from paperlab.core.paper import FAMILIES
from paperlab.core.standings import MIXED, NOT_RUN
from paperlab.core.verdict import WORDS
from paperlab.site import tex
from paperlab.site.store import clean

Sort = Literal["relevance", "date", "trending"]
SORTS: tuple[Sort, ...] = get_args(Sort)
TEXT_LIMIT = 2_000  # characters that are looked at; an abstract pasted whole fits
DEPTH = 1_000  # places that are ranked; a reader who goes deeper should filter
LIMIT = 100  # hits in one answer

Snippet = tuple[tuple[str, bool], ...]  # pieces of plain text, and whether each matched


class BadQuery(ValueError):
    """A filter that cannot be meant; `problems` says for each name what is expected."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{name}: {message}" for name, message in problems.items()))


@dataclass(frozen=True)
class Query:
    """What is looked for. Filters of one name are alternatives, different names must all hold.

    text: words, "phrases in quotes", an arXiv id, a title; "" lists what the filters leave.
    category: arXiv's, "cs.CL"; an archive ("cs") stands for all of it. author: part of a name. years: both included.
    """

    text: str = ""
    family: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    author: tuple[str, ...] = ()
    years: tuple[int | None, int | None] = (None, None)
    code: bool = False
    runnable: bool = False
    verdict: tuple[str, ...] = ()
    sort: Sort = "relevance"
    limit: int = 20
    offset: int = 0

    @property
    def filtered(self) -> bool:
        """Whether anything but the text narrows the answer."""
        return any(getattr(self, name) for name in ("family", "category", "author", "code", "runnable", "verdict")) or (
            self.years != (None, None)
        )

    def params(self) -> list[tuple[str, str]]:
        """The query as an address holds it; `read` gives it back."""
        first, last = self.years
        year = "" if (first, last) == (None, None) else f"{first}" if first == last else f"{first or ''}-{last or ''}"
        pairs = [("q", self.text)]
        pairs += [(name, value) for name in ("family", "category", "author") for value in getattr(self, name)]
        pairs += [("year", year), ("code", "1" * self.code), ("runnable", "1" * self.runnable)]
        pairs += [("verdict", value) for value in self.verdict]
        pairs += [("sort", self.sort if self.sort != "relevance" else "")]
        pairs += [("limit", str(self.limit) if self.limit != 20 else ""), ("offset", str(self.offset or ""))]
        return [(name, value) for name, value in pairs if value]

    def __str__(self) -> str:
        """As people say it: its words, then its filters."""
        filters = [(name, value) for name, value in self.params() if name not in ("q", "limit", "offset")]
        said = [name if name in ("code", "runnable") else f"{name}: {value}" for name, value in filters]
        return ", ".join([*([self.text] if self.text else []), *said])


@dataclass(frozen=True)
class Within:
    """The papers that a query is answered from: those that hold its filters. keys: only these; None: any.

    without: none of these.
    """

    query: Query = Query()
    keys: frozenset[int] | None = None
    without: frozenset[int] = frozenset()


EVERYTHING = Within()


@dataclass(frozen=True)
class Why:
    """Why a paper stands where it stands. Ranks count from 1; None: not found on that side.

    exact: "arXiv id", "slug" or "title" where the text is one. words: BM25. meaning: cosine to the query, -1 to 1.
    """

    exact: str = ""
    words: float | None = None
    words_rank: int | None = None
    meaning: float | None = None
    meaning_rank: int | None = None

    def __str__(self) -> str:
        parts = [f"the text is its {self.exact}"] if self.exact else []
        parts += [f"words {self.words:.2f} (rank {self.words_rank})"] if self.words is not None else []
        parts += [f"meaning {self.meaning:.3f} (rank {self.meaning_rank})"] if self.meaning is not None else []
        return ", ".join(parts) or "listed"


@dataclass(frozen=True)
class Hit:
    """One paper found. paper: its key in the store; title, snippet: its text with what matched marked."""

    paper: int
    score: float
    why: Why
    title: Snippet = ()
    snippet: Snippet = ()


@dataclass(frozen=True)
class Results:
    """An answer. total: papers that hold the filters and at least one word of the text; sorted by date or trending, all
    of its words. Where the words are common it is an estimate.

    facets: {name: {value: papers}} over those. suggestion: the text with misspelt words mended, which was
    looked for in its place, or "".
    notes: what the reader should know (meaning not searched, text cut).
    """

    hits: tuple[Hit, ...] = ()
    total: int = 0
    facets: dict[str, dict[str, int]] = field(default_factory=dict)
    suggestion: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def html(snippet: Snippet) -> str:
    """A snippet as HTML: escaped, what matched in <mark>."""
    return "".join(f"<mark>{escape(text)}</mark>" if marked else escape(text) for text, marked in snippet)


def plain(snippet: Snippet) -> str:
    """A snippet without its marks."""
    return "".join(text for text, _ in snippet)


_INLINE = re.compile(r'(?<!\S)(family|category|author|year|verdict|has|is|sort):("[^"]*"|\S+)', re.IGNORECASE)
_CATEGORY = re.compile(r"[a-z-]+(\.[A-Za-z-]+)?")
_YEARS = re.compile(r"(\d{4})?\s*(-|–|\.\.)?\s*(\d{4})?")


def read(params: Mapping[str, Sequence[str]]) -> Query:
    """A query from an address's parameters (see `Query.params`), each a list. Raises BadQuery naming every bad one.

    The text may hold filters too: author:"tim dettmers" year:2023-2024 category:cs.CL family:quantization
    verdict:holds has:code is:runnable sort:date. Parameters of other names are ignored.
    """
    problems: dict[str, str] = {}
    asked = {name: [value.strip() for value in values if value.strip()] for name, values in params.items()}
    for name in {"q", "author"} & set(asked):  # words; other values are refused as they stand
        asked[name] = [line for value in asked[name] if (line := clean.line(value[: 4 * TEXT_LIMIT]))]
    for name in {"q", "author"} & set(asked):  # pasted from a .bib file
        asked[name] = [tex.plain(value) if "\\" in value else value for value in asked[name]]
    text = " ".join(asked.get("q", []))

    def inline(match: re.Match[str]) -> str:
        name, value = match[1].lower(), match[2].strip('"').strip()
        if name in ("has", "is"):
            name, value = value.lower(), "1"
            if name not in ("code", "runnable"):
                return match[0]  # words of a sentence that happen to look like a filter
        if value:
            asked.setdefault(name, []).append(value)
        return " "

    text = " ".join(_INLINE.sub(inline, text[: 4 * TEXT_LIMIT]).split())

    def number(name: str, default: int, least: int, most: int) -> int:
        values = asked.get(name, [])
        if not values:
            return default
        if not (values[-1].isdecimal() and len(values[-1]) < 9 and least <= int(values[-1]) <= most):
            problems[name] = f"expected a number from {least} to {most}, not {values[-1][:40]!r}"
            return default
        return int(values[-1])

    def words(name: str, allowed: Sequence[str]) -> tuple[str, ...]:
        chosen = []
        for value in asked.get(name, []):
            same = value.lower().replace("_", "-").replace(" ", "-")
            known = next((word for word in allowed if word.replace(" ", "-") == same), None)
            if known is None:
                problems[name] = f"no {name} {value[:40]!r}; one of: {', '.join(allowed)}"
            else:
                chosen.append(known)
        return tuple(dict.fromkeys(chosen))

    def yes(name: str) -> bool:
        value = (asked.get(name) or [""])[-1].lower()
        if value not in ("", "0", "false", "no", "1", "true", "yes", "on"):
            problems[name] = f"expected 1 or 0, not {value[:40]!r}"
        return value in ("1", "true", "yes", "on")

    category = asked.get("category", [])
    for value in category:
        if not _CATEGORY.fullmatch(value):
            problems["category"] = f"expected arXiv's, such as cs.CL or cs, not {value[:40]!r}"
    query = Query(
        text=text,
        family=words("family", FAMILIES),
        category=tuple(dict.fromkeys(category)),
        author=tuple(dict.fromkeys(value[:200].strip() for value in asked.get("author", []))),
        years=_years(asked.get("year", []), problems),
        code=yes("code"),
        runnable=yes("runnable"),
        verdict=words("verdict", (*WORDS, MIXED, NOT_RUN)),
        sort=words("sort", SORTS)[-1] if asked.get("sort") and words("sort", SORTS) else "relevance",  # type: ignore[arg-type]
        limit=number("limit", 20, 1, LIMIT),
        offset=number("offset", 0, 0, DEPTH),
    )
    if problems:
        raise BadQuery(problems)
    return query


def _years(values: Sequence[str], problems: dict[str, str]) -> tuple[int | None, int | None]:
    if not values:
        return None, None
    match = _YEARS.fullmatch(values[-1].strip())
    if not match or not (match[1] or match[3]) or (match[3] and not match[2]):
        problems["year"] = f"expected 2024, 2020-2024, 2020- or -2020, not {values[-1][:40]!r}"
        return None, None
    first = int(match[1]) if match[1] else None
    last = int(match[3]) if match[3] else None if match[2] else first
    if first is not None and last is not None and first > last:
        first, last = last, first
    return first, last
