"""Data that a source yields: items, rejected ones with the reason, pages of both. Plain data; no database."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

from paperlab.site.store import clean

LINKS = ("project", "model", "dataset", "media", "page")  # the code repository has its own field

# The most that is taken of each field, whatever the source: (entries of a list or an object, characters of a text or of
# one entry's). The longest among 59,000 papers: a title of 226 characters, an abstract of 3,488, 5,154 authors.
LIMITS = {
    "title": (1, 2_000),
    "abstract": (1, 20_000),
    "authors": (10_000, clean.NAME_LIMIT),
    "categories": (100, 100),
    "versions": (1_000, 40),
    "code": (1, clean.URL_LIMIT),
    "links": (100, clean.URL_LIMIT),
    "pictures": (4, clean.URL_LIMIT),
    "sightings": (5_000, 0),
    "upstream_summary": (1, 5_000),
    "keywords": (200, 200),
    "extra": (40, 2_000),
    "shown": (40, 2_000),
    "as_of": (1, 40),
    "where": (1, 1_000),
}
WHOLE = ("title", "abstract", "authors")  # one that is longer is no paper, or an attack: it is rejected, not cut


class SourceError(RuntimeError):
    """A source could not be read on; the message says why and what to do. What was read before is kept."""


class Malformed(ValueError):
    """One item cannot be taken; the message is the reason that is stored with it."""


@dataclass(frozen=True)
class Sighting:
    """A paper seen in a daily list: on which day, with how many votes and comments."""

    day: date
    upvotes: int | None = None
    comments: int | None = None


@dataclass
class Item:
    """One paper as one source describes it. "" or None or an empty list: the source does not say.

    as_of: orders two descriptions by one source, the later wins ("2026-08-17", a version "v0002"); compared as text.
    shown: what a ranked list printed with the paper (its date as written, number of comments).
    """

    title: str = ""
    arxiv: str | None = None
    abstract: str = ""
    authors: list[str] = field(default_factory=list)
    author_count: int | None = None
    categories: list[str] = field(default_factory=list)
    published: datetime | None = None
    published_day: date | None = None
    year: int | None = None  # where no day is known
    updated: datetime | None = None
    version: int | None = None
    versions: list[dict[str, Any]] = field(default_factory=list)
    code: str = ""
    links: list[dict[str, str]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)  # addresses, the best first
    upvotes: int | None = None
    comments: int | None = None
    stars: int | None = None
    sightings: list[Sighting] = field(default_factory=list)
    upstream_summary: str = ""
    keywords: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    as_of: str = ""
    deleted: bool = False
    shown: dict[str, Any] = field(default_factory=dict)
    where: str = ""

    def checked(self) -> "Item":
        """This item, its text clean. Raises Malformed with the reason if it cannot be stored."""
        for name, (entries, size) in LIMITS.items():
            value = getattr(self, name)
            if name in WHOLE:
                most, found = size, f"{name} of {len(value)} characters"
                if isinstance(value, list):
                    most, found = entries, f"{len(value)} {name}"
                if len(value) > most:
                    raise Malformed(f"{found}; at most {most} are taken")
            elif value:
                setattr(self, name, cut(value, entries, size))
        self.title = clean.line(self.title)
        self.abstract = clean.paragraphs(self.abstract)
        if not self.title and not self.deleted:
            raise Malformed("no title")
        if self.arxiv is not None:
            known = clean.arxiv_id(self.arxiv)
            if known is None:
                raise Malformed(f"not an arXiv id: {self.arxiv[:80]!r}")
            self.arxiv, seen = known
            self.version = self.version or seen
        if self.deleted and self.arxiv is None:
            raise Malformed("deleted, but it does not say which paper")
        if self.published is not None and self.published_day is None:
            self.published_day = self.published.date()
        return self


def cut(value: Any, entries: int, size: int) -> Any:
    """A JSON value, its texts and keys cut to `size` characters, its lists and objects to `entries`."""
    if isinstance(value, str):
        return value[:size]
    if isinstance(value, list):
        return [one[:size] if type(one) is str else cut(one, entries, size) for one in value[:entries]]
    if isinstance(value, dict):
        return {name[:size]: cut(one, entries, size) for name, one in list(value.items())[:entries]}
    return value


@dataclass(frozen=True)
class Rejected:
    """Something found that cannot be taken: the reason, where it stood, the beginning of what stood there."""

    reason: str
    where: str
    content: str = ""


@dataclass(frozen=True)
class Ranked:
    """The list that a page's items form, in order. key: the same list read again has the same key."""

    key: str
    name: str
    day: date | None = None
    shown: dict[str, Any] = field(default_factory=dict)


@dataclass
class Page:
    """What is stored in one transaction. resume: how to go on after this page; total: items in all, if known.

    stored: an interrupted reading has stored this page already; it only lists again which papers were in it.
    """

    items: list[Item] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ranked: Ranked | None = None
    resume: dict[str, Any] = field(default_factory=dict)
    total: int | None = None
    stored: bool = False

    def add(self, item: Item, content: str = "") -> None:
        """Add an item, or the reason why it is rejected."""
        try:
            self.items.append(item.checked())
        except Malformed as reason:
            self.rejected.append(Rejected(str(reason), item.where, content or f"{item.arxiv} {item.title[:200]}"))


class Source(Protocol):
    """Where papers come from. name: one of write.RANK; key: the same reading again has the same key.

    pages() reads on from `resume` (empty: from the beginning; else what the last stored page left), knowing what the
    last whole reading `reached`. reached, after the last page: what the next reading needs to know.
    """

    name: str
    key: str
    reached: dict[str, Any]

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """Pages, each stored in one transaction. Raises SourceError where it cannot go on."""
        ...
