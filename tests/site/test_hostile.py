"""Text that was written to stop the site: a hundred thousand characters and more, read in the time of as many others.

A pattern that looks at each of n places for something up to n characters away takes n * n steps, and the interpreter is
locked meanwhile: no other request is answered.
"""

import contextlib
import gzip
import json
import random
import re
import signal
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from paperlab.site.store import clean
from paperlab.site.store.item import LIMITS, Item, Malformed
from paperlab.site.store.sources import feeds, files, rows
from paperlab.site.store.sources.http import Answer

# What each repeats is the beginning of something whose end never comes, or has many ends.
PIECES = (
    "\\[", "\\(", "$a ", " $a", "$$a", "\\emph{", "\\frac", "\\", "{", "~a",
    "<a", "<", "</a ", "<title", "<a b=", "<a '", "<a '\"", "<!--", "<![CDATA[", "<?", "<!a", "<script>", "<b>",
    "</", "<div>",
    "&", "&a", "&#1", "a", "a-", "a_", "a/", " ", "\n", "\n ", "\r\n", "\t", "\u2028", ", ", " and", ";", "author:\"",
    "authors:\n", "`", "`a", "*", "_a", "[", "[a](", ">", "- ", "\u0301", "\u0315\u0300", "\u1161", ".\"", "#1", "http://",
)  # fmt: skip


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """An error after so long; patterns look for signals while they match."""

    def over(*_: object) -> None:
        raise AssertionError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _maths(value: str) -> Any:
    from paperlab.site.pages import text

    text.plain(value)
    text.beginning(value)
    return text.rich.__wrapped__(value)


def _compounds(value: str) -> Any:
    from paperlab.site.search import document

    return document.compounds(value)


def _query(value: str) -> Any:
    from paperlab.site.search import query

    return list(query._INLINE.finditer(value))


READERS: dict[str, Callable[[str], Any]] = {
    "text": clean.text,
    "paragraphs": clean.paragraphs,
    "indented": lambda value: clean.paragraphs(value, indented=True),
    "title_key": clean.title_key,
    "arxiv_id": clean.arxiv_id,
    "names": clean.names,
    "moment": clean.moment,
    "feed text": feeds._plain,
    "labelled": feeds._labelled,
    "web page": lambda value: Answer("x", 200, {}, value.encode()).excerpt(),
    "format": lambda value: files.sniff(value.encode()),
    "maths": _maths,
    "compounds": _compounds,
    "query": _query,
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_of_text_is_stopped_by_it(tables: None, name: str) -> None:
    for piece in PIECES:
        for value in (piece * (200_000 // len(piece)), "x" + piece * (200_000 // len(piece)) + "x"):
            with within(20), contextlib.suppress(ValueError, Malformed):
                READERS[name](value)


def test_what_is_faster_reads_the_same(tables: None) -> None:
    from paperlab.site.search import document

    draw = random.Random(5)
    for _ in range(3000):
        value = "".join(
            draw.choice("ae\u0301\u0315\u0300\u1100\u1161\u11a8か\u3099가\u09c7\u09be ") for _ in range(400)
        )
        assert clean._normalized("NFC", value) == unicodedata.normalize("NFC", value)
        word = "".join(draw.choice("ab_-. +/") for _ in range(draw.randrange(1, 14)))
        assert document._CHUNK.findall(word) == re.findall(r"\w+(?:[-_.+/]\w+)+", word)


def test_every_field_has_its_limit() -> None:
    """What a file says of a paper, with a million characters in every place, is a paper of a bounded size."""
    long, fields = "y" * 1_000_000, Item.__dataclass_fields__
    numbers = {"author_count", "version", "upvotes", "comments", "stars", "deleted"}
    assert set(fields) - set(LIMITS) - numbers == {"arxiv", "published", "published_day", "updated", "year"}
    row = {
        "id": "2401.00001", "title": "A paper", "ai_summary": long, "ai_keywords": ["k" * 2000] * 500,
        "code": "https://x.org/" + long,
        "categories": [f"c{n}" * 500 for n in range(500)],
        "projectPage": "https://x.org/" + long, "comments": long, "journal-ref": long,
        "license": long, "organization": {"name": long}, "submittedBy": {"fullname": long}, "published": long,
        "versions": [{"version": "v" * 500, "created": "2024-01-01"}] * 5000, "seen_on": [long, "2024-01-02"],
        "authors": [long, {"name": long}], "models": [{"id": f"a/{n}" + "m" * 3000} for n in range(300)],
        "mediaUrls": [f"https://x.org/{n}" for n in range(5000)],
    }  # fmt: skip
    with within(30):
        taken = rows.page([row], "here")
    assert not taken.rejected
    item = taken.items[0]
    assert len(item.upstream_summary) == LIMITS["upstream_summary"][1]
    assert len(item.links) == LIMITS["links"][0]
    assert len(json.dumps(vars(item), default=str)) < 200_000
    for name, value in (("title", "t" * 2_001), ("abstract", long), ("authors", ["A"] * 10_001)):
        refused = rows.page([{"title": "A paper", name: value}], "here").rejected
        assert [name in one.reason for one in refused] == [True]


@pytest.mark.parametrize("form", ["jsonl", "feed"])
def test_a_small_file_that_unfolds_without_end_is_refused(tmp_path: Path, form: str) -> None:
    begun = b'{"title": "A paper"}\n' if form == "jsonl" else b"<rss><channel><title>t</title>"
    folded = tmp_path / "small.gz"
    with gzip.open(folded, "wb") as stream:
        stream.write(begun)
        for _ in range(400):
            stream.write(b" " * 1_000_000)
    assert folded.stat().st_size < 500_000
    with open(folded, "rb") as opened, within(30):
        source = files.source(opened, name=folded.name, form=form)
        pages = list(source.pages({}, {}))
    said = [one.reason for page in pages for one in page.rejected]
    assert any("unfolds" in reason for reason in said), said


def test_a_page_of_hostile_comments_is_made_in_time(tables: None) -> None:
    """Two hundred of them, the most that a page shows, in less than a page may take."""
    from paperlab.site.people.markdown import LIMIT, html

    for piece in ("[", "![", "[a](", "[![", "*a_", "_a", "`a", "[a]: b\n", "a\n", "<a "):
        took = []
        for _ in range(3):  # the least: what else the machine does costs processor time too
            begun = time.process_time()
            html.__wrapped__(piece * (LIMIT // len(piece)))
            took.append(time.process_time() - begun)
        assert 200 * min(took) < 30, piece
