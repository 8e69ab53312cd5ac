"""Queries: read from parameters and from words, written back, refused with the name of what is wrong."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paperlab.core.paper import FAMILIES
from paperlab.site.search.query import DEPTH, LIMIT, SORTS, BadQuery, Query, html, plain, read

HOSTILE = ["", " ", "\0", "a\0b", '"', '""', '"""', '"open', 'x" y "z', "שלום עולם", "\u202eabc", "𝔸 🤖 \U0010ffff",
           "a" * 10_000, "word " * 2_000, '"' * 10_000, "\udcff", "année", "author:", 'author:""', "year:", "sort:",
           "has:", "%_'; DROP", "(a AND b) OR NOT [c TO d] +e -f ~2 ^3 *", "title:x text:y", "\\", "\n\t\r",
           "e\u0301" * 50]  # fmt: skip

pytestmark = pytest.mark.usefixtures("tables")


def asked(text: str) -> Any:
    from paperlab.site.search import words

    return words.asked(text)


def rank() -> Any:
    from paperlab.site.search import rank

    return rank


plain_words = st.text("abcdefghij äßи ", min_size=0, max_size=30).map(lambda text: " ".join(text.split()))
queries = st.builds(
    Query,
    text=plain_words,
    family=st.lists(st.sampled_from(FAMILIES), unique=True, max_size=3).map(tuple),
    category=st.lists(st.sampled_from(["cs", "cs.CL", "math.OC", "hep-th"]), unique=True, max_size=3).map(tuple),
    author=st.lists(plain_words.filter(bool), unique=True, max_size=2).map(tuple),
    years=st.one_of(
        st.just((None, None)),
        st.tuples(st.none(), st.integers(1000, 9999)),
        st.tuples(st.integers(1000, 9999), st.none()),
        st.tuples(st.integers(1000, 9999), st.integers(1000, 9999)).map(lambda pair: (min(pair), max(pair))),
    ),
    code=st.booleans(),
    runnable=st.booleans(),
    verdict=st.lists(st.sampled_from(["holds", "fails", "mixed", "not run"]), unique=True, max_size=2).map(tuple),
    sort=st.sampled_from(SORTS),
    limit=st.integers(1, LIMIT),
    offset=st.integers(0, DEPTH),
)


def grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    params: dict[str, list[str]] = {}
    for name, value in pairs:
        params.setdefault(name, []).append(value)
    return params


@given(queries)
def test_a_query_written_as_parameters_is_read_back(query):
    assert read(grouped(query.params())) == query


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"family": ["cooking"]}, "family"),
        ({"category": ["cs.CL; drop"]}, "category"),
        ({"year": ["20x4"]}, "year"),
        ({"year": ["-"]}, "year"),
        ({"year": ["2020\0"]}, "year"),
        ({"year": ["\u202e2020"]}, "year"),
        ({"year": ["20202024"]}, "year"),
        ({"verdict": ["true"]}, "verdict"),
        ({"sort": ["luck"]}, "sort"),
        ({"code": ["maybe"]}, "code"),
        ({"runnable": ["2"]}, "runnable"),
        ({"limit": ["0"]}, "limit"),
        ({"limit": ["101"]}, "limit"),
        ({"limit": ["ten"]}, "limit"),
        ({"limit": ["²"]}, "limit"),
        ({"offset": ["-1"]}, "offset"),
        ({"offset": ["1001"]}, "offset"),
        ({"q": ["bert family:cooking"]}, "family"),
        ({"q": ["bert year:soon"]}, "year"),
        ({"q": ["bert sort:luck"]}, "sort"),
    ],
)
def test_a_bad_filter_is_named(params, name):
    with pytest.raises(BadQuery) as raised:
        read(params)
    assert list(raised.value.problems) == [name]
    assert str(raised.value).startswith(f"{name}: ")


def test_every_bad_filter_is_named_at_once():
    with pytest.raises(BadQuery) as raised:
        read({"family": ["x"], "year": ["y"], "limit": ["z"], "q": ["verdict:w"]})
    assert set(raised.value.problems) == {"family", "year", "limit", "verdict"}


def test_filters_among_the_words():
    query = read({"q": ['low rank author:"tim dettmers" YEAR:2023-2024 category:cs.CL family:quantization has:code']})
    assert query == Query("low rank", ("quantization",), ("cs.CL",), ("tim dettmers",), (2023, 2024), code=True)
    assert read({"q": ["is:runnable verdict:holds verdict:not_run sort:date"]}) == Query(
        runnable=True, verdict=("holds", "not run"), sort="date"
    )
    assert read({"q": ["what is:this has:that http://a.b author:"]}).text == "what is:this has:that http://a.b author:"
    assert read({"q": ["year:2024-2020"]}).years == (2020, 2024)
    assert read({"year": ["-2020"]}).years == (None, 2020)
    assert read({"year": ["2020–"]}).years == (2020, None)


@pytest.mark.parametrize("text", HOSTILE)
def test_odd_text_is_read_and_written_back(text):
    query = read({"q": [text], "author": [text]})
    assert read(grouped(query.params())) == query
    query.text.encode()  # nothing that no database and no index takes
    assert "\0" not in query.text


@given(st.text())
@example('"')
@example('a "b c" d "e')
def test_any_text_has_words_and_phrases(text):
    found = asked(text)
    assert len(set(found.terms)) == len(found.terms)
    for phrase in found.phrases:
        assert phrase[0][0] == 0
        assert len(phrase) > 1
        assert [place for place, _ in phrase] == sorted({place for place, _ in phrase})


def test_phrases_keep_the_places_of_stop_words():
    assert asked('"attention is all you need"').phrases == (((0, "attent"), (2, "all"), (3, "you"), (4, "need")),)
    assert asked('"the model"').phrases == ()
    assert asked('"open phrase').phrases == ()
    assert asked(" ".join(f'"w{n} v{n}"' for n in range(10))).phrases == ()  # prose


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), st.text(max_size=30), st.integers(40, 300))
def test_snippets_neither_lose_nor_invent(text, words, size):
    pattern = rank()._pattern(asked(words))
    assert plain(rank().mark(text, pattern)) == text
    found = rank().snippet(text, pattern, size)
    shown = plain(found)
    before, after = (
        shown.startswith("… ") and not text.startswith("… "),
        shown.endswith(" …") and not text.endswith(" …"),
    )
    assert shown[2 * before : len(shown) - 2 * after] in text
    assert len(shown) <= max(size, 0) + 4
    if len(text) <= size:
        assert shown == text
    marked = html(found).replace("<mark>", "").replace("</mark>", "")
    assert "<" not in marked
    assert ">" not in marked


def test_a_snippet_shows_what_was_asked_for_and_escapes():
    text = "Nothing here. " * 40 + "Then <b>quantized</b> families & models. " + "Nothing more. " * 40
    found = rank().snippet(text, rank()._pattern(asked("quantization family")))
    assert "<mark>quantized</mark>" in html(found)
    assert "<mark>families</mark> &amp; models" in html(found)
    assert "&lt;b&gt;" in html(found)
