"""The store: who is whom, which telling counts, what a second reading changes. The same on SQLite and PostgreSQL."""

import itertools
import json
from datetime import date
from typing import Any

import pytest

LONG = (
    "We study how matter is cut, measured, weighed and put together again, with tables and proofs, in nine parts. " * 3
)
OTHER = (
    "Birds sing before dawn; recordings from forty gardens show when, how loudly and to whom, over twelve years. " * 3
)


def item(title: str = "On Matter", **facts: Any) -> Any:
    from paperlab.site.store.item import Item

    return Item(title=title, **facts)


def take(*items: Any, source: str = "jsonl", run: Any = None, ranked: Any = None) -> tuple[int, int, int, int]:
    """Store items as one page of a reading; found, new, changed, set aside."""
    from dataclasses import astuple

    from paperlab.site.store.item import Page
    from paperlab.site.store.write import Run
    from paperlab.site.store.write import take as store_take

    page = Page(ranked=ranked)
    for one in items:
        page.add(one)
    return astuple(store_take(page, run or Run(source)))


def rows() -> list[Any]:
    from paperlab.site.store.models import Paper

    return list(Paper.objects.order_by("id"))


def everything() -> list[tuple[Any, ...]]:
    """All that is told of all papers, without keys, revisions and times."""
    from paperlab.site.store.models import Entry, Sighting
    from paperlab.site.store.write import state

    told = []
    for row in rows():
        seen = sorted(map(str, Sighting.objects.filter(paper=row).values_list("source", "day", "upvotes", "comments")))
        ranks = sorted(map(str, Entry.objects.filter(paper=row).values_list("ranking__key", "rank")))
        told.append((json.dumps(state(row), sort_keys=True, default=str), *seen, *ranks))
    return sorted(told)


def test_a_title_joins_a_paper_whose_id_came_first(store):
    take(item(arxiv="2401.00001", abstract=LONG))
    assert take(item("ON  matter", comments=4), source="listing") == (1, 0, 1, 0)
    (row,) = rows()
    assert (row.arxiv, row.comments, row.abstract) == ("2401.00001", 4, LONG.strip())


def test_an_id_joins_a_paper_whose_title_came_first(store):
    take(item(comments=4), source="listing")
    assert take(item(arxiv="2401.00001v2", abstract=LONG)) == (1, 0, 1, 0)
    (row,) = rows()
    assert (row.arxiv, row.version, row.comments) == ("2401.00001", 2, 4)


def test_two_ids_are_two_papers_whatever_the_title(store):
    assert take(item(arxiv="2401.00001"), item(arxiv="2401.00002"))[1] == 2
    assert take(item("On matter"), source="listing")[1] == 0  # joins the first of them, always the same


def test_one_title_over_two_abstracts_is_two_papers(store):
    take(item("Introduction", abstract=LONG))
    assert take(item("Introduction", abstract=OTHER))[1] == 1
    assert len(rows()) == 2


def ranked(key: str = "page") -> Any:
    from paperlab.site.store.item import Ranked

    return Ranked(key, "A page", date(2024, 1, 5))


def merging() -> dict[str, Any]:
    """Tellings that show only together that three of them are one paper: an id under an old title, the new title
    without the id, the id under the new title."""
    from paperlab.site.store.item import Sighting

    return {
        "old": item("An Old Title", arxiv="2401.00001", as_of="2024-01-01"),
        "nameless": item("A New Title", sightings=[Sighting(date(2024, 1, 5), 7, 1)], code="https://example.org/c"),
        "new": item("A New Title", arxiv="2401.00001", as_of="2024-01-02", abstract=LONG),
    }


@pytest.mark.parametrize("pages", [("old", "nameless", "new"), ("old+nameless", "new"), ("old+nameless+new",)])
@pytest.mark.parametrize("first", ["old", "nameless"])
def test_papers_that_turn_out_to_be_one_are_merged(store, pages, first):
    """In one page or in three; entries of lists and sightings move along; reading again changes nothing."""
    from paperlab.site.store.models import Entry, Sighting

    order = {"old": 0, "nameless": 1} if first == "old" else {"old": 1, "nameless": 0}

    def read() -> list[tuple[int, int, int, int]]:
        counts = []
        for page in pages:
            names = sorted(page.split("+"), key=lambda name: order.get(name, 2))
            told = [merging()[name] for name in names]
            counts.append(take(*told, ranked=ranked("+".join(sorted(names)))))
        return counts

    assert sum(count[1] for count in read()) == (2 if len(pages) > 1 else 1)
    (row,) = rows()
    assert (row.title, row.arxiv, row.code) == ("A New Title", "2401.00001", "https://example.org/c")
    assert Sighting.objects.get().paper_id == row.pk
    assert set(Entry.objects.values_list("paper_id", flat=True)) == {row.pk}
    before = everything()
    assert [count[1:3] for count in read()] == [(0, 0)] * len(pages)
    assert everything() == before


def test_a_paper_is_found_by_the_titles_that_it_had(store):
    """Read again, a list with the old title joins the renamed paper; it is no new one."""
    from paperlab.core.paper import papers
    from paperlab.site.store import bundled

    def read() -> list[int]:
        news = [take(item("Old Name", comments=3), source="listing")]
        news += [take(item("New Name", arxiv="2401.00001", as_of="2024-03-01"), source="arxiv-oai")]
        news += [take(item("Old Name", arxiv="2401.00001", as_of="2024-01-01"), source="daily-papers")]
        return [new for _, new, _, _ in news]

    assert read() == [1, 1, 0]
    assert read() == [0, 0, 0]
    (row,) = rows()
    assert (row.title, row.comments) == ("New Name", 3)
    bundled.load()
    first = next(iter(papers().values()))
    assert take(item("Renamed by arXiv", arxiv=first.arxiv), source="arxiv-oai")[1:3] == (0, 1)
    assert take(item(first.title, comments=1), source="listing")[1] == 0
    assert len(rows()) == len(papers()) + 1


def tellings() -> list[tuple[str, Any]]:
    return [
        ("arxiv-oai", item("On Matter", arxiv="2401.00001", abstract="Of arXiv.", as_of="2024-01-09")),
        ("arxiv-oai", item("On Matter", arxiv="2401.00001", abstract="Of arXiv, mended.", as_of="2024-02-09")),
        ("daily-papers", item("On Matter", arxiv="2401.00001", abstract="Daily.", upvotes=9, as_of="2024-01-10")),
        ("jsonl", item("On matter", arxiv="2401.00001", abstract="A file's.", upvotes=3, comments=2)),
        ("listing", item("On Matter", comments=5)),
    ]


def test_the_order_of_reading_does_not_matter(store):
    from paperlab.site.store.models import Paper

    ends = []
    for order in itertools.permutations(range(5)):
        Paper.objects.all().delete()
        for at in order:
            source, told = tellings()[at]
            take(told, source=source)
        ends.append(everything())
        (row,) = rows()
        assert (row.abstract, row.upvotes, row.comments) == ("Of arXiv, mended.", 9, 2)
    assert all(end == ends[0] for end in ends)


def test_a_doublet_in_one_reading_only_fills_what_is_empty(store):
    from paperlab.site.store.write import Run

    run = Run("jsonl")
    assert take(
        item(arxiv="2401.00001", abstract="First."), item(arxiv="2401.00001", abstract="Second.", code="https://a.org")
    ) == (2, 1, 0, 0)
    take(item(arxiv="2401.00002", abstract="First."), run=run)
    take(item(arxiv="2401.00002", abstract="Second.", upvotes=2), run=run)
    assert [(row.abstract, row.code, row.upvotes) for row in rows()] == [
        ("First.", "https://a.org", None),
        ("First.", "", 2),
    ]


def test_a_feed_read_later_brings_its_new_numbers(store):
    take(item(arxiv="2401.00001", upvotes=3), source="feed")
    assert take(item(arxiv="2401.00001", upvotes=8), source="feed") == (1, 0, 1, 0)
    assert rows()[0].upvotes == 8


def test_revisions_rise_with_what_changed_and_only_with_that(store):
    take(item("One", arxiv="2401.00001"), item("Two", arxiv="2401.00002"))
    first = [row.revision for row in rows()]
    take(item("One", arxiv="2401.00001"), item("Two", arxiv="2401.00002", code="https://a.org"))
    second = [row.revision for row in rows()]
    assert first[0] == first[1] == second[0] < second[1]


def test_what_the_database_refuses_is_set_aside_and_the_rest_kept(store):
    from paperlab.site.store.models import SetAside

    good, bad = item("Good", arxiv="2401.00001"), item("Bad", arxiv="2401.00002")
    bad.version = 10**400  # no database takes it
    assert take(good, bad) == (2, 1, 0, 1)
    assert take(bad) == (1, 0, 0, 1)  # alone in its page too
    assert [row.arxiv for row in rows()] == ["2401.00001"]
    assert "the database refuses it" in SetAside.objects.get().reason


def test_a_database_that_gives_up_is_told_in_one_line(store, monkeypatch):
    import io

    from django.db import OperationalError

    from paperlab.site.start import StoreError
    from paperlab.site.store import harvest
    from paperlab.site.store.sources import files

    def full(*_: Any) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(harvest.write, "take", full)
    with pytest.raises(StoreError, match="disk is full; what was read is kept"):
        harvest.harvest(files.source(io.BytesIO(b'{"title": "T", "id": "2401.00001"}\n')))


def test_set_aside_is_kept_once(store):
    from paperlab.site.store.models import SetAside

    for _ in range(2):
        assert take(item(""), item("x" * 3000)) == (2, 0, 0, 2)
    assert sorted(SetAside.objects.values_list("reason", flat=True)) == [
        "no title",
        "title of 3000 characters; at most 2000 are taken",
    ]


def test_strange_text_comes_back_as_it_was(store):
    told = {
        "title": "<script>alert(1)</script> $\\alpha$-cut 𝔸 نماذج עברית 👩‍🔬 & Ångström",
        "abstract": "a < b && c > d; 'quoted' \"twice\"; \\textbf{x}; %s %(x)s; ' OR 1=1; --",
        "authors": ["Zoë 李", "X Æ A-12", "Robert'); DROP TABLE papers;--"],
        "categories": ["cs.CL"],
    }
    take(item(arxiv="2401.00001", **told))
    (row,) = rows()
    assert {name: getattr(row, name) for name in told} == told


def test_a_list_keeps_its_order_and_follows_its_page(store):
    from paperlab.site.store.models import Ranking

    names = ("Three", "One", "Two")
    take(*map(item, names), source="listing", ranked=ranked())
    take(*map(item, names[::-1]), source="listing", ranked=ranked())
    entries = Ranking.objects.get().entries.all()
    assert [(entry.rank, entry.paper.title) for entry in entries] == [(1, "Two"), (2, "One"), (3, "Three")]


# -- the bundled catalogue ---------------------------------------------------------------------------------------------


def test_the_bundled_papers_join_what_was_ingested_before_them(store):
    from paperlab.core.paper import papers
    from paperlab.site.store import bundled

    first, second, third = list(papers().values())[:3]
    take(item("Some Other Spelling", arxiv=first.arxiv, abstract=LONG), source="arxiv-oai")
    take(item(second.title.upper(), comments=3), source="listing")
    assert bundled.load() == len(papers())
    assert bundled.load() == 0
    found = {row.slug: row for row in rows()}
    assert len(rows()) == len(found) == len(papers())
    assert found[first.slug].abstract == LONG.strip()
    assert found[first.slug].title == "Some Other Spelling"  # arXiv's counts
    assert (found[second.slug].comments, found[second.slug].arxiv) == (3, second.arxiv)
    assert found[third.slug].summary == third.summary


def test_ingested_papers_join_the_bundled_ones(store):
    from paperlab.core.paper import papers
    from paperlab.site.store import bundled

    bundled.load()
    told = [item(paper.title, arxiv=None if at % 2 else paper.arxiv) for at, paper in enumerate(papers().values())]
    assert take(*told)[1] == 0
    assert len(rows()) == len(papers())


# -- the tables --------------------------------------------------------------------------------------------------------


def test_migrations_are_those_of_the_models(store):
    from django.core.management import call_command

    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_sqlite_is_in_wal_mode(store):
    from django.db import connection

    if connection.vendor != "sqlite":
        pytest.skip("another database")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)


def test_every_admin_page_opens(store):
    from django.apps import apps
    from django.contrib.auth.models import User
    from django.test import Client

    take(item(arxiv="2401.00001"), item("<b>Bold</b>"), item(""), source="listing", ranked=ranked())
    client = Client(HTTP_HOST="localhost")
    client.force_login(User.objects.create_superuser("ada", password="x"))
    assert client.get("/admin/").status_code == 200
    for model in apps.get_app_config("catalogue").get_models():
        from django.contrib import admin

        if not admin.site.is_registered(model):
            continue
        at = f"/admin/catalogue/{model._meta.model_name}/"
        answer = client.get(at, {"q": "matter"} if admin.site.get_model_admin(model).search_fields else {})
        assert answer.status_code == 200
        assert b"<b>Bold</b>" not in client.get(at).content
        for row in model.objects.all()[:3]:
            assert client.get(f"{at}{row.pk}/change/").status_code == 200
