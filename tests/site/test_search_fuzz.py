"""Any parameters and any text: a refusal that names what is wrong, or an answer; never anything else."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from search_papers import WORDS, fill

from paperlab.site.search.query import DEPTH, SORTS, BadQuery, Query, html, plain, read

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD = ['"', "'", "“", "”", "(", "AND", "*", "-", "2401.00003", "q-bert", "author:", 'author:"a b"', "category:cs.CL",
       "year:2024", "has:code", "is:x", "sort:date", "family:quantization", "\0", "\ud800", "\u202e", "🤖"]  # fmt: skip
pieces = st.one_of(st.sampled_from([*WORDS[:10], *ODD]), st.text(max_size=12))
texts = st.lists(pieces, max_size=12).map(" ".join)
NAMES = ["q", "family", "category", "author", "year", "code", "runnable", "verdict", "sort", "limit", "offset", "other"]
params = st.dictionaries(st.sampled_from(NAMES), st.lists(st.one_of(texts, st.text()), max_size=3), max_size=6)


@settings(max_examples=500, deadline=None)
@given(params)
@example({"q": ['"'], "year": ["-"], "limit": ["1" * 400]})
@example({"limit": ["٣"], "offset": ["১"]})
def test_any_parameters_are_read_or_refused(told):
    problems, query = {}, Query()
    try:
        query = read(told)
    except BadQuery as error:
        problems = error.problems
    assert set(problems) <= set(NAMES)
    assert all(said and len(said) < 2_000 for said in problems.values())
    grouped: dict[str, list[str]] = {}
    for name, value in query.params():
        grouped.setdefault(name, []).append(value)
    assert read(grouped) == query
    json.dumps(query.params()).encode()


@pytest.fixture
def filled(engine: str, meaning: Any) -> str:
    from paperlab.site.search import index

    fill(25)
    index.refresh()
    return engine


@SLOW
@given(text=texts, offset=st.integers(0, DEPTH), limit=st.integers(1, 30), sort=st.sampled_from(SORTS))
@example(text='"' * 3_000, offset=0, limit=5, sort="relevance")
@example(text="word " * 3_000, offset=0, limit=5, sort="relevance")
@example(text='"attention', offset=0, limit=5, sort="relevance")
def test_any_text_is_answered(text, offset, limit, sort, filled):
    from paperlab.site.search.rank import search

    results = search(Query(text, sort=sort, limit=limit, offset=offset), facets=True)
    keys = [hit.paper for hit in results.hits]
    assert len(keys) == len(set(keys)) <= limit
    assert results.total >= len(keys)
    scores = [hit.score for hit in results.hits]
    assert sort != "relevance" or scores == sorted(scores, reverse=True)
    for hit in results.hits:
        assert str(hit.why)
        assert "<" not in re.sub("</?mark>", "", html(hit.title) + html(hit.snippet))
        assert plain(hit.title)


@SLOW
@given(text=texts, category=texts, author=texts, first=st.integers(-5, 99_999), last=st.integers(-5, 99_999))
def test_any_filters_are_answered(text, category, author, first, last, filled):
    from paperlab.site.search.rank import search

    asked = {"q": [text], "author": [author]}
    try:
        query = read(asked)
    except BadQuery:
        return
    for years in ((None, None), (max(0, first), max(0, last))):
        told = Query(
            query.text, category=(category.encode("utf-8", "replace").decode(),), author=query.author, years=years
        )
        results = search(told)
        assert len(results.hits) <= results.total or not results.hits
