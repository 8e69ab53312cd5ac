"""Labelled texts: what the package's files hold becomes texts with labels; nothing comes twice, rare labels go."""

from pathlib import Path

import pytest

from paperlab.assets import labelled as module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "fetch", lambda *_: tmp_path)
    module.labelled.cache_clear()
    return tmp_path


def test_reviews_are_good_or_bad_and_neutral_ones_go(folder: Path) -> None:
    rows = [f"{i}\t{1.5 if i % 2 else -2}\tfilm {i}" for i in range(20)] + ["20\t0.4\tso so", "21\t1.5\tfilm 0"]
    (folder / "movie-reviews.txt").write_bytes("\r\n".join(["id\tsentiment\ttext", *rows]).encode())
    found = module.labelled("movie-reviews")
    assert found.texts == tuple(f"film {i}" for i in range(20))
    assert found.labels[:2] == ("bad", "good")  # "film 0" comes twice: the first one counts
    assert len(found.sha256) == 64


def test_questions_with_rare_labels_go(folder: Path) -> None:
    rows = [f"NUM:date When was {i} ?" for i in range(10)] + ["HUM:ind Who ?"]
    (folder / "questions.txt").write_text("\n".join(rows))
    found = module.labelled("questions")
    assert set(found.labels) == {"NUM:date"}
    assert found.texts[0] == "When was 0 ?"
