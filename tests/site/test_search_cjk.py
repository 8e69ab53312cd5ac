"""Chinese, Japanese and Korean are found as substrings are, on every engine; text of other scripts stays as it was."""

import random
import re
from unicodedata import normalize

import pytest
from api_papers import item, take
from hypothesis import given
from hypothesis import strategies as st
from search_papers import found, key

from paperlab.site.search import cjk
from paperlab.site.search.query import Query, html

TITLES = {
    1: "大语言模型的量化综述",
    2: "量子化による言語モデルの高速化",
    3: "BERTモデル圧縮：知識蒸留",
    4: "언어모델을 학습하는 방법",
    5: "量子コンピュータのための誤り訂正",
    6: "モデルの圧縮とＢＥＲＴの量子化",
    7: "A survey of large language models",
    8: "ﾓﾃﾞﾙ並列の高速化",
}


@pytest.fixture
def stored(engine):
    take([item(number, title=title, abstract="") for number, title in TITLES.items()])


def narrow(text: str) -> str:
    return normalize("NFKC", text).lower()


def holding(text: str) -> set[int]:
    """By looking into every title."""
    return {key(number) for number, title in TITLES.items() if narrow(text) in narrow(title)}


PARTS = ["量子化", "言語モデル", "大语言模型", "语言", "モデル", "圧縮", "知識蒸留", "언어모델", "학습", "量", "化",
         "訂正", "モデル圧縮", "誤り", "ﾓﾃﾞﾙ", "ＢＥＲＴ", "방"]  # fmt: skip


@pytest.mark.parametrize("text", PARTS)
def test_a_part_of_a_title_finds_it_first(stored, text):
    wanted = holding(text)
    assert wanted
    assert set(found(f'"{text}"', limit=100)) == wanted
    assert set(found(text, sort="date", limit=100)) == wanted
    assert set(found(text)[: len(wanted)]) == wanted


def test_words_of_two_scripts_are_two_words(stored):
    assert set(found("BERT モデル圧縮", sort="date")) == {key(3)}
    assert set(found("bert 圧縮", sort="date")) == set(found("BERT圧縮", sort="date")) == {key(3), key(6)}
    assert found("language models")[0] == key(7)
    assert found("量子力学", sort="date") == []


def test_a_quotation_is_in_order(stored):
    assert found('"モデル圧縮"') == [key(3)]
    assert set(found("モデル 圧縮", sort="date")) == {key(3), key(6)}
    assert found('"言語モデルの高速化"')[:1] == [key(2)]


def test_no_slip_is_seen_in_what_is_not_stored(stored):
    from paperlab.site.search.rank import search

    for text in ("量子力学入門講座", "言語モデリング", "언어모형론"):
        assert search(Query(text)).suggestion == ""


def test_what_matches_is_marked(stored):
    from paperlab.site.search.rank import search

    def marked(text: str) -> list[str]:
        return [html(hit.title) for hit in search(Query(text)).hits]

    assert "BERT<mark>モデル圧縮</mark>：知識蒸留" in marked("モデル圧縮")
    assert "<mark>BERT</mark>モデル<mark>圧縮</mark>：知識蒸留" in marked("bert 圧縮")
    assert "大语言模型的<mark>量化</mark>综述" in marked("量化")
    assert "大语言模型的<mark>量</mark>化综述" in marked("量")


def test_bibtex_has_an_ascii_key_and_the_whole_title(store):
    from pybtex.database.input.bibtex import Parser

    from paperlab.site.pages.bibtex import bibtex
    from paperlab.site.store.models import Paper

    titles = {number: title for number, title in TITLES.items() if not re.search("[A-Za-zＢ]", title)}
    take([item(number, title=title, abstract="", authors=["王小明"]) for number, title in titles.items()])
    written = "\n".join(bibtex(row) for row in Paper.objects.order_by("pk"))
    entries = Parser().parse_string(written).entries
    assert len(entries) == len(titles)
    assert all(name.isascii() for name in entries)
    assert {entry.fields["title"].strip("{}") for entry in entries.values()} == set(titles.values())


def test_a_long_quotation_is_no_prose(engine):
    from paperlab.site.search.words import asked

    long = "深層学習における大規模言語モデルの効率的な量子化手法の比較と検討"
    take([item(1, title=long, abstract=""), item(2, title=long[::-1], abstract="")])
    assert found(f'"{long[2:-2]}"') == [key(1)]
    assert not asked(f'"{long}"').prose


LETTERS = "量子化模型言語モデルのるー々大언어모델"


@pytest.mark.parametrize("seed", range(3))
def test_quoted_parts_of_drawn_titles_are_those_that_hold_them(seed, store):
    """Against a look into every title, 300 of them, of few letters, so that most parts occur several times."""
    draw = random.Random(seed)
    titles = {}
    for number in range(1, 301):
        runs = ["".join(draw.choices(LETTERS, k=draw.randrange(1, 9))) for _ in range(draw.randrange(1, 4))]
        titles[number] = "、".join(runs) + draw.choice(["", " BERT", "、GPT-4"])
    take([item(number, title=title, abstract="") for number, title in titles.items()])
    for _ in range(40):
        run = draw.choice(re.split("[、 ]", draw.choice(list(titles.values()))))
        start = draw.randrange(len(run))
        part = run[start : start + draw.randrange(1, 7)]
        wanted = {key(number) for number, title in titles.items() if part.lower() in title.lower()}
        if cjk.letters(part):
            got = found(f'"{part}"', sort="date", limit=100)
            assert set(got) <= wanted
            assert len(got) == min(100, len(wanted))


mixed = st.text(st.sampled_from(LETTERS + 'ab1 -."Ａｶﾞ゙゚é㍿、C+#'), max_size=60)


@given(mixed)
def test_pairs_of_pairs_are_those_pairs(text):
    assert cjk.pairs(cjk.pairs(text)).split() == cjk.pairs(text).split()


@given(mixed)
def test_pairs_lose_and_invent_no_letter(text):
    plain = normalize("NFKC", text)
    assert set("".join(cjk.pairs(text).split())) == set("".join(plain.split())) or "㍿" in text or "é" in text


@given(st.text(st.characters(max_codepoint=0x10FF)))
def test_other_scripts_stay_as_they_are(text):
    assert cjk.pairs(text) is text
    assert cjk.letters(text) == []


@given(mixed, mixed)
def test_marks_neither_lose_nor_invent(text, asked_for):
    from paperlab.site.search.rank import _pattern, mark
    from paperlab.site.search.words import asked

    pieces = mark(text, _pattern(asked(asked_for)))
    assert "".join(piece for piece, _ in pieces) == text
    marked = {letter for piece, is_marked in pieces if is_marked for letter in cjk.letters(piece)}
    assert marked <= set(cjk.letters(asked_for))


def test_pairs_take_time_with_the_length():
    import time

    begun = time.process_time()
    for text in ("量" * 20_000, "か\u3099" * 10_000, "㍿" * 20_000, "\u1100" * 20_000, "か\u3099\u309a" * 7_000):
        cjk.pairs(text), cjk.letters(text)
    assert time.process_time() - begun < 2
