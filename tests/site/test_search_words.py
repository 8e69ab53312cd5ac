"""BM25 by its formula, written out here; the index's own readers are not asked how it counts."""

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_papers import WORDS

K1, B = 1.2, 0.75


def document(key: int, text: str, **facts: Any) -> Any:
    from paperlab.site.search import cjk
    from paperlab.site.search.document import Document, compounds

    told = {
        "key": key, "revision": 1, "title": text, "text": cjk.pairs(text), "passage": text,
        "names": " ".join(compounds(text)),
        "authors": [], "categories": [], "family": "", "year": 0, "code": False, "day": key, "trend": -1.0,
    }  # fmt: skip
    return Document(**{**told, **facts})


def bm25(texts: dict[int, list[str]], query: list[str]) -> dict[int, float]:
    """Scores by Robertson's formula with idf = log(1 + (N - n + 0.5) / (n + 0.5))."""
    mean = sum(map(len, texts.values())) / len(texts)
    holding = Counter(word for words in texts.values() for word in set(words))
    scores: dict[int, float] = {}
    for key, words in texts.items():
        counts = Counter(words)
        parts = [
            math.log(1 + (len(texts) - holding[word] + 0.5) / (holding[word] + 0.5))
            * counts[word] * (K1 + 1) / (counts[word] + K1 * (1 - B + B * len(words) / mean))
            for word in query if counts[word]
        ]  # fmt: skip
        if parts:
            scores[key] = sum(parts)
    return scores


@pytest.fixture
def opened(tables, tmp_path):
    from paperlab.site.search.words import Words

    return Words(tmp_path / "words")


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_bm25(seed, opened):
    from paperlab.site.search.words import STEMS, asked

    draw = random.Random(seed)
    # Lengths up to 39 are kept exactly, longer ones are rounded to a byte.
    texts = {key: " ".join(draw.choices(WORDS, k=draw.randrange(1, 40))) for key in range(1, 200)}
    opened.write([document(key, text) for key, text in texts.items()])
    stems = {key: STEMS.analyze(text) for key, text in texts.items()}
    for words in (draw.sample(WORDS, draw.randrange(1, 6)) for _ in range(20)):
        query = asked(" ".join(words))
        told = dict(opened.best(query, None, 1_000))
        assert told == pytest.approx(bm25(stems, list(query.terms)), rel=1e-5)
        ranked = [score for _, score in opened.best(query, None, 1_000)]
        assert ranked == sorted(ranked, reverse=True)
        some = draw.sample(sorted(told), min(5, len(told)))
        assert opened.scores(query, some) == pytest.approx({key: told[key] for key in some})


def test_strict_wants_every_word_and_counts_agree(opened):
    from paperlab.site.search.words import asked

    draw = random.Random(1)
    texts = {key: draw.sample(WORDS, 10) for key in range(1, 100)}
    opened.write([document(key, " ".join(words)) for key, words in texts.items()])
    for pair in (draw.sample(WORDS, 2) for _ in range(20)):
        both = {key for key, words in texts.items() if set(pair) <= set(words)}
        some = {key for key, words in texts.items() if set(pair) & set(words)}
        query = asked(" ".join(pair))
        assert {key for key, _ in opened.best(query, None, 1_000, strict=True)} == both
        assert opened.count(query, None, strict=True) == len(both)
        assert opened.count(query, None, strict=False) == len(some)
        assert set(opened.listed(query, None, "day", 1_000)) == both


def test_a_changed_document_replaces_itself(opened):
    from paperlab.site.search.words import Asked, asked

    opened.write([document(key, f"wombat {key}") for key in range(1, 6)])
    opened.write([document(3, "platypus")], gone=[4])
    assert sorted(opened.listed(Asked(), None, "day", 10)) == [1, 2, 3, 5]
    assert len(opened) == 4
    assert {key for key, _ in opened.best(asked("wombat"), None, 10)} == {1, 2, 5}
    assert [key for key, _ in opened.best(asked("platypus"), None, 10)] == [3]


def test_a_failed_write_leaves_the_index_as_it_was(opened):
    from paperlab.site.search.words import Asked

    def broken() -> Any:
        yield document(2, "two")
        raise OSError("the store is gone")

    opened.write([document(1, "one")])
    with pytest.raises(OSError, match="gone"):
        opened.write(broken(), gone=[1])
    assert opened.listed(Asked(), None, "day", 10) == [1]
    opened.write([document(3, "three")])
    assert sorted(opened.listed(Asked(), None, "day", 10)) == [1, 3]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200), other=st.text(max_size=60))
def test_any_text_is_indexed_and_asked_for(text, other, opened):
    from paperlab.site.search.words import asked
    from paperlab.site.store import clean

    text, other = clean.text(text), clean.text(other)
    opened.write([document(1, text, authors=[other], categories=[other[:50]]), document(2, "something else")])
    for query in (asked(text), asked(other), asked(f'"{text}"')):
        found = opened.best(query, None, 10) if query else []
        if query == asked(text) and query.terms:
            assert 1 in [key for key, _ in found]
    opened.near(other)
    opened.known(other)


@pytest.mark.parametrize(
    "text", ["attention is all you need", "state of the art", "the end of a story", "to be or not to be seen"]
)
def test_a_phrase_is_found_where_it_was_taken_from(text, opened):
    from paperlab.site.search.words import asked

    opened.write([document(1, f"We say that {text} for now."), document(2, " ".join(reversed(text.split())))])
    query = asked(f'"{text}"')
    if query.phrases:
        assert [key for key, _ in opened.best(query, None, 10)] == [1]
