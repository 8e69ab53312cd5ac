"""Cards: a paper as lists show it, made without a query of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

from django.conf import settings
from django.utils.safestring import SafeString

from paperlab.core import words
from paperlab.core.methods import abstract_only
from paperlab.site import tex
from paperlab.site.pages import addresses, text
from paperlab.site.records import RecordIndex, record_index, runnable
from paperlab.site.store import teasers
from paperlab.site.store.models import Paper
from paperlab.site.store.prepared import Prepared

# Every word that a badge may show; the site's own and those of verdicts.
SIGNS = words.SIGNS | {
    "not yet run": ("unrun", "○", "a check is written, but it was not run here yet"),
    "abstract only": (
        "unrun",
        "○",
        "the method was written from the abstract alone, so its results are shown on the paper's page only",
    ),
}
NAMES = 3  # authors that a card names
KEYWORDS = 4  # that a card shows
LINKS = {"project": "project", "model": "model", "dataset": "data"}  # kinds of links that a card shows, as it says them


@dataclass(frozen=True)
class Badge:
    """A verdict's word, with how many rows have it (0: the number says nothing) or the models where it was found."""

    word: str
    count: int = 0
    where: str = ""

    @property
    def label(self) -> str:
        """The word as a reader meets it: a claim fails here, not at large."""
        return "fails here" if self.word == "fails" else self.word

    @property
    def line(self) -> str:
        """Word and models, for where there is no markup."""
        return f"{self.label}: {self.where}" if self.where else self.label

    @property
    def kind(self) -> str:
        """Its class."""
        return SIGNS[self.word][0]

    @property
    def sign(self) -> str:
        """Its sign."""
        return SIGNS[self.word][1]

    @property
    def means(self) -> str:
        """What the word means."""
        return SIGNS[self.word][2]


@dataclass(frozen=True)
class Link:
    """An address outside, what a card calls it, and what more there is to say of it."""

    url: str
    label: str
    means: str = ""


@dataclass(frozen=True)
class Card:
    """What a list shows of a paper."""

    key: int
    url: str
    title: SafeString
    bare: str
    who: str
    more: int
    day: date | None
    year: int | None
    summary: SafeString
    said: str
    family: str
    badges: tuple[Badge, ...]
    votes: int | None
    comments: int | None
    links: tuple[Link, ...]
    organisation: str
    keywords: tuple[str, ...]
    withdrawn: bool
    picture: str = ""
    snippet: SafeString | None = None
    why: object = None
    score: float = 0.0

    @property
    def brief(self) -> str:
        """The summary where there is no markup, as in mail: programs that read it know no MathML."""
        return text.plain(self.said)


def badges(slug: str | None, known: RecordIndex) -> tuple[Badge, ...]:
    """How a paper's main claim fares: a badge for each word, with the models that it has it on."""
    if found := known.where.get(slug or ""):
        return tuple(Badge(word, where=", ".join(places)) for word, places in found.items())
    if slug is not None and slug in runnable():
        return (Badge("abstract only" if abstract_only(slug) else "not yet run"),)
    return ()


class Listed(NamedTuple):
    """A paper's columns that a card shows, and the file of its picture; see `store.models.Paper`."""

    pk: int
    slug: str | None
    arxiv: str | None
    title: str
    abstract: str
    authors: list[Any]
    author_count: int | None
    published: date | None
    year: int | None
    withdrawn: bool
    code: str
    links: list[Any]
    upvotes: int | None
    comments: int | None
    stars: int | None
    upstream_summary: str
    keywords: list[Any]
    extra: dict[str, Any]
    family: str
    summary: str
    picture: str | None


_LISTED = Prepared(
    lambda keys: Paper.objects.filter(pk__in=keys).order_by().values_list(*Listed._fields[:-1], "teaser__file")
)


def card(
    row: Paper | Listed, known: RecordIndex, votes: int | None = None, comments: int | None = None, picture: str = ""
) -> Card:
    """A paper as a card. picture: the file of its teaser."""
    summary = row.summary or row.upstream_summary or row.abstract
    names = tex.names(row.authors[:NAMES])
    count = max(row.author_count or 0, len(row.authors))
    return Card(
        key=row.pk,
        url=addresses.paper(row),
        title=text.rich(row.title, drawn=False),
        bare=text.plain(row.title),
        who=", ".join(names),
        more=max(0, count - len(names)),
        day=row.published,
        year=row.year,
        summary=text.rich(text.beginning(summary), drawn=False),
        said=text.beginning(summary),
        family=row.family,
        badges=badges(row.slug, known),
        votes=row.upvotes if votes is None else votes,
        comments=row.comments if comments is None else comments,
        links=tuple(links(row)),
        organisation=organisation(row),
        keywords=tuple(str(word) for word in row.keywords[:KEYWORDS]),
        withdrawn=row.withdrawn,
        picture=picture,
    )


def organisation(row: Paper | Listed) -> str:
    """Who a paper comes from, as a daily list said; "" where none did."""
    said = (source.get("organization") for source in row.extra.values() if isinstance(source, dict))
    return next((name[:80] for name in said if isinstance(name, str) and name), "")


def links(row: Paper | Listed) -> Iterator[Link]:
    """Where a paper, its code, models and data are: one of each kind, with how many more there are."""
    if row.arxiv:
        yield Link(f"https://arxiv.org/abs/{row.arxiv}", "arXiv", row.arxiv)
        yield Link(f"https://arxiv.org/pdf/{row.arxiv}", "PDF")
    if code := addresses.web(row.code):
        stars = "" if row.stars is None else f" ★ {row.stars:,}"
        yield Link(code, f"code{stars}", "" if row.stars is None else f"{row.stars:,} stars")
    of_kind: dict[str, list[str]] = {}
    for one in row.links:
        if isinstance(one, dict) and one.get("kind") in LINKS and (url := addresses.web(str(one.get("url") or ""))):
            of_kind.setdefault(one["kind"], []).append(url)
    for kind, label in LINKS.items():
        if urls := of_kind.get(kind):
            more = f" +{len(urls) - 1}" if len(urls) > 1 else ""
            yield Link(urls[0], label + more, f"{len(urls)} in all, on the paper's page" if more else "")


Place = tuple[int, int | None, int | None]  # a paper's key, votes, comments


def cards(places: Sequence[Place]) -> list[Card]:
    """Cards in this order, in one query; papers that left the store meanwhile are left out."""
    known, drawn = record_index(), settings.PAPERLAB_PICTURES
    keys = list(dict.fromkeys(key for key, _, _ in places))
    rows = {row[0]: Listed(*row) for row in _LISTED.rows(keys)}
    return [
        card(rows[key], known, votes, comments, (drawn and rows[key].picture) or "")
        for key, votes, comments in places
        if key in rows
    ]


def of_rows(rows: Iterable[Paper]) -> list[Card]:
    """Cards of rows that are loaded already."""
    listed, known = list(rows), record_index()
    drawn = teasers.shown(row.pk for row in listed)
    return [card(row, known, picture=drawn.get(row.pk, "")) for row in listed]


def with_hits(listed: list[Card], hits: Iterable[object]) -> list[Card]:
    """Cards with what the search says of each."""
    from django.utils.safestring import mark_safe

    from paperlab.site.search.query import Hit, html

    by_key = {hit.paper: hit for hit in hits if isinstance(hit, Hit)}
    return [
        replace(one, snippet=mark_safe(html(hit.snippet)), why=hit.why, score=hit.score)
        if (hit := by_key.get(one.key))
        else one
        for one in listed
    ]
