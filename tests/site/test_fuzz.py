"""Hostile files: cut, mixed up, wrongly encoded, huge, nested, absurd. tests/fuzz/readers.py goes on for hours."""

import gzip
import io
import json
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import read
from samples import samples

FORMS = ("listing", "jsonl", "json", "arxiv-api", "arxiv-oai", "feed")
NASTY = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f\xa6\x84", b"\xe2\x80\xae", b"\r"),
    *(
        b"<![CDATA[",
        b"]]>",
        b"<!--",
        b"&#0;",
        b"&#x1F;",
        b"&nbsp;",
        b"&lt;script&gt;",
        b"<script>",
        b"\\u0000",
        b"\\ud800",
    ),
    *(b"</", b"<title>", b"<entry>", b"{", b"[", b'"', b"\\", b"1e999", b"-1", b"NaN", b"0001-01-01", b"9999-99-99"),
    *(b"encoding='utf-7'", b"encoding='none'", b"\n\n", b"12 authors", b"2401.00001", b"$\\alpha$", b"x" * 5000),
)
QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**32))
@QUICK
def test_damaged_documents(form, seed):
    rng = random.Random(seed)
    content = rng.choice([content for of, content in samples() if of == form])
    for _ in range(rng.randrange(1, 6)):
        at, to = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        how = rng.randrange(4)
        if how == 0:
            content = content[:at] + rng.choice(NASTY) + content[at:]
        elif how == 1:
            content = content[:at] + content[min(to, at + rng.choice((1, 30, 3000))) :]
        elif how == 2:
            content = content[:to] + content[at:]
        else:
            content = content[:at]
    read(content, form if content.strip() else None)
    read(content)


@pytest.mark.parametrize("form", FORMS)
@given(
    content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
)
@QUICK
def test_any_bytes(form, content):
    read(content, form)


FIELDS = (
    *("id", "arxiv", "arxiv_id", "title", "abstract", "summary", "authors", "authors_parsed", "published", "versions"),
    *("publishedAt", "seen_on", "upvotes", "num_comments", "numComments", "categories", "githubRepo", "githubStars"),
    *("mediaUrls", "models", "datasets", "projectPage", "ai_keywords", "ai_summary", "organization", "submittedBy"),
    *("submitter", "paper", "comments", "doi", "update_date", "created", "submittedOnDailyAt", "stars"),
)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        (
            "2401.00001",
            "2024-01-05",
            "0000-00-00",
            "https://example.org/\x00",
            "javascript:alert(1)",
            "\ud800",
            "a/b",
            "9" * 400,
        )
    )
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
ROWS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)


@given(rows=st.lists(ROWS | VALUES, max_size=4), day=st.booleans())
@QUICK
def test_any_values_in_any_field(rows, day):
    told = [{"paper": row, **row} if isinstance(row, dict) and day else row for row in rows]
    items, asides = read(json.dumps(told).encode("utf-8", "surrogatepass"), "json")
    assert len(items) + len(asides) == len(told)
    read("\n".join(map(json.dumps, told)).encode(), "jsonl")


@given(rows=st.lists(ROWS, max_size=4))
@settings(QUICK, max_examples=60)
def test_what_is_read_can_be_stored(rows, store):
    from django.db import transaction

    from paperlab.site.store.item import Page
    from paperlab.site.store.models import Paper
    from paperlab.site.store.write import Run, take

    items, _ = read(json.dumps(rows).encode(), "json")
    with transaction.atomic():
        counts = take(Page(items), Run("jsonl"))
        assert counts.set_aside == 0
        assert counts.new == Paper.objects.count()
        again, _ = read(json.dumps(rows).encode(), "json")
        assert (take(Page(again), Run("jsonl")).new, counts.found) == (0, len(items))
        transaction.set_rollback(True)


# -- by name -----------------------------------------------------------------------------------------------------------


def line(**facts: Any) -> bytes:
    return json.dumps({"id": "2401.00001", "title": "On Matter", **facts}).encode()


GOOD = line(id="2401.00009", title="Good")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(abstract="x" * 3_000_000), "abstract of 3000000 characters"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (line(title="\x00\x01\u202e"), "no title"),
        (line(title="x" * 3000), "title of 3000 characters"),
        (line(authors=["A"] * 20_000), "20000 authors"),
        (line(arxiv="nonsense"), "not an arXiv id: 'nonsense'"),
        (b'{"id": 2401.0001, "title": "T"}', "is a number; arXiv ids are strings"),
        (b'{"id": "1", "title": "caf\xe9"}', "not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"\xff\xfe{\x00", "not JSON"),
        (b"{}", "no title"),
        (b"null", "expected an object, found NoneType"),
        (b'{"title": "T"', "not JSON"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(bad, reason):
    items, asides = read(b"\n".join((GOOD, bad, GOOD)), "jsonl")
    assert [item.title for item in items] == ["Good", "Good"]
    (aside,) = asides
    assert reason in aside.reason
    assert aside.where == "fuzzed:2"


@pytest.mark.parametrize(
    "told", ["0000-00-00", "9999-12-31", "1066-10-14", "2024-02-30", "yesterday", -1e300, "1e5", [], {}]
)
def test_an_absurd_date_is_no_date_and_told(told):
    items, _ = read(line(published=told), "jsonl")
    assert items[0].published_day is None
    assert ("unread" in items[0].extra) == (told not in ([], {}))


def test_a_compressed_file_that_ends_early_gives_what_stands_before():
    rng = random.Random(1)
    rows = [line(id=f"2401.{at:05d}", abstract=rng.randbytes(200).hex()) for at in range(300)]
    whole = gzip.compress(b"\n".join(rows))
    items, asides = read(whole[: len(whole) // 2])
    assert 100 < len(items) < 200
    assert "damaged or ends early" in asides[-1].reason


def test_a_recorded_answer_in_the_wrong_encoding_is_read_in_the_right_one():
    """UTF-8 taken for Latin-1 when it was recorded; nothing else that is Latin-1 is touched."""
    body = next(content for of, content in samples() if of == "arxiv-api").decode().replace("Ada", "Zoë Weiß")
    for told in (body.encode().decode("latin-1"), body):
        items, _ = read(json.dumps({"url": "x", "status_code": 200, "body": told}).encode())
        assert items[0].authors[0] == "Zoë Weiß Author"


@pytest.mark.parametrize("text", ["A Title\n\nMay 5 2.\n\nAn abstract.", "May 5 2.\n1. 1.\n#3\n\u0663"])
def test_numbers_with_a_full_stop_are_no_counts(text):
    """Found by Atheris."""
    read(text.encode(), "listing")


@pytest.mark.parametrize(
    "body", ["[second", "{", '{"id": 1}\n{"id": 2}', "<html>", "", "Daily Papers\n\nNo papers found"]
)
def test_a_recorded_answer_of_nonsense_is_refused_by_name(body):
    """Found by Atheris."""
    from paperlab.site.store.sources import files

    with pytest.raises(files.NotAFile, match="fuzzed"):
        files.source(io.BytesIO(json.dumps({"url": "x", "status_code": 200, "body": body}).encode()), name="fuzzed")


def test_a_feed_in_an_encoding_with_a_null_is_set_aside():
    """Found by Atheris: feedparser raises."""
    items, asides = read(b'<?xml version="1.0" encoding="\x00\x00P8"?><rss version="2.0"></rss>', "feed")
    assert not items
    assert "not a feed that can be read" in asides[0].reason


def test_categories_and_versions_are_clean():
    """Found by Atheris: control characters that XML allows."""
    raw = next(content for of, content in samples() if b"arXivRaw" in content)
    raw = raw.replace(b"<title>", b"<categories>\x7fcs.CL</categories><title>").replace(b'"v1"', b'"v1\x7f"')
    items, _ = read(raw, "arxiv-oai")
    assert (items[0].categories, items[0].versions[0]["version"]) == (["cs.CL"], "v1")


def test_no_answer_takes_long():
    """Backtracking or quadratic work would show here: 200 kB of what each reader looks for."""
    took = {}
    for form, part in [
        ("listing", b"7 authors\n"),
        ("listing", b"1. a\n\n"),
        ("listing", b"Subscribe"),
        ("listing", b"a b c. "),
        ("feed", b"<item><title>&lt;b</title><description>Authors: Votes: </description></item>"),
        ("jsonl", b'{"title": "a", "authors": "A, B and C"}\n'),
    ]:
        content = part * (200_000 // len(part))
        if form == "feed":
            content = b"<rss version='2.0'><channel>" + content + b"</channel></rss>"
        began = time.process_time()
        read(content, form)
        took[form, part] = time.process_time() - began
    assert max(took.values()) < 30, took
