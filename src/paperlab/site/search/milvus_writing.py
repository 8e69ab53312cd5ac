"""Write the index on a Milvus server; milvus.py describes what is stored there."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from paperlab.site.search import cjk
from paperlab.site.search import encoder as encoders
from paperlab.site.search.document import BATCH, COLUMNS, Document, documents, stored
from paperlab.site.search.engine import PROBES, Progress, State, ahead, amiss, judge, text_hash
from paperlab.site.search.milvus import PREFIX, STATES, WINDOW, Milvus, forget, in_order, quoted, unreachable
from paperlab.site.search.trending import NEVER
from paperlab.site.search.words import PLAIN, placed
from paperlab.site.store.models import Paper

EMBEDDED = 64  # papers in one write of vectors
TEXT = 60_000  # bytes; the server takes 65,535
SAMPLE = 2_000  # vectors that the mean is made of
TREND = 240_000.0  # taken off, so that what is left keeps its digits in 32 bits


def _row(paper: Document) -> dict[str, Any]:
    archives = (category.partition(".")[0] for category in paper.categories)
    authors = " | ".join(" ".join(PLAIN.analyze(name)) for name in paper.authors)
    return {
        "key": paper.key,
        "author": f" {_cut(authors)} ",
        "category": [name[:100] for name in dict.fromkeys([*paper.categories, *archives])][:100],
        "family": paper.family,
        "year": paper.year,
        "code": paper.code,
    }


def _words(paper: Document) -> dict[str, Any]:
    stems = in_order(placed(paper.text))
    names = " ".join(PLAIN.analyze(paper.names))
    trend = -TREND if paper.trend == NEVER else paper.trend - TREND
    return {**_row(paper), "stems": f" {names} . {_cut(stems)} ", "orders": [float(paper.day), trend]}


def _cut(text: str) -> str:
    return text if len(text) < TEXT // 4 else text.encode()[:TEXT].decode(errors="ignore").rpartition(" ")[0]


def _make(server: Any, name: str, what: str, dimension: int = 2) -> None:
    """Make a collection of "papers", "vectors", "words" or "states", if it is not there."""
    from pymilvus import DataType, Function, FunctionType

    if server.has_collection(name):
        return
    schema = server.create_schema(auto_id=False)
    indexes = server.prepare_index_params()

    def text(field: str, **options: Any) -> None:
        schema.add_field(field, DataType.VARCHAR, max_length=65_535, **options)

    def vectors(field: str, size: int, kind: str = "FLAT", **params: int) -> None:
        schema.add_field(field, DataType.FLOAT_VECTOR, dim=size)
        indexes.add_index(field_name=field, index_type=kind, metric_type="IP", params=params)

    if what == "words":
        schema.add_field("word", DataType.VARCHAR, max_length=1_000, is_primary=True)
    else:
        schema.add_field("key", DataType.INT64, is_primary=True)
    if what in ("papers", "vectors"):
        text("author")
        text("family")
        schema.add_field("category", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=100, max_length=500)
        schema.add_field("year", DataType.INT64)
        schema.add_field("code", DataType.BOOL)
    if what == "papers":
        text("stems", enable_analyzer=True, enable_match=True, analyzer_params={"tokenizer": "standard"})
        schema.add_field("bm25", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["stems"], ["bm25"]))
        constants = {"bm25_k1": 1.2, "bm25_b": 0.75}
        indexes.add_index(field_name="bm25", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=constants)
    elif what == "vectors":
        vectors("vector", dimension, "HNSW", M=16, efConstruction=200)
        text("hash")  # as text: the server's integers have a sign
    elif what == "states":
        text("said")
    if what != "vectors":
        vectors("orders", 2)  # no collection is without a vector
    server.create_collection(name, schema=schema, index_params=indexes)


def keep(server: Any, state: State, middle: Sequence[float] | None = None) -> None:
    """Put a state on the server."""
    _make(server, STATES, "states")
    rows = [{"key": 1, "said": json.dumps(asdict(state)), "orders": [0.0, 0.0]}]
    if middle is not None:
        rows.append({"key": 2, "said": json.dumps(list(middle)), "orders": [0.0, 0.0]})
    server.upsert(STATES, rows)
    forget()


def refresh(uri: str, *, meaning: bool, rebuild: bool, progress: Progress | None) -> None:
    """Bring the server's index up to the store; see `index.refresh`, which holds the lock. Raises Unreachable."""
    reading = Milvus(uri)
    reading.writing = True
    now = reading.state
    try:
        target = now if now.generation and not rebuild else State(generation=f"{int(now.generation or 0) + 1:04d}")
        if target is not now:
            _clean(reading.server, now.generation)  # of a killed writer
        target = _write_words(reading, target, progress, switch=target is now)
        keep(reading.server, target)
        _clean(reading.server, target.generation)
        if meaning and encoders.setting() != "none":
            _write_vectors(reading, target, encoders.load(), progress)
    except Exception as error:
        if type(error).__module__.startswith(("pymilvus", "grpc", "milvus_lite")):
            raise unreachable(uri, error) from error
        raise


def _clean(server: Any, generation: str) -> None:
    for name in server.list_collections():
        if name.startswith(PREFIX) and name != STATES and not name.endswith(f"_{generation}"):
            server.drop_collection(name)


def _write_words(reading: Milvus, now: State, progress: Progress | None, *, switch: bool) -> State:
    server, reading.state = reading.server, now
    for what in ("papers", "words"):
        _make(server, reading.name(what), what)
    total, done = (ahead(now.words) if progress else 0), 0

    def write(rows: list[tuple]) -> None:
        gone = [row[0] for row in rows if row[COLUMNS.index("withdrawn")]]
        if gone:
            server.delete(reading.name("papers"), ids=gone)
        papers = list(documents(rows))
        if papers:
            server.upsert(reading.name("papers"), [_words(paper) for paper in papers])
        words = sorted({word for paper in papers for word in PLAIN.analyze(cjk.pairs(paper.title)) if len(word) > 3})
        if words:
            server.upsert(reading.name("words"), [{"word": word, "orders": [0.0, 0.0]} for word in words])

    for rows in stored(now.words):
        write(rows)
        now = replace(now, words=(rows[-1][1], rows[-1][0]))
        done += len(rows)
        if switch:
            keep(server, now)
        if progress:
            progress("words", done, total)
    if reading.size != Paper.objects.filter(withdrawn=False).count():
        gone, lost = amiss(_held(reading, "papers"), now.words)
        if gone:
            server.delete(reading.name("papers"), ids=gone)
        for start in range(0, len(lost), BATCH):
            write(list(Paper.objects.filter(pk__in=lost[start : start + BATCH]).values_list(*COLUMNS)))
    return now


def _held(reading: Milvus, what: str) -> list[int]:
    rows = reading.server.query_iterator(reading.name(what), filter="", output_fields=["key"], batch_size=WINDOW)
    return [row["key"] for batch in iter(rows.next, []) for row in batch]


def _write_vectors(reading: Milvus, now: State, encoder: encoders.Encoder, progress: Progress | None) -> None:
    import numpy as np

    server, reading.state = reading.server, now
    name = reading.name("vectors")
    if now.encoder != encoder.name:
        now = replace(now, encoder=encoder.name, vectors=(0, 0), trust=0.0, judged=0)
        if server.has_collection(name):
            server.drop_collection(name)
    _make(server, name, "vectors", encoder.dimension)
    total, done = (ahead(now.vectors) if progress else 0), 0

    def embed(rows: list[tuple]) -> None:
        nonlocal done
        gone = [row[0] for row in rows if row[COLUMNS.index("withdrawn")]]
        if gone:
            server.delete(name, ids=gone)
        papers = list(documents(rows))
        for start in range(0, len(papers), EMBEDDED):
            part = papers[start : start + EMBEDDED]
            stored_rows = reading.rows(name, f"key in {quoted(paper.key for paper in part)}", ["key", "hash", "vector"])
            vectors = {(row["key"], row["hash"]): row["vector"] for row in stored_rows}
            names = {paper.key: (paper.key, str(text_hash(paper.passage))) for paper in part}
            wanted = [paper for paper in part if names[paper.key] not in vectors]
            if wanted:
                made = encoder.passages([paper.passage for paper in wanted])
                vectors |= {names[paper.key]: row.tolist() for paper, row in zip(wanted, made, strict=True)}
            # Facts may have changed where the text has not.
            reused = [(paper, names[paper.key]) for paper in part]
            server.upsert(
                name, [{**_row(paper), "hash": known[1], "vector": vectors[known]} for paper, known in reused]
            )
            done += len(part)
            if progress:
                progress("vectors", done, total)

    for rows in stored(now.vectors):
        embed(rows)
        now = replace(now, vectors=(rows[-1][1], rows[-1][0]))
        keep(server, now)
    reading.state = now
    if reading.embedded != Paper.objects.filter(withdrawn=False).count():
        gone, lost = amiss(_held(reading, "vectors"), now.vectors)
        if gone:
            server.delete(name, ids=gone)
        for start in range(0, len(lost), BATCH):
            embed(list(Paper.objects.filter(pk__in=lost[start : start + BATCH]).values_list(*COLUMNS)))
    sample = [row["vector"] for row in reading.rows(name, "", ["vector"], SAMPLE)]
    middle = np.asarray(sample, np.float64).mean(0).tolist() if sample else [0.0]
    count = reading.embedded
    if count >= 2 * max(PROBES, now.judged):
        reading.loaded = encoder
        now = replace(now, trust=judge(reading, _held(reading, "vectors"), encoder), judged=count)
    keep(server, now, middle)
