"""Load the bundled catalogue into the store: on first start, and again when a release changed its file."""

import hashlib

from django.db import models, transaction

from paperlab.core.paper import CATALOGUE, Paper, papers
from paperlab.site.store import clean, write
from paperlab.site.store.models import Harvest
from paperlab.site.store.models import Paper as Row

KEY = "bundled"


def load() -> int:
    """Bring every bundled row into the store; how many rows are new or changed. Nothing to do costs one query."""
    digest = hashlib.sha256(CATALOGUE.read_bytes()).hexdigest()
    state = Harvest.objects.filter(key=KEY).first()
    if state is not None and state.reached.get("sha256") == digest:
        return 0
    with transaction.atomic():
        revision = write.lock()
        known = _Rows()
        fresh, changed, titles = [], [], []
        for paper in papers().values():
            row = known.find(paper) or Row(title=paper.title, title_key=clean.title_key(paper.title), origins={})
            before = write.state(row)
            titles += [(row, key) for key in (row.title_key, clean.title_key(paper.title))]
            _merge_paper(row, paper, known)
            if row.pk is None:
                fresh.append(row)
            elif write.state(row) != before:
                changed.append(row)
            known.put(row)
        write.insert(fresh)
        write.update(changed)
        write.store_aliases(titles)
        write.number([*fresh, *changed], revision)
        Harvest.objects.update_or_create(key=KEY, defaults={"source": KEY, "reached": {"sha256": digest}})
    return len(fresh) + len(changed)


class _Rows:
    """The stored rows that bundled papers may be."""

    def __init__(self) -> None:
        ids = [paper.arxiv for paper in papers().values() if paper.arxiv]
        keys = [clean.title_key(paper.title) for paper in papers().values()]
        asked = models.Q(slug__isnull=False) | models.Q(arxiv__in=ids) | models.Q(title_key__in=keys)
        self.slug: dict[str, Row] = {}
        self.arxiv: dict[str, Row] = {}
        self.title: dict[str, Row] = {}
        for row in Row.objects.filter(asked):
            self.put(row)

    def put(self, row: Row) -> None:
        if row.slug:
            self.slug[row.slug] = row
        if row.arxiv:
            self.arxiv[row.arxiv] = row
        else:
            self.title[row.title_key] = row

    def find(self, paper: Paper) -> Row | None:
        """The row with this slug; else one without a slug of this arXiv id, or of this title and without an id."""
        same = self.slug.get(paper.slug)
        if same is None:
            alike = (self.arxiv.get(paper.arxiv), self.title.get(clean.title_key(paper.title)))
            same = next((row for row in alike if row is not None and not row.slug), None)
        return same


def _merge_paper(row: Row, paper: Paper, known: _Rows) -> None:
    """Write into the row what the catalogue says; ingested facts on it stay."""
    row.slug, row.kind = paper.slug, paper.kind
    if row.origins.get("family", [""])[0] != "person":  # a correction stays
        row.family = paper.family
        row.origins.pop("family", None)
    row.method, row.summary, row.year = paper.method, paper.summary, paper.year
    if paper.arxiv and row.arxiv is None and paper.arxiv not in known.arxiv:
        row.arxiv = paper.arxiv
    names = list(paper.authors)
    for name, value in (("title", paper.title), ("authors", names), ("author_count", len(names)), ("code", paper.code)):
        if value and write.may(row, name, KEY, ""):
            setattr(row, name, value)
            row.origins[name] = [KEY, ""]
    row.title_key = clean.title_key(row.title)
