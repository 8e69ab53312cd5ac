"""The README badge as it goes out: its words are the page's, it is well formed, small, cached, and says so itself."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.usefixtures("store")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def catalogue(store: None) -> None:
    from paperlab.site.store import bundled

    bundled.load()


def ask(path: str, **headers: str) -> Any:
    from django.test import Client

    return Client(headers={"host": "localhost", **headers}).get(path)


def words_of(answer: Any) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(answer.content).iter(f"{SVG}text")]


def contrast(one: str, other: str) -> float:
    """WCAG's."""

    def light(colour: str) -> float:
        full = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
        parts = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.usefixtures("catalogue")
def test_every_checked_papers_badge_says_what_its_page_says() -> None:
    from paperlab.site.records import record_index, runnable

    known = record_index()
    assert len(known.where) >= 10
    for slug in sorted(runnable()):
        answer = ask(f"/badge/{slug}.svg")
        assert (answer.status_code, answer["Content-Type"]) == (200, "image/svg+xml"), slug
        left, right = words_of(answer)
        assert left == "paperlab"
        page = ask(f"/papers/{slug}").content.decode()
        for word in known.where.get(slug, {}):
            shown = "fails here" if word == "fails" else word
            assert shown in right, f"{slug}: {right}"
            assert shown in page
        assert len(right) <= 75
        assert ElementTree.fromstring(answer.content).get("aria-label", "").startswith("paperlab: ")
        assert len(answer.content) < 2_000


def test_a_failed_claim_fails_here_and_models_are_named_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.pages import readme_badge
    from paperlab.site.records import RecordIndex
    from paperlab.site.store.models import Paper

    row = Paper.objects.create(slug="x", title="A & B <c>", title_key="x")

    def known(where: dict[str, list[str]], outdated: list[str]) -> RecordIndex:
        counts = {word: len(places) for word, places in where.items()}
        return RecordIndex(where={"x": where}, counts={"x": counts}, mains={"x": [{"outdated": outdated}]})

    one = known({"fails": ["tiny"]}, [])
    assert readme_badge.words(row, one) == ("fails here: tiny", "fails here: tiny", "fails")
    long = {"holds": ["a-model-with-a-long-name", "another-with-one"], "fails": ["a-third-with-a-long-name"]}
    short, whole, kind = readme_badge.words(row, known(long, []))
    assert short == "holds (2), fails here (1)"
    assert "another-with-one" in whole
    assert kind == "mixed"
    assert readme_badge.words(row, known({"holds": ["tiny"]}, ["kit/gptq.py changed"]))[0] == "holds: tiny (outdated)"
    monkeypatch.setattr(readme_badge, "record_index", lambda: one)
    answer = ask("/badge/x.svg")
    assert words_of(answer)[1] == "fails here: tiny"
    assert "A & B <c>" in (ElementTree.fromstring(answer.content).findtext(f"{SVG}title") or "")


def test_it_loads_nothing_and_its_colours_are_legible() -> None:
    from paperlab.site.pages import readme_badge
    from paperlab.site.pages.cards import SIGNS

    for kind, _, _ in SIGNS.values():
        drawn = readme_badge.svg("fails here: some-model", "means", kind).decode()
        assert not re.search(r"href|url\(|@import|<style|<script|<image|<foreignObject|class=|style=", drawn)
        assert drawn.count("http") == 1  # the namespace
        grounds = [c for c in re.findall(r'fill="(#\w+)"', drawn) if c != "#fff"]
        assert len(grounds) == 2
        assert all(contrast("#ffffff", ground) >= 4.5 for ground in grounds), (kind, grounds)


def test_it_is_kept_and_asked_about() -> None:
    from paperlab.site.store.models import Paper

    Paper.objects.create(arxiv="math/0601001", title="Old", title_key="old")
    first = ask("/badge/math/0601001.svg")
    assert words_of(first) == ["paperlab", "not checked here"]
    assert first["Cache-Control"] == "public, max-age=300"
    assert first["Cross-Origin-Resource-Policy"] == "cross-origin"
    again = ask("/badge/math/0601001.svg", **{"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "Set-Cookie" not in first


def test_an_unknown_paper_is_a_404_that_is_a_picture() -> None:
    answer = ask("/badge/%3Cscript%3Ealert(1)%3C/script%3E.svg")
    assert (answer.status_code, answer["Content-Type"]) == (404, "image/svg+xml")
    assert words_of(answer) == ["paperlab", "unknown paper"]
    assert b"<script" not in answer.content
    assert ask("/badge/a%00b.svg").status_code == 400


def test_the_page_has_the_lines_to_copy() -> None:
    from paperlab.site.store.models import Paper

    Paper.objects.create(arxiv="2401.00001", title="One", title_key="one")
    page = ask("/papers/2401.00001").content.decode()
    found = re.search(
        r'<pre id="badge-markdown">\[!\[paperlab\]\(http://localhost(\S+?)\)\]\(http://localhost(\S+?)\)<', page
    )
    assert found
    assert ask(found[1]).status_code == 200
    assert ask(found[2]).status_code == 200
