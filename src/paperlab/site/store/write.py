"""Write a page of items into the store: match papers, merge what sources say, number what changed; in one transaction.

Two values of one field are ordered by (rank of the source, as_of, source), and the greater one stays: in whatever
order sources are read, the store ends the same, and reading one again changes nothing. Of two that are equal in this
order (a feed read twice) the one read later counts; within one reading, the first.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import DataError, IntegrityError, connection, models, transaction
from django.db.models.base import ModelState
from django.utils import timezone

from paperlab.site.store import clean, teasers
from paperlab.site.store.item import Item, Page, Ranked, Rejected
from paperlab.site.store.models import Alias, Counter, Entry, Paper, Ranking, SetAside, Sighting, Teaser

# arXiv knows its papers best; a daily list copies from it; a file may hold anything; a page was read line by line.
RANK = {"arxiv-oai": 5, "arxiv-api": 5, "daily-papers": 4, "bundled": 3, "feed": 2, "jsonl": 2, "listing": 1,
        "person": 9, "guessed": 0}  # fmt: skip  # who gave a family
SIGHTED = "daily-papers"  # sightings are of one daily list, whatever file they came from
LINKS_LIMIT = 100
CHUNK = 800  # values in one query; some builds of SQLite stop at 999
BATCH = 200  # rows in one insert
REFUSED = (DataError, IntegrityError, ValueError, OverflowError)  # an item is wrong, not the database

# What a source may say, by item field and column. The rest of a row follows from these.
_FACTS = ("title", "abstract", "authors", "author_count", "categories", "published", "published_at", "updated_at",
          "version", "versions", "code", "upvotes", "comments", "stars", "upstream_summary", "keywords")  # fmt: skip
_COLUMNS = tuple(
    column.name for column in Paper._meta.concrete_fields if column.name not in ("id", "added", "revision")
)


@dataclass
class Counts:
    """What reading a source did: items found, papers new and changed, items rejected (set_aside)."""

    found: int = 0
    new: int = 0
    changed: int = 0
    set_aside: int = 0

    def add(self, other: "Counts") -> None:
        """Add another's numbers to these."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Run:
    """One reading of a source: papers: those it had so far; one that comes twice only fills what is empty."""

    source: str
    papers: set[int] = field(default_factory=set)


def lock() -> int:
    """Inside a transaction: become the only writer until it ends. Returns the revision for what is written."""
    Counter.objects.get_or_create(name="revision")
    return Counter.objects.select_for_update().get(name="revision").value + 1


def number(rows: Iterable[Paper], revision: int) -> None:
    """Give changed rows, already saved, their revision. Inside the transaction that called `lock`."""
    ids = [row.pk for row in rows]
    for start in range(0, len(ids), CHUNK):
        Paper.objects.filter(pk__in=ids[start : start + CHUNK]).update(revision=revision)
    if ids:
        Counter.objects.filter(name="revision").update(value=revision)


def state(row: Paper) -> dict[str, Any]:
    """A row's columns, to compare before and after."""
    return {name: _copy(getattr(row, name)) for name in _COLUMNS}


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else value


def may(row: Paper, name: str, source: str, as_of: str, *, strict: bool = False) -> bool:
    """Whether this source's value of a field replaces what the row has. strict: not if they are equal in order."""
    stored = row.origins.get(name)
    if stored is None:
        return True
    mine, theirs = (RANK[source], as_of, source), (RANK.get(stored[0], 0), stored[1], stored[0])
    return mine > theirs if strict else mine >= theirs


def insert(rows: list[Paper]) -> None:
    """Save new rows and give them their keys: bulk_create in a third of its time, which it spends on asking every field
    of every row how it is stored, and on statements of 999 values."""
    fields = [field for field in Paper._meta.concrete_fields if not field.primary_key]
    adapt = connection.ops.adapt_json_value
    empty: dict[Any, Any] = {list: adapt([], None), dict: adapt({}, None)}  # most of these are
    stored: dict[type, Any] = {
        models.JSONField: lambda value: adapt(value, None) if value else empty[type(value)],
        models.DateTimeField: connection.ops.adapt_datetimefield_value,
        models.DateField: connection.ops.adapt_datefield_value,
    }
    ways = [(field.attname, stored.get(type(field))) for field in fields]
    quote = connection.ops.quote_name
    into = f"INSERT INTO {quote(Paper._meta.db_table)} ({', '.join(quote(field.column) for field in fields)}) VALUES "
    one, now = f"({', '.join(['%s'] * len(fields))})", timezone.now()
    added = connection.ops.adapt_datetimefield_value(now)
    ways = [(name, (lambda _: added) if name == "added" else way) for name, way in ways]
    with connection.cursor() as cursor:
        for start in range(0, len(rows), BATCH):
            batch, values = rows[start : start + BATCH], []
            for row in batch:
                row.added = now
                columns = row.__dict__
                values += [columns[name] if way is None else way(columns[name]) for name, way in ways]
            cursor.execute(f"{into}{', '.join([one] * len(batch))} RETURNING id", values)
            for row, (key,) in zip(batch, cursor.fetchall(), strict=True):
                row.pk, row._state.adding = key, False


def _like(blank: Paper) -> Paper:
    """A new row of equal columns, which share their values: in a tenth of the time of Paper()."""
    row = Paper.__new__(Paper)
    row.__dict__.update(blank.__dict__)
    row._state = ModelState()
    return row


def store_aliases(titles: Iterable[tuple[Paper, str]]) -> None:
    """Remember titles, by their keys, of stored rows that have another title now."""
    made = [Alias(paper=row, key=key) for row, key in titles if key != row.title_key]
    Alias.objects.bulk_create(made, ignore_conflicts=True)


def take(page: Page, run: Run) -> Counts:
    """Store a page in one transaction. An item that the database refuses is rejected, the others are kept."""
    try:
        with transaction.atomic():
            return _take(page, run)
    except REFUSED:
        pass
    counts = Counts()
    with transaction.atomic():
        rejected = list(page.rejected)
        kept = []
        for item in page.items:
            try:
                with transaction.atomic():
                    counts.add(_take(Page([item]), run))
                kept.append(item)
            except REFUSED as error:
                reason = f"the database refuses it: {' '.join(str(error).split())[:200]}"
                rejected.append(Rejected(reason, item.where, f"{item.arxiv} {item.title[:200]}"))
        # The list is written again over the items that are now known to pass.
        _take(Page(kept, ranked=page.ranked), run)
        counts.add(_store_rejected(rejected, run.source))
    return counts


def recall(page: Page, run: Run) -> None:
    """Remember the papers of a page that this reading stored before it was interrupted."""
    known = _Known(page.items)
    run.papers |= {row.pk for item in page.items if (row := known.by_arxiv.get(item.arxiv or "") or known.find(item))}


def _take(page: Page, run: Run) -> Counts:
    revision = lock()
    known = _Known(page.items)
    blank = Paper(revision=revision)
    places: list[tuple[Paper, Item]] = []
    # Rows by the object's id: new ones have no key yet.
    fresh: dict[int, Paper] = {}
    touched: dict[int, Paper] = {}
    changed: dict[int, Paper] = {}
    written: set[int] = set()
    titles: list[tuple[Paper, str]] = []
    for item in page.items:
        row = known.find(item)
        if row is None:
            if item.deleted:
                continue
            row = _like(blank)
            row.origins = {}
            fresh[id(row)] = row
        before = None if id(row) in fresh else state(row)
        titles += [(row, key) for key in (row.title_key, known.keys[id(item)] if item.title else "") if key]
        _merge_item(row, item, known.keys[id(item)], run.source, strict=id(row) in written or row.pk in run.papers)
        known.put(row, row.title_key, known.keys[id(item)])
        written.add(id(row))
        if before is not None and (after := state(row)) != before:
            touched[id(row)] = row
            if any(after[name] != before[name] for name in _COLUMNS if name != "origins"):
                changed[id(row)] = row
        places.append((row, item))
    for rows in (fresh, touched, changed):
        for other in known.gone:
            rows.pop(other, None)
    early = [row for row in fresh.values() if row.pk is not None]  # a merge needed their keys
    insert([row for row in fresh.values() if row.pk is None])
    update([*touched.values(), *early])
    places = [(known.gone.get(id(row), (row, row))[1], item) for row, item in places]
    store_aliases((known.gone.get(id(row), (row, row))[1], key) for row, key in titles)
    seen = _sight(places)
    changed |= {key: row for key, row in [*seen.items(), *known.merged.items()] if key not in fresh}
    number([*early, *changed.values()], revision)
    if fresh:
        Counter.objects.filter(name="revision").update(value=revision)
    if pictures := [(row.pk, item.pictures) for row, item in places if item.pictures]:
        teasers.wanted(pictures)
    if page.ranked is not None:
        _rank(page.ranked, places, run.source)
    run.papers |= {row.pk for row, _ in places}
    counts = Counts(found=len(page.items), new=len(fresh), changed=len(changed))
    counts.add(_store_rejected(page.rejected, run.source))
    return counts


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    """The values by as many as one query takes."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def _holding(model: type[models.Model], column: str, values: list[str]) -> list[int]:
    """Keys of the rows that hold one of the values. Where papers are new, they are few; Django, which looks at every
    value by itself, is asked for those rows only."""
    quote, found = connection.ops.quote_name, []
    select = f"SELECT id FROM {quote(model._meta.db_table)} WHERE {quote(column)} IN "
    with connection.cursor() as cursor:
        for part in _chunks(values):
            cursor.execute(f"{select}({', '.join(['%s'] * len(part))})", part)
            found += [key for (key,) in cursor.fetchall()]
    return found


class _Known:
    """The stored rows that a page's items may be, by arXiv id and by title."""

    def __init__(self, items: list[Item]) -> None:
        self.keys = {id(item): clean.title_key(item.title) for item in items}
        ids = sorted({item.arxiv for item in items if item.arxiv})
        keys = sorted(set(self.keys.values()))
        rows: dict[int, Paper] = {}
        aliases: list[Alias] = []
        for part in _chunks(keys):
            if _holding(Alias, "key", part):
                # By paper is as papers are ordered: the newest first.
                aliases += Alias.objects.filter(key__in=part).order_by("paper")
        renamed = {alias.paper_id for alias in aliases}
        wanted = renamed.union(_holding(Paper, "arxiv", ids), _holding(Paper, "title_key", keys))
        for part in _chunks(sorted(wanted)):
            rows |= {row.pk: row for row in Paper.objects.filter(pk__in=part)}
        self.by_arxiv: dict[str, Paper] = {}
        self.by_title: dict[str, list[Paper]] = {}
        self.merged: dict[int, Paper] = {}
        self.gone: dict[int, tuple[Paper, Paper]] = {}  # what was merged into what, by the object's id
        for key in sorted(rows):
            self.put(rows[key], rows[key].title_key)
        for alias in aliases:
            self.put(rows[alias.paper_id], alias.key)

    def put(self, row: Paper, *keys: str) -> None:
        """Let a row be found by its id and by these keys of titles."""
        if row.arxiv:
            self.by_arxiv[row.arxiv] = row
        for key in keys:
            same = self.by_title.setdefault(key, [])
            if not any(other is row for other in same):
                same.append(row)

    def find(self, item: Item) -> Paper | None:
        """The row that this item is: by arXiv id, failing that by title; None if it is a new paper."""
        alike = self.by_title.get(self.keys[id(item)], []) if item.title else []
        nameless = [row for row in alike if row.arxiv is None and _same(row, item)]
        if item.arxiv:
            row = self.by_arxiv.get(item.arxiv)
            if row is None:
                return nameless[0] if nameless else None
            for other in nameless:
                self._merge(row, other)
            return row
        return next(iter(nameless), None) or next((row for row in alike if row.arxiv and _same(row, item)), None)

    def _merge(self, row: Paper, other: Paper) -> None:
        """Move what hangs on `other`, the same paper without an arXiv id, to `row`, and delete it."""
        if other.slug and row.slug:
            return
        insert([new for new in (row, other) if new.pk is None])
        Entry.objects.filter(paper=other).update(paper=row)
        days = set(Sighting.objects.filter(paper=row).values_list("source", "day"))
        for sighting in Sighting.objects.filter(paper=other):
            if (sighting.source, sighting.day) not in days:
                Sighting.objects.filter(pk=sighting.pk).update(paper=row)
        store_aliases((row, key) for key in [other.title_key, *other.aliases.values_list("key", flat=True)])
        if not Teaser.objects.filter(paper=row).exists():
            Teaser.objects.filter(paper=other).update(paper=row)
        Paper.objects.filter(pk=other.pk).delete()
        for name in _COLUMNS:
            theirs = other.origins.get(name)
            if theirs and getattr(other, name) and may(row, name, *theirs, strict=True):
                setattr(row, name, getattr(other, name))
                row.origins[name] = theirs
            elif name not in ("arxiv", "title", "title_key") and not getattr(row, name):
                setattr(row, name, getattr(other, name))
        row.title_key = clean.title_key(row.title)
        row.extra = {**other.extra, **row.extra}
        row.origins = {**other.origins, **row.origins}
        row.links = list({link["url"]: link for link in [*row.links, *other.links]}.values())[:LINKS_LIMIT]
        row.save()
        for rows in self.by_title.values():
            rows[:] = [kept for kept in rows if kept is not other]
        self.merged[id(row)] = row
        self.gone[id(other)] = (other, row)


def _same(row: Paper, item: Item) -> bool:
    """Whether equal titles are one paper: not if both abstracts are long and hardly share a word ("Introduction")."""
    if min(len(row.abstract), len(item.abstract)) < 200:
        return True
    mine, theirs = (set(re.findall(r"\w{4,}", text.lower())) for text in (row.abstract, item.abstract))
    return len(mine & theirs) >= 0.25 * min(len(mine), len(theirs))


def _merge_item(row: Paper, item: Item, title_key: str, source: str, strict: bool) -> None:
    """Write into the row what the item says and may say. title_key: of the item's title."""
    if item.deleted:
        row.withdrawn = True
        return
    if source.startswith("arxiv-"):
        row.withdrawn = False
    if item.arxiv and row.arxiv is None:
        row.arxiv = item.arxiv
    says: dict[str, Any] = {
        "title": item.title,
        "abstract": item.abstract,
        "authors": item.authors,
        "author_count": item.author_count or len(item.authors) or None,
        "categories": item.categories,
        "published": item.published_day,
        "published_at": item.published,
        "updated_at": item.updated,
        "version": item.version,
        "versions": item.versions,
        "code": item.code,
        "upvotes": item.upvotes,
        "comments": item.comments,
        "stars": item.stars,
        "upstream_summary": item.upstream_summary,
        "keywords": item.keywords,
    }
    others = [*item.links, *([{"kind": "code", "url": item.code}] if item.code else [])]
    for name in _FACTS:
        value = says[name]
        if value in ("", None) or value == [] or not may(row, name, source, item.as_of, strict=strict):
            continue
        if name == "code" and row.code and row.code != value:
            others.append({"kind": "code", "url": row.code})
        setattr(row, name, value)
        row.origins[name] = [source, item.as_of]
        if name == "title":
            row.title_key = title_key
        if name == "published" and not row.slug:
            row.year = value.year
    if item.year and row.published is None and not row.slug and may(row, "year", source, item.as_of, strict=strict):
        row.year, row.origins["year"] = item.year, [source, item.as_of]
    part = f"extra.{source}"
    if item.extra and may(row, part, source, item.as_of, strict=strict):
        row.extra = {**row.extra, source: item.extra}
        row.origins[part] = [source, item.as_of]
    addresses = {row.code, *(link["url"] for link in row.links)}
    added = [link for link in others if link["url"] not in addresses]
    if added:
        row.links = [*row.links, *{link["url"]: link for link in added}.values()][:LINKS_LIMIT]


def update(rows: list[Paper]) -> None:
    """Save many changed rows with few statements."""
    if rows:
        Paper.objects.bulk_create(
            rows,
            batch_size=BATCH,
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=list(_COLUMNS),
        )


def _sight(places: list[tuple[Paper, Item]]) -> dict[int, Paper]:
    """Store sightings; of two for one day the higher numbers stay. Returns the rows whose sightings changed."""
    wanted: dict[tuple[int, Any], Sighting] = {}
    rows: dict[int, Paper] = {}
    for row, item in places:
        for seen in item.sightings:
            rows[row.pk] = row
            new = Sighting(paper=row, source=SIGHTED, day=seen.day, upvotes=seen.upvotes, comments=seen.comments)
            old = wanted.setdefault((row.pk, seen.day), new)
            _raise(old, new)
    changed: dict[int, Paper] = {}
    keys = list(rows)
    better = []
    for start in range(0, len(keys), CHUNK):
        for stored in Sighting.objects.filter(paper__in=keys[start : start + CHUNK], source=SIGHTED):
            update_ = wanted.pop((stored.paper_id, stored.day), None)
            if update_ is not None and _raise(stored, update_):
                better.append(stored)
                changed[id(rows[stored.paper_id])] = rows[stored.paper_id]
    Sighting.objects.bulk_update(better, ["upvotes", "comments"], batch_size=100)
    Sighting.objects.bulk_create(wanted.values(), batch_size=150)
    return changed | {id(rows[paper]): rows[paper] for paper, _ in wanted}


def _raise(stored: Sighting, other: Sighting) -> bool:
    """Give a sighting the higher of two numbers; whether that changed it."""
    before = (stored.upvotes, stored.comments)
    for name in ("upvotes", "comments"):
        known = [n for n in (getattr(stored, name), getattr(other, name)) if n is not None]
        setattr(stored, name, max(known, default=None))
    return before != (stored.upvotes, stored.comments)


def _rank(ranked: Ranked, places: list[tuple[Paper, Item]], source: str) -> None:
    """Store a list's order; the same list read again is left as it is."""
    facts = {"source": source, "name": ranked.name, "day": ranked.day, "shown": ranked.shown}
    ranking, made = Ranking.objects.get_or_create(key=ranked.key, defaults=facts)
    if not made and any(getattr(ranking, name) != value for name, value in facts.items()):
        Ranking.objects.filter(pk=ranking.pk).update(**facts)
    wanted = [(rank, row.pk, item.shown) for rank, (row, item) in enumerate(places, 1)]
    if not made and list(ranking.entries.order_by("rank").values_list("rank", "paper", "shown")) == wanted:
        return
    ranking.entries.all().delete()
    Entry.objects.bulk_create(
        [Entry(ranking=ranking, rank=rank, paper_id=paper, shown=shown) for rank, paper, shown in wanted],
        batch_size=150,
    )


def _store_rejected(rejected: list[Rejected], source: str) -> Counts:
    rows = []
    for one in rejected:
        content, where = clean.text(one.content)[:10_000], clean.line(one.where)[:1_000]
        reason = clean.line(one.reason)[:1_000]
        key = hashlib.blake2b("\0".join((source, reason, where, content)).encode(), digest_size=16).hexdigest()
        rows.append(SetAside(key=key, source=source, where=where, reason=reason, content=content))
    SetAside.objects.bulk_create(rows, ignore_conflicts=True, batch_size=100)
    return Counts(found=len(rows), set_aside=len(rows))
