"""Each address of the API, asked in-process."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from api_papers import HOSTILE, item, seen, take

pytestmark = pytest.mark.usefixtures("store")
Get = Callable[..., Any]


@pytest.fixture
def get() -> Get:
    """GET an address as somebody on this machine; JSON is read, and anything but `status` fails."""
    from django.test import Client

    client = Client(raise_request_exception=False, headers={"host": "localhost"})

    def ask(address: str, status: int = 200, **headers: str) -> Any:
        answer = client.get(address, headers={name.replace("_", "-"): value for name, value in headers.items()})
        body = b"".join(answer.streaming_content) if answer.streaming else answer.content
        assert answer.status_code == status, body[:500]
        kind = answer.headers.get("Content-Type", "")
        answer.said = json.loads(body) if "json" in kind and "jsonl" not in kind else body.decode()
        return answer

    return ask


@pytest.fixture
def catalogue() -> None:
    from paperlab.site.store import bundled

    bundled.load()


def everything(get: Get, query: str) -> list[str]:
    """The ids of all pages, following next_cursor and, as it should be the same, the Link header."""
    found: list[str] = []
    address: str | None = f"/api/papers?{query}"
    while address:
        answer = get(address)
        found += [paper["id"] for paper in answer.said["papers"]]
        link = answer.headers.get("Link", "")
        address = link[1 : link.index(">")] if link else None
        if address:
            assert f"cursor={answer.said['next_cursor']}" in address
    return found


@pytest.mark.parametrize("order", ["published", "added", "changed"])
def test_pages_hold_every_paper_once(get: Get, order: str) -> None:
    take(item(n) for n in range(1, 40))
    take(item(n, published=None) for n in range(40, 50))
    found = everything(get, f"order={order}&limit=7")
    assert len(found) == 49
    assert len(set(found)) == 49
    if order == "published":
        dates = [get(f"/api/papers/{name}").said["publishedAt"] for name in found]
        assert dates[:39] == sorted(filter(None, dates), reverse=True)
        assert dates[39:] == [None] * 10


@pytest.mark.parametrize("order", ["published", "added", "changed"])
def test_a_paper_that_arrives_between_two_pages_shifts_nothing(get: Get, order: str) -> None:
    take(item(n) for n in range(1, 21))
    first = get(f"/api/papers?order={order}&limit=10").said
    take([item(500, published=datetime(2030, 1, 1, tzinfo=UTC)), item(501, published=datetime(2001, 1, 1, tzinfo=UTC))])
    rest = everything(get, f"order={order}&limit=10&cursor={first['next_cursor']}")
    old = {f"2401.{n:05d}" for n in range(1, 21)}
    assert [*(p["id"] for p in first["papers"]), *(name for name in rest if name in old)] == list(
        dict.fromkeys([*(p["id"] for p in first["papers"]), *(name for name in rest if name in old)])
    )
    assert old <= {p["id"] for p in first["papers"]} | set(rest)


def test_the_order_of_change_can_be_followed(get: Get) -> None:
    take(item(n) for n in range(1, 6))
    answer = get("/api/papers?order=changed").said
    assert len(answer["papers"]) == 5
    address = f"/api/papers?order=changed&cursor={answer['next_cursor']}"
    assert get(address).said == {"papers": [], "next_cursor": answer["next_cursor"]}
    take([item(3, upvotes=77, as_of="2024-07-01")])
    assert [paper["upvotes"] for paper in get(address).said["papers"]] == [77]


def test_filters_narrow(get: Get, catalogue: None) -> None:
    take(item(n) for n in range(1, 31))
    for query, holds in {
        "family=quantization": lambda p: p["paperlab"]["family"] == "quantization",
        "kind=survey": lambda p: p["paperlab"]["kind"] == "survey",
        "year=2024": lambda p: p["paperlab"]["year"] == 2024,
        "code=1": lambda p: p["paperlab"]["code"],
        "code=0": lambda p: not p["paperlab"]["code"],
        "since=2024-01-03": lambda p: (p["publishedAt"] or "") >= "2024-01-03",
        "until=2024-01-03": lambda p: "" < (p["publishedAt"] or "") < "2024-01-04",
        "since=2024-01-03&until=2024-01-03&code=1": lambda p: (
            "2024-01-03" in p["publishedAt"] and p["paperlab"]["code"]
        ),
    }.items():
        papers = get(f"/api/papers?limit=100&{query}").said["papers"]
        assert papers, query
        assert all(map(holds, papers)), query
    assert get("/api/papers?family=vision&year=1999").said["papers"] == []


def test_a_paper_has_the_known_shape_and_our_facts_apart(get: Get, catalogue: None) -> None:
    facts = {"stars": 12, "keywords": ["a"], "upstream_summary": "Short.", "version": 2, "upvotes": 5}
    take([item(7, arxiv="2403.02775", title="EasyQuant", sightings=seen(date(2024, 3, 6), 5), **facts)])
    said = get("/api/papers/2403.02775").said
    assert said["id"] == "2403.02775"
    assert said["authors"][0] == {"name": "Author 0 of 7", "hidden": False}
    assert said["publishedAt"] == "2024-01-03T00:00:00.000Z"
    assert said["submittedOnDailyAt"] == "2024-03-06T00:00:00.000Z"
    assert (said["githubRepo"], said["githubStars"]) == ("https://github.com/someone/something", 12)
    assert (said["ai_summary"], said["ai_keywords"]) == ("Short.", ["a"])
    ours = said["paperlab"]
    assert (ours["slug"], ours["family"], ours["runnable"]) == ("easyquant", "quantization", True)
    assert ours["days"] == [{"day": "2024-03-06", "upvotes": 5, "comments": 3}]
    assert ours["claims"]
    assert "2403.02775" in str(said["paperlab"]["arxiv"])


def test_every_spelling_of_an_id_finds_the_paper(get: Get, catalogue: None) -> None:
    take([item(1, arxiv="math/0601001", title="Old"), item(2, arxiv=None, title="No id at all")])
    for name in ("2403.02775", "2403.02775v3", "arXiv:2403.02775", "easyquant", "EASYQUANT"):
        assert get(f"/api/papers/{name}").said["id"] == "2403.02775"
    for name in ("math/0601001", "math/0601001v2", "math.AG/0601001v1", "math%2F0601001"):
        assert get(f"/api/papers/{name}").said["title"] == "Old"
        assert get(f"/api/papers/{name}/verdicts").said["verdicts"] == []
    from paperlab.site.store.models import Paper

    nameless = Paper.objects.get(title="No id at all")
    assert get(f"/api/papers/~{nameless.pk}").said["id"] == f"~{nameless.pk}"


def test_daily_lists(get: Get) -> None:
    day = date(2024, 5, 27)
    take(item(n, upvotes=n, sightings=seen(day, n)) for n in range(1, 6))
    take([item(9, upvotes=50, sightings=seen(date(2024, 5, 29), 50))])
    listed = get("/api/daily_papers?date=2024-05-27").said
    assert [row["paper"]["upvotes"] for row in listed] == [5, 4, 3, 2, 1]
    assert listed[0]["numComments"] == 3
    assert listed[0]["paper"]["submittedOnDailyAt"] == "2024-05-27T00:00:00.000Z"
    assert len(get("/api/daily_papers?week=2024-W22").said) == 6
    assert [row["paper"]["upvotes"] for row in get("/api/daily_papers?month=2024-05&limit=2&p=1").said] == [4, 3]
    newest = get("/api/daily_papers?month=2024-05&sort=publishedAt").said
    assert newest[0]["paper"]["id"] == "2401.00009"
    talked = get("/api/daily_papers?date=2024-05-28&sort=trending").said
    assert [row["paper"]["id"] for row in talked] == [f"2401.{n:05d}" for n in (5, 4, 3, 2, 1)]  # not the day after's
    assert get("/api/daily_papers?date=2024-05-30&sort=trending&limit=1").said[0]["paper"]["id"] == "2401.00009"
    answer = get("/api/daily_papers?month=2024-05&limit=4")
    assert answer.headers["X-Total-Count"] == "6"
    assert "p=1" in answer.headers["Link"]
    assert get("/api/daily_papers").said == []  # today has no list, and no other day is put in its place
    assert get("/api/daily_papers?week=2023-W53", 400).said["errors"][0]["parameter"] == "week"
    assert len(get("/api/daily_papers?week=2024-W22&date=2024-05-27", 400).said["errors"]) == 2


def test_our_own_reader_of_daily_papers_reads_it(get: Get) -> None:
    """Another paperlab can follow this one: what the source takes from the answer is what the store had."""
    from paperlab.site.store.sources import rows

    day = date(2024, 5, 27)
    take(item(n, upvotes=n, sightings=seen(day, n)) for n in range(1, 6))
    page = rows.daily_page(get("/api/daily_papers?date=2024-05-27").said, day, "test")
    assert not page.rejected
    assert [(i.arxiv, i.upvotes, i.title) for i in page.items] == [
        (f"2401.{n:05d}", n, f"Paper number {n} on quantization") for n in (5, 4, 3, 2, 1)
    ]


def test_search_is_a_list_or_an_object(get: Get) -> None:
    take(item(n) for n in range(1, 31))
    listed = get("/api/papers/search?q=quantization&limit=5")
    found = get("/api/search?q=quantization&limit=5")
    assert listed.said == found.said["hits"]
    assert len(listed.said) == 5
    assert listed.headers["X-Total-Count"] == str(found.said["total"])
    assert "offset=5" in listed.headers["Link"]
    assert {"score", "why", "titleHtml", "snippetHtml"} <= set(listed.said[0]["paperlab"])
    assert listed.said[0]["paper"]["paperlab"]["key"]
    wrong = get("/api/papers/search?q=x&family=nonsense&year=soon&limit=0", 400).said
    assert {error["parameter"] for error in wrong["errors"]} == {"family", "year", "limit"}


def test_related_papers_leave_the_paper_out(get: Get) -> None:
    take(item(n) for n in range(1, 31))
    found = get("/api/papers/2401.00003/related?limit=4").said
    assert len(found) == 4
    assert "2401.00003" not in [row["paper"]["id"] for row in found]


def test_verdicts_and_records_are_those_of_the_files(get: Get, catalogue: None) -> None:
    from paperlab.core import record, verdict

    records = {one.id: one for one in record.read()}
    said = get("/api/papers/easyquant/verdicts").said["verdicts"]
    assert {row["id"] for row in said} == {one.id for one in records.values() if one.paper == "easyquant"}
    for row in said[:3]:
        assert row["word"] == verdict.verdict(records[row["id"]]).word
    listed = get("/api/papers/easyquant/records").said["records"]
    assert {row["id"] for row in listed} == {row["id"] for row in said}
    assert all(arm["samples"] is None for row in listed for arm in row["arms"])
    name = said[0]["id"]
    assert get(f"/api/records/{name}").said["arms"][0]["samples"] is None
    whole = get(f"/api/records/{name}?samples=1").said
    assert whole["arms"][0]["samples"] == records[name].arms[0].samples
    assert whole["verdict"]["id"] == name
    assert "04" in name or get("/api/records/nothere", 404).said["status"] == 404


def test_all_verdicts_page_by_page(get: Get) -> None:
    from paperlab.core.standings import standings

    cursor, found = "", []
    while True:
        answer = get(f"/api/verdicts?limit=7&cursor={cursor}").said
        found += [row["id"] for row in answer["verdicts"]]
        cursor = answer["next_cursor"]
        if not cursor:
            break
    assert found == [
        row.id for row in sorted(standings().current, key=lambda r: (r.started, r.id)) if row.role == "claim"
    ]
    word = standings().current[0].word
    chosen = get(f"/api/verdicts?{urlencode({'word': word})}").said["verdicts"]
    assert {row["word"] for row in chosen} == {word}
    assert len(get("/api/verdicts?all=1&limit=1000").said["verdicts"]) > len(found)


def test_coverage_counts_what_listings_count(get: Get) -> None:
    from paperlab.core.paper import papers

    said = get("/api/coverage").said
    total = said["total"]
    assert total["papers"]["all"] == len(papers())
    assert sum(total["papers"][name] for name in ("runnable", "planned", "nothing_to_run")) == len(papers())
    assert (
        total["claims"]["written"] >= total["claims"]["tried"] >= total["claims"]["finished"] >= total["claims"]["held"]
    )
    assert total["claims"]["held"] > 0
    assert said["unreadable"] == []


def test_exports_hold_everything_and_go_on(get: Get, catalogue: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.api import export

    monkeypatch.setattr(export, "PAGE", 50)
    monkeypatch.setattr(export, "CHUNK", 7)
    take(item(n) for n in range(1, 31))
    for what, key in (("papers", "cursor"), ("records", "id")):
        rows = [json.loads(line) for line in get(f"/api/export/{what}.jsonl").said.splitlines()]
        rest = get(f"/api/export/{what}.jsonl?cursor={rows[60][key]}").said.splitlines()
        assert [row["id"] for row in rows[61:]] == [json.loads(line)["id"] for line in rest]
        assert len({row["id"] for row in rows}) == len(rows)
        assert get(f"/api/export/{what}.jsonl?cursor=nonsense", 400).said["errors"][0]["parameter"] == "cursor"
    assert len(get("/api/export/papers.jsonl").said.splitlines()) == 375 + 30
    from paperlab.core import record

    lines = get("/api/export/records.jsonl?samples=1").said.splitlines()
    assert len(lines) == len(list(record.read())) == len(get("/api/export/verdicts.jsonl").said.splitlines())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_comes_out_as_it_is_stored_and_escaped_on_pages(get: Get, name: str) -> None:
    from paperlab.site.store.models import Paper

    text = HOSTILE[name]
    take([item(1, title=text, abstract=text * 3, authors=[text], sightings=seen(date(2024, 5, 27), 1))])
    row = Paper.objects.get()
    said = get("/api/papers/2401.00001").said
    assert (said["title"], said["summary"], said["authors"][0]["name"]) == (row.title, row.abstract, row.authors[0])
    for address in ("/api/papers", "/api/daily_papers?date=2024-05-27", "/api/search?q="):
        assert row.title in strings(get(address).said)
    assert json.loads(get("/api/export/papers.jsonl").said)["title"] == row.title
    for address in ("/", "/papers/2401.00001"):
        assert "<script>" not in get(address).said


def test_no_link_of_another_scheme_goes_out(get: Get) -> None:
    from paperlab.site.store.models import Paper

    take([item(1)])
    Paper.objects.update(code="javascript:alert(1)")
    assert get("/api/papers/2401.00001").said["paperlab"]["code"] is None
    assert "javascript:" not in get("/papers/2401.00001").said


def strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [s for part in (value.values() if isinstance(value, dict) else value) for s in strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    "address",
    [
        "/api/papers?limit=100",
        "/api/search?limit=100",
        "/api/daily_papers?month=2024-05&limit=100",
        "/api/export/papers.jsonl",
    ],
)
def test_the_number_of_queries_does_not_grow_with_the_answer(get: Get, address: str) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    counts = []
    for numbers in (range(1, 4), range(4, 91)):
        take(item(n, sightings=seen(date(2024, 5, 27), n)) for n in numbers)
        with CaptureQueriesContext(
            connection,
        ) as asked:
            get(address)
        counts.append(len(asked))
    assert counts[0] == counts[1] <= 10


def test_pages_are_there(get: Get, catalogue: None) -> None:
    assert 'rel="next"' in get("/").said
    page = get("/papers/easyquant").said
    assert "Claims, checked here" in page
    get("/papers/nothere", 404)
    get("/papers?cursor=nonsense", 400)
    docs = get("/api/").said
    assert "GET /api/papers/{paper}/related" in docs
    assert "https://" not in docs.replace("https://doi.org", "")  # nothing is loaded from elsewhere
    assert re.findall(r"<script[^>]*>", docs) == re.findall(r'<script src="/static/[^>]*>', docs)
