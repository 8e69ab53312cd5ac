"""Feeds, the site map, pictures: read by feedparser, held to what Atom asks for, asked again, found from pages."""

import re
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import feedparser
import pytest
from api_papers import HOSTILE, item, take
from test_pages import Ask, ask, bundled, day, listed  # noqa: F401

from paperlab.core.verdict import WORDS
from paperlab.site.records import record_index

ATOM = "{http://www.w3.org/2005/Atom}"
FEEDS = [
    "/feeds/daily.atom", "/feeds/daily.atom?date=2024-05-27", "/feeds/daily.atom?week=2024-W22",
    "/feeds/daily.atom?month=2024-05", "/feeds/trending.atom", "/feeds/new.atom", "/feeds/checks.atom",
    "/feeds/search.atom?q=quantization", "/feeds/search.atom?q=&author=Author", "/feeds/search.atom?family=asr",
    "/feeds/search.atom?verdict=holds&year=2020-&sort=relevance", "/feeds/author/Author%201.atom",
    "/feeds/family/quantization.atom", "/feeds/family/tts.atom", "/feeds/verdict/holds.atom",
    "/feeds/verdict/holds%20in%20direction.atom", "/feeds/verdict/not%20run.atom", "/feeds/verdict/mixed.atom",
]  # fmt: skip
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@pytest.fixture
def some(bundled: None) -> None:  # noqa: F811
    take([listed(n, day(n % 3), 9 * n) for n in range(1, 20)])
    take(
        [listed(n, day(0), n, title=text, abstract=text, authors=[text]) for n, text in enumerate(HOSTILE.values(), 40)]
    )


def valid(text: bytes) -> ElementTree.Element:
    """What RFC 4287 asks of a feed and its entries."""
    root = ElementTree.fromstring(text)
    assert root.tag == f"{ATOM}feed"
    for one in (root, *root.findall(f"{ATOM}entry")):
        for name in ("id", "title", "updated"):
            assert len(one.findall(f"{ATOM}{name}")) == 1, (one.tag, name)
        # RFC 4151: a name, a year, then what an address may hold
        assert re.fullmatch(r"tag:[a-z.]+,2026:[\w.~!$&'()*+,;=:@%/?-]+", one.findtext(f"{ATOM}id", ""), re.ASCII)
        assert _TIME.fullmatch(one.findtext(f"{ATOM}updated", ""))
        links = one.findall(f"{ATOM}link")
        assert all(link.get("href", "").startswith("http://testserver/") for link in links)
        assert len([link for link in links if link.get("rel", "alternate") == "alternate"]) == 1
    assert [link.get("rel") for link in root.findall(f"{ATOM}link")].count("self") == 1
    assert root.get("{http://www.w3.org/XML/1998/namespace}lang") == "en"
    for entry in root.findall(f"{ATOM}entry"):
        for text in (*entry.findall(f"{ATOM}title"), *entry.findall(f"{ATOM}summary")):
            assert text.get("type", "text") in ("text", "html")
            assert not list(text)
        published, updated = entry.findtext(f"{ATOM}published"), entry.findtext(f"{ATOM}updated", "")
        assert published is None or (_TIME.fullmatch(published) and published <= updated)
        assert all(one.get("term") for one in entry.findall(f"{ATOM}category"))
        assert all((one.findtext(f"{ATOM}name") or "").strip() for one in entry.findall(f"{ATOM}author"))
    assert root.find(f"{ATOM}author") is not None or all(
        e.find(f"{ATOM}author") is not None for e in root.findall(f"{ATOM}entry")
    )
    ids = [entry.findtext(f"{ATOM}id") for entry in root.findall(f"{ATOM}entry")]
    assert len(set(ids)) == len(ids)
    return root


@pytest.mark.parametrize("address", FEEDS)
def test_every_feed_is_valid_and_is_not_sent_twice(ask: Ask, some: None, address: str) -> None:  # noqa: F811
    answer = ask(address)
    assert answer.headers["Content-Type"] == "application/atom+xml; charset=utf-8"
    valid(answer.content)
    read = feedparser.parse(answer.content)
    assert not read.bozo, read.get("bozo_exception")
    assert read.version == "atom10"
    again = ask(address, 304, headers={"if-none-match": answer.headers["ETag"]})
    assert again.content == b""
    assert valid(ask(address).content).findtext(f"{ATOM}updated") == read.feed.updated  # the same while nothing changes
    take([listed(90, day(2), 5)])
    assert ask(address, headers={"if-none-match": answer.headers["ETag"]}).content


def test_ids_stay_when_a_paper_changes(ask: Ask, store: None) -> None:  # noqa: F811
    take([listed(1, day(0), 5)])
    before = valid(ask("/feeds/new.atom").content).find(f"{ATOM}entry")
    take([listed(1, day(1), 50, title="Another title", as_of="2024-07-01")])
    after = valid(ask("/feeds/new.atom").content).find(f"{ATOM}entry")
    assert before is not None
    assert after is not None
    assert before.findtext(f"{ATOM}id") == after.findtext(f"{ATOM}id") == "tag:localhost,2026:paper/2401.00001"
    assert before.findtext(f"{ATOM}title") != after.findtext(f"{ATOM}title")


def test_feeds_hold_what_their_pages_hold(ask: Ask, some: None) -> None:  # noqa: F811
    read = feedparser.parse(ask("/feeds/daily.atom?date=2024-05-28").content)
    links = [link for link in ask("/?date=2024-05-28").page.links if link.startswith("/papers/2401")]
    assert [entry.link.removeprefix("http://testserver") for entry in read.entries] == list(dict.fromkeys(links))
    checks = feedparser.parse(ask("/feeds/checks.atom").content)
    mains = record_index().mains
    newest = max(mains, key=lambda slug: max(row["started"] for row in mains[slug]))
    assert any(f"/papers/{newest}#record-" in entry.link for entry in checks.entries)  # a feed holds the newest
    words = {entry.tags[-1].term for entry in checks.entries}
    assert words <= set(WORDS)
    assert len(words) >= 2


@pytest.mark.parametrize(
    "address", ["/", "/trending", "/papers", "/families/tts", "/coverage", "/search?q=a%26b+%22c%22&verdict=holds"]
)
def test_pages_name_their_feed(ask: Ask, bundled: None, address: str) -> None:  # noqa: F811
    found = re.search(
        r'<link rel="alternate" type="application/atom\+xml" title="[^"]*" href="([^"]+)">',
        ask(address).content.decode(),
    )
    assert found
    from html import unescape

    valid(ask(unescape(found[1])).content)


@pytest.mark.parametrize("address", ["/feeds/family/nope.atom", "/feeds/verdict/perhaps.atom", "/feeds/nothing.atom"])
def test_there_is_no_other_feed(ask: Ask, address: str) -> None:  # noqa: F811
    ask(address, 404)


def test_bad_feeds_say_so(ask: Ask) -> None:  # noqa: F811
    ask("/feeds/daily.atom?date=x", 400)
    ask("/feeds/search.atom?year=x", 400)


def test_a_store_without_papers_has_feeds_without_entries(ask: Ask) -> None:  # noqa: F811
    for address in FEEDS:
        if "checks" not in address:
            assert len(valid(ask(address).content).findall(f"{ATOM}entry")) == 0


def test_the_site_map_holds_every_paper_and_page(ask: Ask, some: None) -> None:  # noqa: F811
    from paperlab.site.store.models import Paper

    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    index = ElementTree.fromstring(ask("/sitemap.xml").content)
    found: list[str] = []
    for place in index.iter(f"{space}loc"):
        piece = ElementTree.fromstring(ask((place.text or "").removeprefix("http://testserver")).content)
        found += [loc.text or "" for loc in piece.iter(f"{space}loc")]
    assert len(set(found)) == len(found)
    assert len([one for one in found if "/papers/" in one]) == Paper.objects.count()
    assert f"http://testserver/papers/{quote('easyquant')}" in found
    ask("/sitemap-999.xml", 404)
    assert "Sitemap: http://testserver/sitemap.xml" in ask("/robots.txt").content.decode()
    ElementTree.fromstring(ask("/opensearch.xml").content)


def test_a_shared_paper_has_a_picture_and_words(ask: Ask, bundled: None) -> None:  # noqa: F811
    import io

    from PIL import Image

    text = ask("/papers/easyquant").content.decode()
    told: dict[str, Any] = dict(re.findall(r'<meta property="(og:[\w:]+)" content="([^"]*)">', text))
    assert told["og:title"].startswith("EasyQuant")
    assert told["og:image"] == "http://testserver/papers/easyquant/card.png"
    assert (
        '<link rel="canonical" href="http://testserver/papers/easyquant">' in ask("/papers/2403.02775").content.decode()
    )
    picture = ask("/papers/easyquant/card.png")
    assert Image.open(io.BytesIO(picture.content)).size == (1200, 630)
    assert len(picture.content) < 100_000
    ask("/papers/easyquant/card.png", 304, headers={"if-none-match": picture.headers["ETag"]})
    ask("/papers/nope/card.png", 404)
    take([item(1, title="日本語のタイトル", authors=["田中"], published=None)])
    ask("/papers/2401.00001/card.png")
