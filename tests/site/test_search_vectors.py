"""The vectors against NumPy: the search by codes, replaced and removed rows, codes trained anew under a reader."""

import threading
from typing import Any

import numpy as np
import pytest

DIMENSION = 160


def unit(count: int, seed: int, spread: float = 0.3) -> Any:
    """Vectors of a few directions and noise, as texts have: (count, DIMENSION), float32, of length 1."""
    draw = np.random.default_rng(seed)
    directions = np.random.default_rng(7).standard_normal((40, DIMENSION))
    rows = draw.standard_normal((count, 40)) @ directions + spread * 6 * draw.standard_normal((count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def opened(tables, tmp_path, monkeypatch):
    from paperlab.site.search import vectors

    monkeypatch.setattr(vectors, "FROM", 500)
    monkeypatch.setattr(vectors, "GROWTH", 3)
    monkeypatch.setattr(vectors, "CANDIDATES", 200)
    return vectors.Vectors(tmp_path / "vectors", DIMENSION)


def exact(kept: dict[int, Any], query: Any, limit: int) -> list[int]:
    scores = {key: float(np.float16(vector).astype(np.float32) @ query) for key, vector in kept.items()}
    return sorted(scores, key=lambda key: (-scores[key], key))[:limit]


def recall(opened: Any, kept: dict[int, Any], limit: int = 10) -> float:
    queries = unit(50, 99)
    found = [len({key for key, _ in opened.best(query, limit)} & set(exact(kept, query, limit))) for query in queries]
    return sum(found) / limit / len(queries)


def put(opened: Any, kept: dict[int, Any], keys: list[int], seed: int) -> None:
    made = unit(len(keys), seed)
    opened.append(keys, [seed] * len(keys), made)
    kept |= dict(zip(keys, made, strict=True))


def test_a_full_scan_is_exact(opened):
    kept: dict[int, Any] = {}
    put(opened, kept, list(range(1, 300)), 1)
    assert opened.codes is None
    for query in unit(30, 5):
        found = opened.best(query, 20)
        assert [key for key, _ in found] == exact(kept, query, 20)
        assert [cosine for _, cosine in found] == pytest.approx(
            [float(kept[key] @ query) for key, _ in found], abs=2e-3
        )


def test_the_search_by_codes_finds_nearly_all(opened):
    kept: dict[int, Any] = {}
    for part in range(8):
        put(opened, kept, list(range(1000 * part, 1000 * part + 400)), part + 1)
    assert opened.codes is not None
    assert len(opened) == 3200
    assert recall(opened, kept) >= 0.99
    query = unit(1, 50)[0]
    among = sorted(kept)[::7]
    assert [key for key, _ in opened.best(query, 10, among)] == exact({key: kept[key] for key in among}, query, 10)
    assert opened.background(query) == pytest.approx(
        float(np.mean([kept[key] @ query for key in kept])), abs=0.02
    )  # of a sample


def test_replaced_and_removed_rows_are_not_found(opened, tmp_path):
    from paperlab.site.search.vectors import Vectors

    kept: dict[int, Any] = {}
    put(opened, kept, list(range(1, 700)), 1)
    put(opened, kept, list(range(50, 150)), 2)
    put(opened, kept, [3, 4, 3], 3)
    opened.remove([5, 6, 7, 10_000])
    for key in (5, 6, 7):
        del kept[key]
    for reading in (opened, Vectors(tmp_path / "vectors", DIMENSION)):
        assert len(reading) == len(kept)
        assert sorted(reading.live_keys()) == sorted(kept)
        assert recall(reading, kept) >= 0.99
        assert {key for key, _ in reading.best(unit(1, 3)[0], 2_000)} == set(kept)
        assert reading.vector(5) is None
        assert reading.scores(unit(1, 3)[0], [5, 6, 10_000]) == {}
        assert reading.vector(3) == pytest.approx(kept[3], abs=1e-3)
        assert reading.missing({3: 3, 5: 1, 8: 1, 60: 1}) == [5, 60]


def test_a_reader_goes_on_while_codes_are_trained_anew(opened, tmp_path):
    from paperlab.site.search.vectors import Vectors

    kept: dict[int, Any] = {}
    put(opened, kept, list(range(1, 600)), 1)
    reader, stop, problems = Vectors(tmp_path / "vectors", DIMENSION), threading.Event(), []
    wanted, query = exact(kept, unit(1, 9)[0], 5), unit(1, 9)[0]

    def read() -> None:
        nonlocal reader
        while not stop.is_set():
            try:
                found = reader.best(query, 5)
                if not found or any(abs(cosine) > 1.01 for _, cosine in found):
                    problems.append("wrong")
                if not reader.reload():
                    reader = Vectors(tmp_path / "vectors", DIMENSION)
            except Exception as error:
                problems.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    for part in range(2, 12):
        put(opened, kept, list(range(1000 * part, 1000 * part + 500)), part)
    stop.set()
    thread.join()
    assert problems == []
    wanted = exact(kept, query, 5)
    assert [key for key, _ in Vectors(tmp_path / "vectors", DIMENSION).best(query, 5)] == wanted


def test_an_empty_index_answers(opened):
    assert opened.best(unit(1, 1)[0], 10) == []
    assert opened.scores(unit(1, 1)[0], [1]) == {}
    assert opened.vector(1) is None
    assert len(opened) == 0
    opened.remove([1, 2])


@pytest.mark.parametrize("few", [10, 10_000])
def test_filters_with_meaning_by_both_paths(few, files, meaning, monkeypatch):
    from search_papers import fill

    from paperlab.site.search import index
    from paperlab.site.search.query import Query, Within
    from paperlab.site.store.models import Paper

    monkeypatch.setattr(index, "FEW", few)
    fill(300)
    index.refresh()
    engine = index.engine()
    rows = {row.pk: row for row in Paper.objects.all()}
    query = meaning.query("quantization of language models")
    for told, holds in (
        (Query(category=("cs.LG",)), lambda row: "cs.LG" in row.categories),
        (Query(code=True), lambda row: bool(row.code)),
        (Query(category=("math",), code=True), lambda row: "math.OC" in row.categories and row.code),
        (Query(author=("ada",)), lambda row: "Ada" in row.authors[0]),
    ):
        inside = {pk: engine.vector(pk) for pk, row in rows.items() if holds(row)}
        found = engine.meaning(query, Within(told), 20)
        assert [key for key, _ in found] == exact(inside, query, 20)
        keys = frozenset(list(inside)[::2])
        near = [key for key, _ in engine.meaning(query, Within(told, keys), 5)]
        assert near == exact({key: inside[key] for key in keys}, query, 5)
