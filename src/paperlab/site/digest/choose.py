"""Contents of a digest: the papers of a day or a week, ranked as the pages rank them, and the claims that were checked.

Asked once for each interest, however many people share it, and rendered once for each paper.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from urllib.parse import parse_qs

from django.db.models import Exists, OuterRef, Q
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from paperlab.site import records, tex
from paperlab.site.api import shapes
from paperlab.site.digest import hours
from paperlab.site.pages import cards, feed
from paperlab.site.people import for_you
from paperlab.site.search import index, query, rank
from paperlab.site.store.models import Paper, Sighting

MOST = 12  # papers of one interest that are shown with what they say
LISTED = 60  # and by their titles alone; of the others the number
EVERY = 1_000_000  # papers of a span
BATCH = 2_000  # papers in one query to the store
LATE = timedelta(14)  # before a span, of which papers that come in are still news
FOR_YOU = "For you"
WAIT = 120.0  # seconds for another process that writes the index

Interest = tuple[str, str]


class Unsearched(RuntimeError):
    """Followed searches cannot be answered, so "nothing new" would be a lie; the message says why."""


@dataclass(frozen=True)
class Item:
    """One paper or one checked claim, as its letter shows it. key: so that it is shown once; because: why it was picked
    for this reader."""

    key: tuple[str, int | str]
    text: str
    html: SafeString
    because: tuple[for_you.Reason, ...] = ()


@dataclass(frozen=True)
class Section:
    """What is new for one interest. more: papers that are only counted."""

    title: str
    items: tuple[Item, ...]
    more: int = 0


class Issue:
    """The digest of one day (or of the week that ends with it), for everybody."""

    def __init__(self, day: date, every: str, site: str) -> None:
        first = day if every == "day" else day - timedelta(6)
        self.day, self.site = day, site
        self.span = feed.Span("day" if every == "day" else "week", first, day)
        self._sections: dict[Interest, Section] = {}
        self._items: dict[tuple[int, bool], Item] = {}
        self._texts: for_you.Texts = {}

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """The papers of the span, in the order in which the pages list them, and then those that came too late for the
        digests before."""
        return (*(key for key, _, _ in feed.places(self.span, 0, EVERY)[0]), *self._late())

    def _late(self) -> list[int]:
        """Papers of the days before the span that came in after the digest of those days had gone: arXiv's weekends,
        whose papers are dated when they were sent in, and lists that could not be read in time."""
        before = (self.span.first - LATE, self.span.first - timedelta(1))
        came = (hours.goes(before[1]), hours.goes(self.day))
        rows = Paper.objects.filter(added__gte=came[0], added__lt=came[1], withdrawn=False)
        rows = rows.exclude(Exists(Sighting.objects.filter(paper=OuterRef("pk"), day__gte=self.span.first)))
        listed = Exists(Sighting.objects.filter(paper=OuterRef("pk"), day__range=before))
        rows = rows.filter(Q(published__range=before) | (Q(published__lt=before[0]) | Q(published=None)) & listed)
        return list(rows.order_by("-published", "-pk").values_list("pk", flat=True))

    @cached_property
    def _known(self) -> dict[Interest, list[int]]:
        """Of each family and each author, the papers of the span."""
        found: dict[Interest, list[int]] = defaultdict(list)
        for start in range(0, len(self.keys), BATCH):
            part = self.keys[start : start + BATCH]
            rows = {row[0]: row[1:] for row in Paper.objects.filter(pk__in=part).values_list("pk", "family", "authors")}
            for key in part:
                family, authors = rows.get(key, ("", ()))
                found["family", family].append(key)
                for name in {one.casefold() for one in tex.names(authors)}:
                    found["author", name].append(key)
        return found

    @cached_property
    def _searchable(self) -> bool:
        """That the index knows every paper of the span. Raises Unsearched, Busy and Unreachable."""
        if index.behind(1):
            index.refresh(meaning=False, check=False, wait=WAIT)
        engine = index.engine()
        if self.keys and not engine.size:
            raise Unsearched(f"followed searches cannot be answered: {engine.trouble or 'the search index is empty'}")
        return True

    def sections(self, interests: Iterable[Interest], reader: int | None = None) -> list[Section]:
        """What is new for somebody, nothing twice; empty if nothing is. Without interests: the first of all.

        reader: the account for which papers are picked, after what was asked for by name and before what is for all.
        """
        seen: set[tuple[str, int | str]] = set()
        sections = []
        wanted = list(interests)
        for interest in [*wanted, (FOR_YOU, ""), *([] if wanted else [("all", "")])]:
            if interest[0] == FOR_YOU:
                section = self._picked(reader, {key for kind, key in seen if kind == "paper"})
            else:
                if interest not in self._sections:
                    self._sections[interest] = self._section(*interest)
                section = self._sections[interest]
            items = tuple(item for item in section.items if item.key not in seen)
            seen |= {item.key for item in items}
            if items:
                sections.append(Section(section.title, items, section.more))
        return sections

    def _picked(self, reader: int | None, shown: set[int | str]) -> Section:
        """What was picked for one reader by what they liked; nothing where too little is known of them."""
        if reader is None or not self.keys:
            return Section(FOR_YOU, ())
        picks = for_you.learnt_picks(reader, self.keys, shown, MOST, self._texts)
        known = {item.key[1]: item for item in self._papers(FOR_YOU, [pick.paper for pick in picks]).items}
        found = [replace(known[pick.paper], because=pick.reasons) for pick in picks if pick.paper in known]
        return Section(FOR_YOU, tuple(found))

    def _section(self, kind: str, value: str) -> Section:
        if kind == "claim":
            return Section(f"A claim that you follow was checked: {value.partition(':')[2]}", tuple(self._claim(value)))
        if kind in ("family", "author"):
            name = value if kind == "family" else value.casefold()
            return self._papers(value, self._known.get((kind, name), []))
        if kind == "search":
            try:
                asked = query.read(parse_qs(value))
            except query.BadQuery:  # kept by an older version
                return Section("", ())
            return self._papers(f"Search: {asked}", rank.among(asked, self.keys) if self._searchable else [])
        return self._papers("New papers", self.keys[:MOST])

    def _papers(self, title: str, keys: Sequence[int]) -> Section:
        """The first with what they say, the next by their titles, the rest as a number: none is passed over."""
        wanted = [(key, place >= MOST) for place, key in enumerate(keys[:LISTED])]
        rows = shapes.by_key(key for key, brief in wanted if (key, brief) not in self._items)
        for key, brief in wanted:
            if key in rows:
                context = {"card": cards.card(rows[key], records.record_index()), "site": self.site, "brief": brief}
                text = render_to_string("digest/paper.txt", context).strip()
                html = SafeString(render_to_string("digest/paper.html", context).strip())
                self._items[key, brief] = Item(("paper", key), text, html)
        items = tuple(self._items[one] for one in wanted if one in self._items)
        return Section(title, items, max(0, len(keys) - LISTED))

    def _claim(self, value: str) -> Iterable[Item]:
        slug, _, claim = value.partition(":")
        for row in records.record_index().verdicts.values():
            when = str(row.get("finished") or row["started"])[:10]
            if (row["method"], row["claim"]) == (slug, claim) and str(self.span.first) <= when <= str(self.span.last):
                context = {"row": row, "site": self.site, "paper": row["paper"] or slug}
                text = render_to_string("digest/claim.txt", context).strip()
                html = SafeString(render_to_string("digest/claim.html", context).strip())
                yield Item(("record", row["id"]), text, html)
