"""The bundled catalogue, searched by words alone: the obvious paper comes first, however it is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlab.site.search import spelling
from paperlab.site.search.query import Query
from paperlab.site.search.spelling import american


@pytest.fixture
def first(store):
    """A function: the slugs that a text finds, best first."""
    from paperlab.site.search import index
    from paperlab.site.search.rank import search
    from paperlab.site.store import bundled
    from paperlab.site.store.models import Paper

    bundled.load()
    index.refresh(meaning=False)
    slugs = dict(Paper.objects.values_list("pk", "slug"))
    return lambda text: [slugs[hit.paper] for hit in search(Query(text, limit=50)).hits]


def test_the_obvious_paper_comes_first(first):
    wanted = {
        "low rank compensation": "zeroquant-v2-lorc",
        "2403.02775": "easyquant",
        "baq": "baq",
        "qbert": "q-bert",
        "kv cache adaptive quantization": "kv-adaquant",
        "bitnet": "bitnet-1-58-bottom-up",
        "hessian mixed precision": "interlayer-hessian-mixed-precision",
        "PV-Tuning: Beyond Straight-Through Estimation for Extreme LLM Compression": "pv-tuning",
        "straight-through estimation vector quantized LLM": "pv-tuning",
        "qwen3 quantization": "qwen3-quantization-study",
    }
    assert {text: first(text)[0] for text in wanted} == wanted


def test_slips_spelling_and_unfinished_words_are_forgiven(first):
    assert "speculative-decoding" in first("speculativ decodign")[:5]
    assert first("easyq")[0] == "easyquant"
    for british in ("quantisation", "optimiser", "tokenised", "summarisation"):
        assert first(british) == first(american(british)) != []


def test_every_paper_is_found_by_its_own_title(first):
    from paperlab.core.paper import papers

    assert [slug for slug, paper in papers().items() if first(paper.title)[0] != slug] == []


def test_nonsense_finds_nothing(first):
    assert first("xyzzyqwv") == first("9999.99999") == []


def test_only_british_spelling_is_changed():
    same = "noise otherwise supervised precise this raised promise exercise four source our hour analysis visible arise"
    assert american(same) == same
    assert american("Normalisation, MINIMISED behaviours analysed; neighbouring parametrises") == (
        "Normalization, MINIMIZED behaviors analyzed; neighboring parametrizes"
    )


PARTS = ["ise", "isi", "lyse", "lys", "our", "ours", "able", "ation", "Is", "ING", "ser", "opt", "İ", "é", "_", " ",
         "-", "1", "q" * 41]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=9).map("".join))
def test_the_quick_search_misses_no_british_word(text):
    assert american(text) == spelling._BRITISH.sub(spelling._folded, text)
