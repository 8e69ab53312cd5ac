"""The pages, asked in this process: what they show, what they refuse, what they never let through."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from html import escape
from typing import Any
from urllib.parse import urlencode

import pytest
from api_papers import HOSTILE, item, seen, take
from page_check import Page

from paperlab.core import standings
from paperlab.site import records
from paperlab.site.records import record_index

Ask = Callable[..., Any]
ALL = [
    "/", "/trending", "/papers", "/families", "/families/quantization", "/search", "/search?q=quantization",
    "/search?q=quantization&verdict=holds&year=2020-&runnable=1&sort=date", "/search?q=quantizatoin",
    "/search?q=zzzqqq&family=tts", "/papers/easyquant", "/papers/mova", "/papers/quantization-controls", "/compare",
    "/compare/compression", "/compare/quantization", "/compare/quantization?at=time",
    "/compare/quantization?at=quality",
    "/compare/quantization?sort=-bytes", "/compare/quantization?bits=4&show=dominated", "/compare/tts", "/coverage",
    "/coverage?family=quantization&state=checked", "/about", "/feeds", "/api/",
]  # fmt: skip


@pytest.fixture
def ask(store: None) -> Iterator[Ask]:
    """ask(address, status) gives the answer after looking at what every answer must have."""
    from django.conf import settings
    from django.test import Client, override_settings

    with override_settings(ALLOWED_HOSTS=[*settings.ALLOWED_HOSTS, "testserver"]):
        client = Client(raise_request_exception=False)

        def get(address: str, *status: int, **more: Any) -> Any:
            answer = client.get(address, **more)
            assert answer.status_code in (status or (200,)), (address, answer.status_code)
            policy = answer.headers["Content-Security-Policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                page = Page(answer.content.decode())
                assert page.wrong == [], address
                answer.page = page
            return answer

        yield get


@pytest.fixture
def bundled(store: None) -> None:
    from paperlab.site.store import bundled

    bundled.load()


@pytest.mark.parametrize("address", ALL)
def test_every_page_is_whole_and_its_own_links_lead_somewhere(ask: Ask, bundled: None, address: str) -> None:
    if address == "/papers/quantization-controls":
        ask(address, 404)  # records without a paper have no page
        return
    answer = ask(address)
    assert len(answer.content) < 500_000
    assert {"main", "keys"} <= set(answer.page.ids)
    inside = {link.partition("#")[2] for link in answer.page.links if link.startswith("#")}
    assert inside <= set(answer.page.ids)
    for link in [link for link in dict.fromkeys(answer.page.links) if link.startswith("/")][:25]:
        if not link.startswith(("/feeds", "/search")):
            ask(link.partition("#")[0])


def test_a_first_start_is_full_and_shows_what_was_checked(ask: Ask, bundled: None) -> None:
    text = ask("/").content.decode()
    assert text.count("data-card") == 30
    assert "Recently checked" in text
    checked = len(record_index().mains)
    first = [card.split("</article>")[0] for card in text.split("data-card")[1 : min(checked, 30) + 1]]
    assert checked > 5
    assert all('class="badge' in card for card in first)  # what was run leads
    assert f"<h1>{checked} papers checked</h1>" in text
    shown = [link for link in ask("/").page.links + ask("/?from=30").page.links if link.startswith("/papers/")]
    assert len(set(shown)) >= 60  # none twice, none left out where the checked end
    assert text.count('class="badge holds"') >= 3
    assert "More papers" in text


def test_a_card_leads_to_what_the_paper_has(ask: Ask) -> None:
    links = [{"kind": "model", "url": "https://models.example/a"}, {"kind": "model", "url": "https://models.example/b"}]
    links.append({"kind": "project", "url": "javascript:alert(1)"})
    facts = {"code": "https://code.example/x", "stars": 1234, "links": links, "keywords": ["sparse <b>"]}
    take([listed(1, day(0), 5, extra={"organization": "A & B Lab"}, **facts)])
    text = ask("/?date=2024-05-27").content.decode()
    for what in (
        'href="https://arxiv.org/abs/2401.00001"', 'href="https://arxiv.org/pdf/2401.00001"',
        'href="https://code.example/x"', "code ★ 1,234", 'href="https://models.example/a"', "model +1",
        "A &amp; B Lab", "sparse &lt;b&gt;", 'title="0 on this site, 5 on daily lists"',
    ):  # fmt: skip
        assert what in text, what
    assert "javascript:" not in text


def test_the_main_claim_stands_first_with_its_figures(ask: Ask, bundled: None) -> None:
    text = ask("/papers/easyquant").content.decode()
    rows = record_index().mains["easyquant"]
    begin = text.index('class="result"')
    table = text[begin : text.index("</header>", begin)]
    assert text.index("</h1>") < text.index('class="result"') < text.index("What the paper claims")
    for row in rows:
        assert row["model"] in table
        assert row["figures"] in table
    claim = text.index('id="claims"')
    assert text.index('class="claim', claim) < text.index(escape(rows[0]["says"][:40]), claim)


def day(n: int) -> date:
    return date(2024, 5, 27) + timedelta(n)


def listed(n: int, on: date, votes: int, **facts: Any) -> Any:
    at = datetime(on.year, on.month, on.day, tzinfo=UTC)
    return item(n, published=at, sightings=seen(on, votes), **facts)


def test_the_main_table_says_the_level_that_its_reasons_say(ask: Ask, bundled: None) -> None:
    """95 %, and 90 % where a check expects equality or no loss: BitNet's."""
    levels = {}
    for slug, rows in record_index().mains.items():
        told = {level for row in rows for level in re.findall(r"(\d+) % interval", row["reason"])}
        header = re.search(r"gain over the baseline \[(\d+)&nbsp;% interval\]", ask(f"/papers/{slug}").content.decode())
        assert header, slug
        assert told <= {header[1]}, slug
        levels[slug] = header[1]
    assert set(levels.values()) == {"90", "95"}
    assert levels["bitnet-1-58-bottom-up"] == "90"


def test_a_day_holds_its_list_by_votes_then_what_was_published_in_it(ask: Ask) -> None:
    take([listed(1, day(0), 5), listed(2, day(0), 50), listed(3, day(1), 7)])
    take([item(4, published=datetime(2024, 5, 27, tzinfo=UTC))], "arxiv")
    links = [link for link in ask("/?date=2024-05-27").page.links if link.startswith("/papers/")]
    assert links[:3] == ["/papers/2401.00002", "/papers/2401.00001", "/papers/2401.00004"]
    assert "/?date=2024-05-28" in ask("/?date=2024-05-27").page.links
    assert "/?date=2024-05-27" in ask("/?date=2024-05-28").page.links
    for address in ("/?week=2024-W22", "/?month=2024-05"):
        found = {link for link in ask(address).page.links if link.startswith("/papers/2401")}
        assert found == {f"/papers/2401.0000{n}" for n in range(1, 5)}
    text = ask("/").content.decode()
    assert "Tuesday 28 May 2024" in text
    assert "Today has no papers yet" in text


def test_a_long_list_is_read_page_by_page_without_a_gap(ask: Ask) -> None:
    take([listed(n, day(0), 1000 - n) for n in range(1, 71)])
    found: list[str] = []
    address = "/?date=2024-05-27"
    while address:
        page = ask(address).page
        found += [link for link in page.links if link.startswith("/papers/2401")]
        address = next((link for link in page.links if "from=" in link), "")
    assert found == [f"/papers/2401.{n:05d}" for n in range(1, 71)]


@pytest.mark.parametrize(
    "address",
    ["/?date=2024-13-01", "/?date=yesterday", "/?week=2024-W54", "/?month=0000-01", "/?date=2024-05-01&week=2024-W01",
     "/?date=9999-99-99", "/?date=２０２４-05-27", "/search?year=soon", "/search?verdict=maybe", "/papers?cursor=x"],
)  # fmt: skip
def test_what_cannot_be_meant_is_said(ask: Ask, address: str) -> None:
    said = ask(address, 400).content.decode()
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "address", ["/?from=-1", "/?from=99999999999", "/?from=x", "/?date=0001-01-01", "/?date=9999-12-31"]
)
def test_odd_places_are_empty_not_broken(ask: Ask, address: str) -> None:
    take([listed(1, day(0), 5)])
    ask(address)


def test_trending_follows_the_formula(ask: Ask) -> None:
    take([listed(1, day(0), 100), listed(2, day(-30), 100), listed(3, day(0), 10)])
    links = [link for link in ask("/trending").page.links if link.startswith("/papers/2401")]
    assert links == ["/papers/2401.00001", "/papers/2401.00003", "/papers/2401.00002"]


def test_search_marks_counts_explains_and_mends(ask: Ask, bundled: None) -> None:
    answer = ask("/search?q=outliers in quantization")
    text = answer.content.decode()
    assert any(word.lower().startswith("quantiz") for word in answer.page.marked)
    assert "Why this result" in text
    assert "words " in text
    assert 'name="family" value="quantization"' in text
    mended = ask("/search?q=quantizatoin").content.decode()
    assert "Showing papers for <strong>quantization</strong>" in mended
    empty = ask("/search?q=zzzqqq&family=tts").content.decode()
    assert "Nothing found" in empty
    assert "/search?q=zzzqqq" in ask("/search?q=zzzqqq&family=tts").page.links  # without the filter
    wrong = ask("/search?family=nope", 400).content.decode()
    assert "one of: alignment" in wrong


def test_filters_written_into_the_words_are_filters(ask: Ask, bundled: None) -> None:
    text = ask("/search?q=family:quantization verdict:holds").content.decode()
    assert 'value="holds" checked' in text
    assert "/search?verdict=holds" in text.replace("&amp;", "&")


def test_a_paper_with_records_shows_claims_intervals_and_the_command(ask: Ask, bundled: None) -> None:
    text = ask("/papers/baq").content.decode()
    for said in ("Our check:", "Difference from the paper:", "paperlab run baq", 'class="plot"', "epyc-2c-24g",
                 "commit <code>", "Written from the abstract and the authors' code", 'paperlab.load("baq"', "@misc{",
                 "The main claim, checked here", "Related papers"):  # fmt: skip
        assert escape(said) in text or said in text, said
    assert "where our code differs" in text.lower()
    row = record_index().mains["baq"][0]
    assert row["figures"].startswith(row["metric"].replace("_", " "))
    assert row["figures"] in text


def test_a_paper_whose_checks_are_all_questions_shows_them(ask: Ask, bundled: None) -> None:
    """Nothing of it is a claim that could be tested; it must not read as if no check were written."""
    text = ask("/papers/interlayer-hessian-mixed-precision").content.decode()
    assert "None of the paper&#x27;s own claims" in text or "None of the paper's own claims" in text
    assert "Written from the paper&#x27;s abstract alone" in text
    assert "paperlab run interlayer-hessian-mixed-precision" in text
    assert "No check is written" not in text


def test_a_verdict_whose_code_changed_says_so(ask: Ask, bundled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standings, "outdated", lambda entry, check: ("kit/grid.py changed",))
    monkeypatch.setattr(records, "_now", records.RecordIndex())
    text = ask("/papers/baq").content.decode()
    monkeypatch.setattr(records, "_now", records.RecordIndex())
    assert '<span class="badge outdated" title="kit/grid.py changed">' in text


def test_names_of_a_paper_lead_to_it(ask: Ask, bundled: None) -> None:
    take([item(1, arxiv="math/0601001"), item(2)])
    ask("/papers/math/0601001")
    ask("/papers/2403.02775")
    for name, target in (
        ("2401.00002v3", "/papers/2401.00002"),
        ("https://arxiv.org/abs/2401.00002v1", "/papers/2401.00002"),
        ("math.AG/0601001", "/papers/math/0601001"),
    ):
        answer = ask(f"/papers/{name}", 302)
        assert answer.headers["Location"] == target


@pytest.mark.parametrize(
    "name",
    ["//evil.example", "https://evil.example/2401.00001", "..%2f..%2fetc%2fpasswd", "~", "~99999999999999999999",
     "~-1", "a" * 5000, "<script>alert(1)</script>", "%ff%fe", "{{7*7}}"],
)  # fmt: skip
def test_other_names_lead_nowhere(ask: Ask, name: str) -> None:
    answer = ask(f"/papers/{name}", 404)
    assert "<script>alert" not in answer.content.decode()


def test_authors_beyond_twelve_are_folded(ask: Ask) -> None:
    take([item(1, authors=[f"Person {n}" for n in range(40)])])
    text = ask("/papers/2401.00001").content.decode()
    assert "and 28 more" in text


BAD_ADDRESSES = [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "data:text/html,<script>alert(1)</script>",
    "vbscript:x", "https:\\\\evil.example", "//evil.example", "file:///etc/passwd", 'https://x/"onmouseover=alert(1)',
]  # fmt: skip


@pytest.mark.parametrize(
    "text", [*HOSTILE.values(), *BAD_ADDRESSES, '"><img src=x onerror=alert(1)>', "${{<%[%'\"}}%\\"]
)
def test_nothing_from_outside_becomes_markup(ask: Ask, text: str) -> None:
    """Straight into the store, past the importers' own cleaning: the pages may not rely on it."""
    from paperlab.site.store.models import Paper

    take([listed(1, day(0), 5)])
    Paper.objects.update(
        title=text, abstract=f"{text}\n\n{text}", authors=[text] * 14, code=text, links=[{"url": text, "kind": text}],
        upstream_summary=text, keywords=[text], categories=[text], versions=[{"version": text, "created": text}],
        slug=None,
    )  # fmt: skip
    for address in ("/?date=2024-05-27", "/papers", "/trending", "/papers/2401.00001", "/search", "/search?q=study"):
        page = ask(address).page
        for link in page.links:
            if "evil" in link:
                assert link.startswith(("/search?", "http")), link
        assert not any(link.strip().lower().startswith(("javascript", "data", "//")) for link in page.links)
    told = urlencode(dict.fromkeys(("date", "cursor", "from", "at", "sort", "state", "family"), text))
    for place in ("/", "/papers", "/compare/quantization", "/coverage", "/trending"):
        ask(f"{place}?{told}", 200, 400)
    for name in ("q", "author", "family", "category", "year", "sort", "limit"):
        ask(f"/search?{urlencode({name: text})}", 200, 400)


def test_the_number_of_queries_does_not_grow_with_the_list(ask: Ask) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    addresses = ("/?date=2024-05-27", "/papers", "/trending", "/search?q=quantization", "/papers/2401.00001")
    counts: list[list[int]] = []
    for numbers in (range(1, 4), range(4, 31)):
        take([listed(n, day(0), n) for n in numbers])
        ask("/search?q=quantization")  # takes the new ones into the index
        ask("/papers/2401.00001")  # notes that it was opened, once
        counts.append([])
        for address in addresses:
            with CaptureQueriesContext(connection) as asked:
                ask(address)
            counts[-1].append(len(asked))
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 16, dict(zip(addresses, counts[0], strict=True))


def test_static_files_are_kept_for_ever_and_lead_nowhere_else(ask: Ask) -> None:
    from paperlab.site.pages.static_files import address

    kept = ask(address("pages/site.css"), headers={"accept-encoding": "gzip"})
    assert "immutable" in kept.headers["Cache-Control"]
    assert kept.headers["Content-Encoding"] == "gzip"
    again = ask(
        address("pages/site.css"), 304, headers={"accept-encoding": "gzip", "if-none-match": kept.headers["ETag"]}
    )
    assert again.content == b""
    assert "immutable" not in ask("/static/pages/site.css").headers["Cache-Control"]
    for path in ("../settings.py", "pages/../../../settings.py", "%2e%2e/settings.py", "/etc/passwd", "pages", "pages/",
                 "pages/none.css", "%00", "..%5csettings.py"):  # fmt: skip
        assert b"SECRET_KEY" not in ask(f"/static/{path}", 400, 404).content


def test_errors_are_pages_too(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.pages import lists

    assert "Page not found" in ask("/nowhere", 404).content.decode()

    def broken(*_: Any) -> None:
        raise RuntimeError("a secret in the message")

    monkeypatch.setattr(lists.feed, "places", broken)
    text = ask("/?date=2024-05-27", 500).content.decode()
    assert "Internal error" in text
    assert "secret" not in text


def test_figures_of_a_family_come_as_csv(ask: Ask) -> None:
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(ask("/compare/quantization.csv").content.decode())))
    assert len(rows) > 40
    assert {"arm", "value", "bytes", "records", "machine"} <= set(rows[0])
    ask("/compare/nope.csv", 404)
    ask("/compare/nope", 404)


def test_coverage_has_honest_denominators(ask: Ask, bundled: None) -> None:
    from paperlab.core.paper import papers

    text = ask("/coverage?state=all").content.decode()
    assert f"Papers 1 to 20 of {len(papers())}" in text
    listed: list[str] = []
    address = "/coverage?state=all"
    while address:
        links = ask(address).page.links
        listed += [link for link in links if link.startswith("/papers/")]
        address = next((f"/coverage{link}" for link in links if f"from={len(listed)}#" in link), "")
    assert sorted(listed) == sorted(f"/papers/{slug}" for slug in papers())  # page by page, each of them once
    from paperlab.site.records import coverage

    total = coverage()["total"]["claims"]
    assert f"{total['held']} of {total['tried']} checked claims held in every setting" in text
    shown = {link for link in ask("/coverage?state=planned").page.links if link.startswith("/papers/")}
    assert shown
    assert "/papers/easyquant" not in shown
