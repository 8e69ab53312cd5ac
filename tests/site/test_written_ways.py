"""One thing written in many ways, as sources and readers write it: ids, names, days, titles, words with a sign."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from api_papers import item, take

WAYS = [
    "2303.08774", "2303.08774v2", "https://doi.org/10.48550/arXiv.2303.08774", "doi:10.48550/arXiv.2303.08774",
    "DOI: 10.48550/ARXIV.2303.08774", "10.48550/arXiv.2303.08774", "doi.org/10.48550/arXiv.2303.08774v2",
    "http://dx.doi.org/10.48550/arXiv.2303.08774", "arxiv.org/abs/2303.08774", "www.arxiv.org/pdf/2303.08774v2.pdf",
    "arXiv: 2303.08774", "arXiv 2303.08774", "arXiv:2303.08774v2 [cs.CL]", "arXiv:2303.08774v2  [cs.CL]  15 Mar 2023",
    "https://ar5iv.org/abs/2303.08774", "ar5iv.labs.arxiv.org/html/2303.08774", "hf.co/papers/2303.08774",
    "huggingface.co/papers/2303.08774", "https://www.alphaxiv.org/abs/2303.08774?x=1", "oai:arXiv.org:2303.08774",
]  # fmt: skip
NO_IDS = ["10.48550/2303.08774", "https://evil.example/arxiv.org/abs/2303.08774", "x2303.08774", "arXiv:2303.08774 x",
          "2313.08774", "https://arxiv.org.evil.example/abs/2303.08774", "2303.08774 [", "arXiv:"]  # fmt: skip


@pytest.mark.parametrize("text", WAYS)
def test_an_id_is_known_however_it_is_pasted(text: str, store: None) -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    from paperlab.core import paper
    from paperlab.site.people import actions
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search
    from paperlab.site.store.sources import rows

    take([item(1, arxiv="2303.08774", title="A report"), item(2)])
    (hit,) = search(Query(text)).hits
    assert hit.why.exact == "arXiv id"
    assert actions.submit(User.objects.create_user("x"), text).title == "A report"
    assert rows.item({"title": "T", "arxiv": text}, "x").arxiv == "2303.08774"
    page = Client(SERVER_NAME="localhost").get("/search", {"q": text}).content.decode()
    assert "Paper number 2" not in page
    assert paper.arxiv_id(text.partition("?")[0]) == "2303.08774"


@pytest.mark.parametrize("text", NO_IDS)
def test_what_only_looks_like_an_id_is_none(text: str) -> None:
    from paperlab.site.store import clean

    assert clean.arxiv_id(text) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A. Einstein (1), B. Podolsky (2), N. Rosen (1) ((1) Princeton, NJ, (2) Institute, Rome)",
         ["A. Einstein", "B. Podolsky", "N. Rosen"]),
        ("Jane Doe (University of X, Rome), John Roe", ["Jane Doe", "John Roe"]),
        ("The LHC Team: Jane Doe, John Roe", ["The LHC Team", "Jane Doe", "John Roe"]),
        ("John Smith, Jr., Ann Lee and Bob Ray, III", ["John Smith, Jr.", "Ann Lee", "Bob Ray, III"]),
        ("Jane Doe (for the ATLAS Collaboration)", ["Jane Doe", "ATLAS Collaboration"]),
        ("ATLAS and CMS Collaborations, Jane Doe", ["ATLAS and CMS Collaborations", "Jane Doe"]),
        ("Robert (Bob) Smith and Jane Doe", ["Robert (Bob) Smith", "Jane Doe"]),
        ("Jane Doe (Rome, John Roe", ["Jane Doe (Rome", "John Roe"]),
        ("Jane Doe (1,2) and John Roe (3)", ["Jane Doe", "John Roe"]),
        ('<a href="http://arxiv.org/find/cs/1/au:+Doe_J">Jane Doe</a>, <a href="x">John Roe</a>',
         ["Jane Doe", "John Roe"]),
        ("Jos&eacute; &lt;b&gt;Garc&#237;a&lt;/b&gt;; Ann Lee", ["José García", "Ann Lee"]),
        (["A. Einstein (1)", {"name": "<b>Jane</b> Doe (Rome, Italy)"}, "x < y"], ["A. Einstein", "Jane Doe", "x < y"]),
        ([], []),
    ],
)  # fmt: skip
def test_names_are_split_where_they_end(text: object, names: list[str]) -> None:
    from paperlab.site.store import clean

    assert clean.names(text) == names


@pytest.mark.parametrize("text", ["(" * 100_000, "a ()" * 50_000, "<a" * 100_000, "a," + " " * 100_000, "a (" * 50_000])
def test_a_hostile_line_of_names_takes_no_time(text: str) -> None:
    import time

    from paperlab.site.store import clean

    begun = time.perf_counter()
    clean.names(text)
    assert time.perf_counter() - begun < 2


def test_affiliations_leave_the_names_and_stay_in_the_store(store: None) -> None:
    from paperlab.site.store.sources import arxiv_oai

    raw = "A. Einstein (1), N. Rosen (2) ((1) Princeton, NJ, (2) Rome)"
    content = (
        "<OAI-PMH><record><header><identifier>oai:arXiv.org:0706.0001</identifier><datestamp>2024-01-01</datestamp>"
        f"</header><metadata><arXivRaw><id>0706.0001</id><authors>{raw}</authors><title>T</title></arXivRaw></metadata>"
        "</record></OAI-PMH>"
    )
    (paper,) = arxiv_oai.read(content.encode(), "x").page.items
    assert paper.authors == ["A. Einstein", "N. Rosen"]
    assert paper.extra["authors"] == raw


@pytest.mark.parametrize(
    ("row", "day", "year", "unread"),
    [
        ({"published": 2024}, None, 2024, None),
        ({"published": 2024.0}, None, 2024, None),
        ({"date": 20240501}, date(2024, 5, 1), 2024, None),
        ({"date": "20240501"}, date(2024, 5, 1), 2024, None),
        ({"date": "2024-05"}, None, 2024, None),
        ({"year": "2024"}, None, 2024, None),
        ({"year": 2023, "published": "2024-05-01"}, date(2024, 5, 1), 2024, None),
        ({"published": 1714521600}, date(2024, 5, 1), 2024, None),
        ({"published": 1714521600000}, date(2024, 5, 1), 2024, None),
        ({"published": 20241399}, None, None, {"published": "20241399"}),
        ({"published": 12}, None, None, {"published": "12"}),
        ({"published": 3024}, None, None, {"published": "3024"}),
        ({"published": True}, None, None, {"published": "True"}),
    ],
)  # fmt: skip
def test_a_number_is_a_year_a_day_or_seconds(
    row: dict[str, Any], day: date | None, year: int | None, unread: Any, store: None
) -> None:
    from paperlab.site.store.models import Paper
    from paperlab.site.store.sources import rows

    found = rows.item({"title": "T", **row}, "x")
    assert found.extra.get("unread") == unread
    take([found.checked()], "jsonl")
    paper = Paper.objects.get()
    assert (paper.published, paper.year) == (day, year)
    take([rows.item({"title": "T", **row}, "x").checked()], "jsonl")
    again = Paper.objects.get()
    assert (again.year, again.revision) == (year, paper.revision)


def test_the_old_rss_of_arxiv_gives_title_version_and_names() -> None:
    from paperlab.site.store.sources import feeds

    content = """<?xml version="1.0"?><rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/"><channel>
    <item><title>A Title. (arXiv:2101.00001v2 [cs.CL] UPDATED)</title><link>http://arxiv.org/abs/2101.00001</link>
    <description>&lt;p&gt;Text.&lt;/p&gt;</description>
    <dc:creator>&lt;a href="http://arxiv.org/find/cs/1/au:+Doe_J"&gt;Jane Doe&lt;/a&gt;,
    &lt;a href="http://arxiv.org/find/x"&gt;John Roe&lt;/a&gt;</dc:creator></item>
    <item><title>Sets (arXiv of old)</title><link>https://example.org/a</link></item></channel></rss>"""
    first, second = feeds.read(content.encode(), "x").items
    assert (first.title, first.arxiv, first.version) == ("A Title", "2101.00001", 2)
    assert first.authors == ["Jane Doe", "John Roe"]
    assert first.categories == ["cs.CL"]
    assert second.title == "Sets (arXiv of old)"


TITLES = {
    1: "C# and F# Programs in the Wild", 2: "C++ Code Generation with Language Models",
    3: "A* Search Without Expansions", 4: "Search in Large Spaces", 5: "A Study of C Programs",
    6: "Qwen2.5 Technical Report", 7: "Notes on qwen and 2.5 bits", 8: "LoRA+: Efficient Low Rank Adaptation",
    9: "LoRA: Low Rank Adaptation", 10: "Q* for Planning", 11: "GPT-4 Report",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "first"),
    [("C++", 2), ("c++ code", 2), ("C#", 1), ("A*", 3), ("a* search", 3), ("F#", 1), ("LoRA+", 8), ("Q*", 10),
     ("qwen 2.5", 6), ("gpt 4", 11), ("GPT-4", 11)],
)  # fmt: skip
def test_a_sign_makes_a_name(text: str, first: int, store: None) -> None:
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    take([item(number, title=title, abstract="Programs. " * 9) for number, title in TITLES.items()])
    from paperlab.site.store.models import Paper

    titles = dict(Paper.objects.values_list("pk", "title"))
    found = [titles[hit.paper] for hit in search(Query(text)).hits]
    assert found[0] == TITLES[first]
    if text in ("C++", "C#", "A*"):  # sorted by day only papers with the name are listed
        assert {titles[hit.paper] for hit in search(Query(text, sort="date")).hits} == {TITLES[first]}


def test_seconds_since_1970_are_still_read() -> None:
    from paperlab.site.store import clean

    assert clean.moment(1e9) == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
