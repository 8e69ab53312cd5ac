"""Contents of a digest: the papers of a day or a week, ranked as the pages rank them, and the claims that were checked.

Asked once for each interest, however many people share it, and rendered once for each paper.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from urllib.parse import parse_qs

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from paperlab.site import records, tex
from paperlab.site.api import shapes
from paperlab.site.pages import cards, feed
from paperlab.site.search import query, rank
from paperlab.site.store.models import Paper

MOST = 12  # papers of one interest
WHOLE = 2_000  # papers of a span that are looked at
HITS = 200  # hits of a followed search that are looked at

Interest = tuple[str, str]


@dataclass(frozen=True)
class Item:
    """One paper or one checked claim, as its letter shows it. key: so that it is shown once."""

    key: str
    text: str
    html: SafeString


@dataclass(frozen=True)
class Section:
    """What is new for one interest."""

    title: str
    items: tuple[Item, ...]


class Issue:
    """The digest of one day (or of the week that ends with it), for everybody."""

    def __init__(self, day: date, every: str, site: str) -> None:
        first = day if every == "day" else day - timedelta(6)
        self.day, self.site = day, site
        self.span = feed.Span("day" if every == "day" else "week", first, day)
        self._sections: dict[Interest, Section] = {}
        self._items: dict[int, Item] = {}

    @cached_property
    def papers(self) -> dict[int, Paper]:
        """The papers of the span, in the order in which the pages list them."""
        places, _ = feed.places(self.span, 0, WHOLE)
        rows = shapes.by_key(key for key, _, _ in places)
        return {key: rows[key] for key, _, _ in places if key in rows}

    def sections(self, interests: Iterable[Interest]) -> list[Section]:
        """What is new for somebody, nothing twice; empty if nothing is. Without interests: the first of all."""
        seen: set[str] = set()
        sections = []
        for interest in list(interests) or [("all", "")]:
            if interest not in self._sections:
                self._sections[interest] = self._section(*interest)
            section = self._sections[interest]
            items = tuple(item for item in section.items if item.key not in seen)
            seen |= {item.key for item in items}
            if items:
                sections.append(Section(section.title, items))
        return sections

    def _section(self, kind: str, value: str) -> Section:
        if kind == "claim":
            return Section(f"A claim that you follow was checked: {value.partition(':')[2]}", tuple(self._claim(value)))
        title = {"family": value, "author": value, "search": f"Search: {self._words(value)}"}.get(kind, "New papers")
        return Section(title, tuple(self._item(key) for key in self._keys(kind, value)[:MOST]))

    @staticmethod
    def _words(value: str) -> str:
        return " ".join(parse_qs(value).get("q", [])) or value

    def _keys(self, kind: str, value: str) -> list[int]:
        if kind == "family":
            return [key for key, row in self.papers.items() if row.family == value]
        if kind == "author":
            name = value.casefold()
            return [
                key for key, row in self.papers.items() if name in (one.casefold() for one in tex.names(row.authors))
            ]
        if kind == "search":
            try:
                asked = query.read({**parse_qs(value), "limit": [str(query.LIMIT)]})
            except query.BadQuery:  # kept by an older version
                return []
            return [hit.paper for hit in rank.search(asked).hits if hit.paper in self.papers]
        return list(self.papers)

    def _item(self, key: int) -> Item:
        if key not in self._items:
            context = {"card": cards.card(self.papers[key], records.record_index()), "site": self.site}
            text = render_to_string("digest/paper.txt", context).strip()
            html = SafeString(render_to_string("digest/paper.html", context).strip())
            self._items[key] = Item(f"paper {key}", text, html)
        return self._items[key]

    def _claim(self, value: str) -> Iterable[Item]:
        slug, _, claim = value.partition(":")
        for row in records.record_index().verdicts.values():
            when = str(row.get("finished") or row["started"])[:10]
            if (row["method"], row["claim"]) == (slug, claim) and str(self.span.first) <= when <= str(self.span.last):
                context = {"row": row, "site": self.site, "paper": row["paper"] or slug}
                text = render_to_string("digest/claim.txt", context).strip()
                html = SafeString(render_to_string("digest/claim.html", context).strip())
                yield Item(f"record {row['id']}", text, html)
