"""The library: filters of one's own on every list, collections with tags and links, references for other programs."""

import re
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import rispy
from page_check import Page
from test_people import browser, here, member, public  # noqa: F401

pytestmark = pytest.mark.usefixtures("store")
DAY = date(2024, 5, 2)
AT = datetime(2024, 5, 2, tzinfo=UTC)


@pytest.fixture
def papers() -> list[Any]:
    """Eight papers of one day's list and family, numbered 1 to 8: 1, 2 voted for, 2, 3 saved, 3, 4 read, 5 opened."""
    from api_papers import item, seen, take

    from paperlab.site.search import index
    from paperlab.site.store.models import Paper

    take([item(n, title=f"Pruning number {n}", published=AT, sightings=seen(DAY, 100 - n)) for n in range(1, 9)])
    Paper.objects.update(family="pruning")
    index.refresh(meaning=False)
    rows = [Paper.objects.get(arxiv=f"2401.{n:05d}") for n in range(1, 9)]
    one = here()
    for n in (1, 2):
        one.post(f"/papers/2401.{n:05d}/vote")
    for n in (2, 3):
        one.post(f"/papers/2401.{n:05d}/keep", {"new": "Later"})
    for n in (3, 4):
        one.post(f"/papers/2401.{n:05d}/read")
    one.get("/papers/2401.00005")
    return rows


def listed(address: str, one: Any = None) -> list[int]:
    """The numbers of the papers on a page, in its order."""
    answer = (one or here()).get(address)
    assert answer.status_code == 200, address
    page = Page(answer.content.decode())
    assert page.wrong == [], address
    cards = re.findall(r'class="name"><a href="/papers/2401\.(\d+)"', answer.content.decode())
    return [int(number) for number in cards]


LISTS = ("/?date=2024-05-02", "/?month=2024-05", "/trending", "/papers", "/families/pruning", "/search?q=pruning")
WANTED = {
    "mine=voted": {1, 2},
    "mine=saved": {2, 3},
    "mine=read": {3, 4, 5},
    "mine=unread": {1, 2, 6, 7, 8},
    "hide=read": {1, 2, 6, 7, 8},
    "mine=saved&hide=read": {2},
    "mine=nonsense": set(range(1, 9)),
}


@pytest.mark.parametrize("address", LISTS)
def test_every_list_knows_what_is_ones_own(papers: list[Any], address: str) -> None:
    assert set(listed(address)) == set(range(1, 9))
    for asked, wanted in WANTED.items():
        assert set(listed(f"{address}{'&' if '?' in address else '?'}{asked}")) == wanted, asked


def test_a_search_keeps_its_order_and_counts_what_it_shows(papers: list[Any]) -> None:
    text = here().get("/search?q=pruning&mine=saved").content.decode()
    assert "2 papers in" in re.sub(r"\s+", " ", text)
    assert set(listed("/search?sort=date&mine=voted")) == {1, 2}
    assert listed("/search?q=pruning&sort=trending&mine=voted") == [1, 2]
    assert listed("/search?q=2401.00003&hide=read") == []


def test_coverage_knows_them_too() -> None:
    from paperlab.site.store import bundled

    bundled.load()
    one = here()
    one.post("/papers/easyquant/vote")
    one.post("/papers/mova/read")
    for asked, wanted in (("mine=voted", ["easyquant"]), ("mine=read", ["mova"]), ("mine=voted&family=tts", [])):
        text = one.get(f"/coverage?{asked}").content.decode()
        assert re.findall(r'<th scope="row"><a href="/papers/([\w-]+)">', text) == wanted, asked
    assert 'href="?family=quantization&amp;mine=voted#papers"' in one.get("/coverage?mine=voted").content.decode()
    assert "mova" not in one.get("/coverage?hide=read").content.decode().partition('id="papers"')[2]


@pytest.mark.parametrize("address", [*LISTS, "/coverage?family=pruning"])
def test_links_of_a_filtered_list_stay_filtered(papers: list[Any], address: str) -> None:
    """Whichever link of the list's own navigation is followed, the filter is still in the address."""
    page = Page(here().get(f"{address}{'&' if '?' in address else '?'}mine=unread").content.decode())
    path = urlsplit(address).path
    own = [link for link in page.links if urlsplit(link).path in (path, "") and urlsplit(link).query]
    kept = [link for link in own if parse_qs(urlsplit(link).query).get("mine")]
    assert kept
    others = {"voted", "saved", "read", "unread"}
    asked = {parse_qs(urlsplit(link).query)["mine"][0] for link in kept}
    assert others <= asked
    for link in own:  # "All" is the one that takes it away
        query = parse_qs(urlsplit(link).query)
        assert "mine" in query or set(query) == set(parse_qs(urlsplit(address).query)), link


def test_the_next_page_is_of_the_same_filter(papers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.pages import lists

    monkeypatch.setattr(lists, "PAGE", 2)
    for address in ("/?date=2024-05-02", "/papers", "/families/pruning", "/trending"):
        seen, at = [], f"{address}{'&' if '?' in address else '?'}hide=read"
        for _ in range(5):
            seen += listed(at)
            more = re.search(r'rel="next" data-more href="([^"]+)"', here().get(at).content.decode())
            if more is None:
                break
            at = more[1].replace("&amp;", "&")
        assert sorted(seen) == [1, 2, 6, 7, 8], address


@pytest.mark.usefixtures("public")
def test_strangers_see_all_and_are_told(papers: list[Any]) -> None:
    answer = browser().get("/papers?mine=voted")
    assert "Sign in" in answer.content.decode().partition("<main")[2]
    assert set(listed("/papers?mine=voted", browser())) == set(range(1, 9))
    one, other = member("l1@example.org"), member("l2@example.org")
    one.post("/papers/2401.00007/vote")
    assert listed("/papers?mine=voted", one) == [7]
    assert listed("/papers?mine=voted", other) == []
    for address in ("/library", "/library.bib", "/for-you"):
        assert browser().get(address).headers["Location"].startswith("/sign-in?next=")


# -- what is kept of reading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-dest": "image", "sec-fetch-site": "cross-site"},
        {"sec-fetch-dest": "iframe", "sec-fetch-site": "cross-site", "sec-fetch-user": "?1"},
        {"sec-fetch-dest": "document", "sec-fetch-site": "cross-site"},
        {"sec-fetch-dest": "document", "sec-fetch-site": "same-origin", "sec-purpose": "prefetch"},
    ],
)
def test_other_sites_read_nothing_for_anybody(papers: list[Any], headers: dict[str, str]) -> None:
    from paperlab.site.people.models import Read

    before = Read.objects.count()
    here().get("/papers/2401.00008", headers=headers)
    here().head("/papers/2401.00008")
    assert Read.objects.count() == before
    by_hand = {"sec-fetch-dest": "document", "sec-fetch-site": "cross-site", "sec-fetch-user": "?1"}
    here().get("/papers/2401.00008", headers=by_hand)
    assert Read.objects.count() == before + 1


def test_reading_is_noted_unless_it_is_not_wanted(papers: list[Any]) -> None:
    import json

    one = here()
    assert "You opened this page" in one.get("/papers/2401.00005").content.decode()
    one.post("/papers/2401.00005/read", {"on": "0"})
    assert "You opened this page" not in one.get("/papers/2401.00005").content.decode()
    assert 5 in listed("/papers?mine=unread")  # marked as unread, it stays so when it is opened
    said = json.loads(one.get("/account/export.json").content)
    assert {(row["paper"], row["state"]) for row in said["read"]} >= {("2401.00003", "read"), ("2401.00005", "unread")}
    assert said["choices"] == {"remember": True}
    one.post("/library/reading", {"remember": "0"})
    one.get("/papers/2401.00006")
    assert 6 in listed("/papers?mine=unread")
    assert "are not recorded" in one.get("/library").content.decode()
    one.post("/library/reading", {"do": "forget"})
    assert json.loads(one.get("/account/export.json").content)["read"] == []
    one.post("/library/reading", {"remember": "1"})
    one.get("/papers/2401.00006")
    assert listed("/papers?mine=read") == [6]


def test_a_busy_database_does_not_keep_a_page(papers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    from paperlab.site.people.models import Read

    def locked(*args: Any, **named: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(Read.objects, "bulk_create", locked)
    assert here().get("/papers/2401.00008").status_code == 200
    assert 8 in listed("/papers?mine=unread")


# -- collections -------------------------------------------------------------------------------------------------------


def made(name: str = "Later", one: Any = None) -> Any:
    from paperlab.site.people.models import Collection

    return Collection.objects.get(name=name)


def test_notes_tags_and_names(papers: list[Any]) -> None:
    one, row = here(), made()
    where = f"/collections/{row.pk}"
    for number, note, tags in ((2, "to try <b>", "Sparse, 2:4 , sparse"), (3, "", "sparse, наука")):
        answer = one.post(f"{where}/paper", {"paper": f"2401.{number:05d}", "note": note, "tags": tags})
        assert answer.headers["Location"] == where
    text = one.get(where).content.decode()
    assert "to try &lt;b&gt;" in text
    assert Page(text).wrong == []
    assert listed(f"{where}?tag=2:4") == [2]
    assert set(listed(f"{where}?tag=sparse")) == {2, 3}
    assert set(listed("/library?tag=sparse")) == {2, 3}
    assert listed("/library?tag=sparse&mine=voted") == [2]
    one.post(f"{where}/paper", {"paper": "2401.00002", "note": "again", "tags": ""})
    assert listed(f"{where}?tag=2:4") == []
    assert one.post(f"{where}/paper", {"paper": "2401.00002", "tags": "x" * 41}).status_code == 400
    assert one.post(f"{where}/paper", {"paper": "2401.00002", "tags": ",".join(map(str, range(21)))}).status_code == 400
    assert one.post(f"{where}/paper", {"paper": "2401.00007"}).status_code == 404
    assert "again" in one.get(where).content.decode()  # what was refused has lost nothing
    one.post("/collections", {"name": "Other"})
    assert one.post(where, {"name": "Other", "note": ""}).status_code == 400
    assert one.post(where, {"name": " ", "note": ""}).status_code == 400
    assert one.post(where, {"name": "Soon", "note": "a note"}).status_code == 302
    assert made("Soon").note == "a note"


@pytest.mark.usefixtures("public")
def test_a_link_shows_a_collection_until_it_is_ended(papers: list[Any]) -> None:
    from paperlab.site.people.models import Collection

    one, stranger = member("sharer@example.org"), browser()
    one.post("/papers/2401.00001/keep", {"new": "Shared", "note": "see §3", "tags": "sparse"})
    one.post("/papers/2401.00002/keep", {"new": "Shared"})
    row = made("Shared")
    where = f"/collections/{row.pk}"
    assert "/shared/" not in one.get(where).content.decode()
    one.post(where, {"do": "share"})
    link = re.search(r'href="http://localhost(/shared/[^"]+)"', one.get(where).content.decode())[1]  # type: ignore[index]
    assert len(link) > 60
    stored = Collection.objects.values_list("shared", flat=True).get(pk=row.pk)
    assert link not in stored
    assert len(stored) < len(link) - len("/shared/")  # what is stored does not open it
    answer = stranger.get(link)
    text = answer.content.decode()
    assert Page(text).wrong == []
    assert "see §3" in text
    assert "sharer" not in text
    assert "noindex" in answer.headers["X-Robots-Tag"]
    assert "no-store" in answer.headers["Cache-Control"]
    assert set(listed(link, stranger)) == {1, 2}
    assert listed(f"{link}?tag=sparse", stranger) == [1]
    assert stranger.get(f"{link}.bib").content.decode().count("@misc{") == 2
    assert len(rispy.loads(stranger.get(f"{link}.ris").content.decode())) == 2
    for wrong in (link[:-1] + ("0" if link[-1] != "0" else "1"), link + "0", f"/shared/{stored}", "/shared/x"):
        assert stranger.get(wrong).status_code == 404, wrong
    for path in (where, f"{where}.bib", f"{where}/paper"):
        assert stranger.get(path).status_code in (302, 405)
        assert member("other2@example.org").get(path).status_code in (404, 405)
    assert stranger.post(link, {"do": "delete"}).status_code in (403, 405)
    one.post(where, {"do": "unshare"})
    assert stranger.get(link).status_code == 404
    one.post(where, {"do": "share"})
    assert stranger.get(link).status_code == 404  # the new link is another
    one.post("/account/delete", {"word": "delete"})
    assert not Collection.objects.filter(pk=row.pk).exists()


# -- references --------------------------------------------------------------------------------------------------------

HARD = {
    "title": "Attention in $O(n \\log n)$:\nTY  - JOUR & \\emph{more}",
    "abstract": "Line one.\r\nER  - \r\nTY  - BOOK\n\nLine two; 5\\% better.",
    "authors": ["Ludwig van Beethoven", "Plato", "Jean-Luc O'Neil Jr.", "李 明", "De La Cruz, Ana"],
}


def test_references_are_what_their_readers_read(papers: list[Any]) -> None:
    from api_papers import item, take

    take([item(9, **HARD, published=AT, categories=["cs.CL"])])
    one = here()
    one.post("/papers/2401.00009/keep", {"new": "Hard", "note": "first\nER  - \nsecond", "tags": "x, y"})
    row = made("Hard")
    answer = one.get(f"/collections/{row.pk}.ris")
    assert answer.headers["Content-Type"] == "application/x-research-info-systems; charset=utf-8"
    assert 'filename="Hard.ris"' in answer.headers["Content-Disposition"]
    entries = rispy.loads(answer.content.decode())
    assert len(entries) == 1  # nothing in the text begins or ends an entry
    entry = entries[0]
    assert entry["authors"] == ["van Beethoven, Ludwig", "Plato", "Jr., Jean-Luc O'Neil", "明, 李", "De La Cruz, Ana"]
    assert (entry["year"], entry["date"], entry["doi"]) == ("2024", "2024/05/02", "10.48550/arXiv.2401.00009")
    assert entry["urls"] == ["https://arxiv.org/abs/2401.00009"]
    assert entry["keywords"] == ["cs.CL", "x", "y"]
    assert "Line two" in entry["abstract"]
    assert "second" in str(entry["notes"])
    assert len(rispy.loads(one.get("/papers/2401.00009.ris").content.decode())) == 1
    for line in answer.content.decode().split("\r\n"):
        assert re.fullmatch(r"[A-Z][A-Z0-9]  - .*|", line), line


def test_keys_of_one_file_are_each_their_own(papers: list[Any]) -> None:
    text = here().get("/library.bib").content.decode()
    keys = re.findall(r"^@misc\{([^,]+),", text, re.MULTILINE)
    assert len(keys) == 5
    assert len(set(keys)) == 5
    assert here().get("/library.bib?mine=voted").content.decode().count("@misc{") == 2
    assert len(rispy.loads(here().get("/library.ris?mine=saved&hide=read").content.decode())) == 1


def test_zotero_finds_every_fact_on_a_papers_page(papers: list[Any]) -> None:
    """The names that the "Embedded Metadata" translator reads: one tag an author, a date that it can read, absolute
    addresses, and its own name for the kind."""
    from html.parser import HTMLParser

    from api_papers import item, take

    take([item(9, **HARD, published=AT, categories=["cs.CL", "cs.LG"])])
    found: list[tuple[str, str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            known = dict(attributes)
            if tag == "meta" and (known.get("name") or "").startswith(("citation_", "z:")):
                found.append((str(known["name"]), str(known["content"])))

    Reader().feed(here().get("/papers/2401.00009").content.decode().partition("</head>")[0])
    facts = dict(found)
    assert [content for name, content in found if name == "citation_author"] == HARD["authors"]
    assert facts["citation_title"].startswith("Attention in O(n ")
    assert facts["citation_publication_date"] == "2024/05/02"
    assert facts["citation_arxiv_id"] == "2401.00009"
    assert facts["citation_doi"] == "10.48550/arXiv.2401.00009"
    assert facts["citation_pdf_url"] == "https://arxiv.org/pdf/2401.00009"
    assert facts["citation_abstract_html_url"] == "http://localhost/papers/2401.00009"
    assert facts["citation_keywords"] == "cs.CL; cs.LG"
    assert facts["z:itemType"] == "preprint"
    assert "Line two" in facts["citation_abstract"]
    assert len([name for name, _ in found if name != "citation_author"]) == len(facts) - 1


def test_a_published_doi_is_told_before_arxivs(papers: list[Any]) -> None:
    from paperlab.site.pages.citing import doi

    row = papers[0]
    row.extra = {"arxiv": {"doi": "doi:10.1145/3477495.3531889"}}
    assert doi(row) == "10.1145/3477495.3531889"
