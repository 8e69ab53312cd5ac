"""Texts: documents, splits and errors, without torch."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlab.assets import texts
from paperlab.assets.texts import (
    TEXTS,
    TextError,
    categorised_abstracts,
    load_text,
    passages,
    plain_wikitext,
    retrieval_pairs,
    split_documents,
)
from paperlab.core import paper
from paperlab.core.home import BUNDLED


def test_news_are_the_lee_corpus() -> None:
    news = load_text("news")
    assert len(news.documents) == 293  # 300 lines, seven of them twice
    assert news.documents[0].startswith("Hundreds of people have been forced")
    assert load_text("news").sha256 == news.sha256


@pytest.mark.parametrize(("name", "least"), [("encyclopedia", 2_000_000), ("code", 1_000_000), ("bulgarian", 50_000)])
def test_bundled_texts_are_there(name: str, least: int) -> None:
    text = load_text(name)
    assert text.describe()["characters"] >= least
    assert len(set(text.documents)) == len(text.documents)


def test_frozen_texts_have_their_recorded_hashes() -> None:
    frozen = json.loads((BUNDLED / "frozen.json").read_text())
    assert {name: load_text(name).sha256 for name in TEXTS} == {name: frozen[name] for name in TEXTS}
    for name in set(frozen) - set(TEXTS):
        pairs = "\n".join(f"{query}\t{answer}" for query, answer in retrieval_pairs(int(name.removeprefix("queries-"))))
        assert hashlib.sha256(pairs.encode()).hexdigest() == frozen[name]


def test_editing_the_catalogue_changes_no_exam_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited = tmp_path / "catalogue.jsonl"
    row = json.loads(paper.CATALOGUE.read_text(encoding="utf-8").splitlines()[0])
    edited.write_text(json.dumps({**row, "summary": "edited"}) + "\n", encoding="utf-8")
    before = load_text("catalogue").sha256, retrieval_pairs(200)
    monkeypatch.setattr(paper, "CATALOGUE", edited)
    for cached in (paper.papers, texts._known):
        cached.cache_clear()
    try:
        assert [found.summary for found in paper.papers().values()] == ["edited"]
        assert (load_text("catalogue").sha256, retrieval_pairs(200)) == before
    finally:
        paper.papers.cache_clear()


def test_wikitext_loses_its_markup() -> None:
    source = (
        "{{Infobox|a={{b|c}}}}\n'''Ada''' was a [[writer|mathematical writer]] of [[London]].<ref name=x>Cite "
        "[[y]].</ref><!-- no -->\n[[File:a.jpg|thumb|A [[caption]] here]]\n== Life ==\n{| class=w\n| cell\n|}\n"
        "She met [http://x.org a man] &amp; wrote.<ref name=x />\n* [[Link]]\n[[Category:People]]"
    )
    words = " ".join(plain_wikitext(source).split())
    assert words == "Ada was a mathematical writer of London. Life She met a man & wrote."


def test_encyclopedia_is_readable() -> None:
    for document in load_text("encyclopedia").documents:
        marks = sum(document.count(mark) for mark in ("[[", "]]", "{{", "}}", "<ref", "'''"))
        assert marks < 1e-3 * len(document)


@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 50))
def test_passages_keep_every_word(text: str, length: int) -> None:
    cut = passages(text, length)
    assert " ".join(cut).split() == text.split()
    assert all(len(passage) >= length - 2 for passage in cut[:-1])


def test_halves_share_no_document() -> None:
    text = load_text("news")
    first, second = split_documents(text, "calibration"), split_documents(text, "held-out")
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(text.documents)
    assert abs(len(first) - len(second)) <= 1


def test_user_files(tmp_path: Path) -> None:
    plain = tmp_path / "novel.txt"
    plain.write_text("\n\n".join(f"Paragraph {i}. " + "word " * 100 for i in range(40)))
    assert len(load_text(str(plain)).documents) == 10  # four paragraphs of 515 characters reach 2,000
    rows = tmp_path / "rows.jsonl.gz"
    rows.write_bytes(gzip.compress("\n".join(json.dumps({"text": f"row {i}"}) for i in range(3)).encode()))
    assert load_text(str(rows)).documents == ("row 0", "row 1", "row 2")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"PK\x03\x04\x00\x00", "binary"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b" \n", "empty"),
        ("a.txt.gz", b"not gzip", "not a whole gzip"),
        ("a.txt.gz", gzip.compress(b"words " * 100, mtime=0)[:-9], "not a whole gzip"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not a JSON object"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=says):
        load_text(str(tmp_path / name))


def test_missing_text_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"not there.*news"):
        load_text("nowhere.txt")
    with pytest.raises(TextError, match="a folder"):
        load_text(str(tmp_path))


def test_eight_thousand_abstracts_hold_out_the_same_papers() -> None:
    few, many = load_text("abstracts"), load_text("abstracts-8k")
    assert len(many.documents) == 8000
    assert many.held_out == few.held_out
    assert many.documents[: len(few.documents)] == few.documents
    rows = categorised_abstracts()
    assert {text.strip() for _, text in rows} == set(many.documents[len(few.documents) :])
    assert sum(category in ("cs.CL", "cs.AI", "cs.LG") for category, _ in rows) > 6000
