"""Which embedded engines the search is built on: words, vectors and the encoder, each peer on the same papers.

    pip install bm25s usearch lancedb numkong onnxruntime PyStemmer
    python benchmarks/search/engines.py --papers FILE.jsonl[.gz|.xz] --vectors REAL.npy [--count 200000] [--out FILE]

Papers and vectors are resampled as `speed.py` does. Queries go round the engines in turn: a busy machine is busy for
all. Words: top 100 of an OR query, the words stemmed and without stop words in every engine (FTS5: its own porter).
Vectors: top 10, recall against an exact float32 scan; "a row added" is what one more vector costs until a new reader
finds it. Encoder: all-MiniLM-L6-v2 in int8, through paperlab's engine, OpenVINO and, if it is installed, ONNX Runtime
(the same file as OpenVINO); this part alone, over the bundled papers, without any download:

    python benchmarks/search/engines.py --encoders
"""

import argparse
import importlib.util
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from speed import COMMON, papers, resampled

Ask = Callable[[Any], list[int]]


def timed(engines: dict[str, Ask], queries: list[Any]) -> dict[str, list[float]]:
    """Seconds of every query on every engine, interleaved, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for query in queries[:3]:
        for ask in engines.values():
            ask(query)
    for query in queries:
        for name, ask in engines.items():
            begun = time.perf_counter()
            ask(query)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def size(folder: Path) -> str:
    """Bytes below a folder, in MB."""
    return f"{sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:,.0f}"


def ms(seconds: list[float]) -> str:
    """Median and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{1000 * cuts[49]:.1f} | {1000 * cuts[98]:.1f}"


def words(rows: list[dict[str, Any]], scratch: Path) -> list[str]:
    """The table of word engines."""
    import bm25s
    import Stemmer

    from paperlab.site.search.document import Document
    from paperlab.site.search.words import STEMS, Words, asked

    built: dict[str, float] = {}
    texts = [f"{row['title']}\n{row['abstract']}" for row in rows]

    begun = time.perf_counter()
    tantivy = Words(scratch / "tantivy")
    tantivy.write((Document(n, 1, row["title"], text, "", "", (), (), "", 0, False, 0, 0.0)
                   for n, (row, text) in enumerate(zip(rows, texts, strict=True))), large=True)  # fmt: skip
    built["tantivy"] = time.perf_counter() - begun

    begun = time.perf_counter()
    (scratch / "fts5").mkdir()
    base = sqlite3.connect(scratch / "fts5" / "index.db")
    base.execute("create virtual table papers using fts5(text, content='', tokenize='porter unicode61')")
    base.executemany("insert into papers(rowid, text) values (?, ?)", enumerate(texts))
    base.execute("insert into papers(papers) values ('optimize')")
    base.commit()
    built["SQLite FTS5"] = time.perf_counter() - begun

    begun = time.perf_counter()
    stemmer = Stemmer.Stemmer("english")
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    retriever = bm25s.BM25(k1=1.2, b=0.75)
    retriever.index(tokens, show_progress=False)
    built["bm25s"] = time.perf_counter() - begun
    retriever.save(scratch / "bm25s")

    def fts(text: str) -> list[int]:
        query = " OR ".join(f'"{word}"' for word in dict.fromkeys(STEMS.analyze(text)))
        found = base.execute("select rowid from papers where papers match ? order by rank limit 100", (query,))
        return [row[0] for row in found]

    def bm25(text: str) -> list[int]:
        query = bm25s.tokenize([text], stopwords="en", stemmer=stemmer, show_progress=False)
        return list(retriever.retrieve(query, k=100, show_progress=False)[0][0])

    engines: dict[str, Ask] = {
        "tantivy": lambda text: [key for key, _ in tantivy.best(asked(text), None, 100)],
        "SQLite FTS5": fts,
        "bm25s": bm25,
    }
    titles = [row["title"] for row in rows[:: len(rows) // 40]]
    rare, common = timed(engines, titles), timed(engines, COMMON * 4)
    begun = time.perf_counter()
    tantivy.write([Document(10**9, 1, "x", "zyzzyva", "", "", (), (), "", 0, False, 0, 0.0)])
    assert tantivy.best(asked("zyzzyva"), None, 1)
    added = {"tantivy": time.perf_counter() - begun}
    begun = time.perf_counter()
    base.execute("insert into papers(rowid, text) values (?, ?)", (10**9, "zyzzyva"))
    base.commit()
    assert fts("zyzzyva")
    added["SQLite FTS5"] = time.perf_counter() - begun
    out = [f"## Words, {len(rows):,} papers", "",
           "| engine | titles p50 ms | p99 | common words p50 ms | p99 | papers/s built | MB on disk | one added, s |",
           "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, folder in (("tantivy", "tantivy"), ("SQLite FTS5", "fts5"), ("bm25s", "bm25s")):
        told = f"{added[name]:.2f}" if name in added else "built anew"
        out.append(f"| {name} | {ms(rare[name])} | {ms(common[name])} | {len(rows) / built[name]:,.0f} | "
                   f"{size(scratch / folder)} | {told} |")  # fmt: skip
    return out


def vectors(base: Any, count: int, scratch: Path, queries: Any) -> list[str]:
    """The table of vector engines."""
    import lancedb
    import numkong
    import pyarrow
    from usearch.index import Index

    from paperlab.site.search.vectors import Vectors

    draw = np.random.default_rng(0)
    start, one, two = (base[draw.integers(0, len(base), count)] for _ in range(3))
    rows = start + 0.5 * (one - two) + 0.15 * draw.standard_normal(start.shape).astype(np.float32) / 384**0.5
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    del start, one, two
    truth = [set(np.argpartition(-(rows @ query), 10)[:10].tolist()) for query in queries]
    built, added = {}, {}
    more = rows[:1]

    def one_more(name: str, add: Callable[[], Any]) -> None:
        begun = time.perf_counter()
        add()
        added[name] = time.perf_counter() - begun

    begun = time.perf_counter()
    ours = Vectors(scratch / "ours", 384)
    for at in range(0, count, 20_000):
        ours.append(range(at, min(at + 20_000, count)), [1] * len(rows[at : at + 20_000]), rows[at : at + 20_000])
    built["4-bit codes, then float16"] = time.perf_counter() - begun

    begun = time.perf_counter()
    scale = 127 / np.abs(rows).max(1, keepdims=True)
    exact = np.rint(rows * scale).astype(np.int8)
    undo = (1 / scale[:, 0]).astype(np.float32)
    (scratch / "exact").mkdir()
    np.save(scratch / "exact" / "rows.npy", exact)
    built["exact int8 scan"] = time.perf_counter() - begun

    begun = time.perf_counter()
    graph = Index(ndim=384, metric="cos", dtype="i8", connectivity=16, expansion_add=128, expansion_search=256)
    graph.add(np.arange(count), rows, threads=os.cpu_count() or 1)
    (scratch / "usearch").mkdir()
    graph.save(scratch / "usearch" / "graph")
    built["usearch HNSW i8"] = time.perf_counter() - begun

    begun = time.perf_counter()
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), 384)
    table = pyarrow.table({"key": np.arange(count), "vector": column})
    lance = lancedb.connect(scratch / "lance").create_table("papers", table)
    lance.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_HNSW_SQ")
    built["LanceDB IVF_HNSW_SQ"] = time.perf_counter() - begun

    def scan(query: Any) -> list[int]:
        asked = np.rint(query * (127 / np.abs(query).max())).astype(np.int8)
        scores = np.asarray(numkong.cdist(asked[None], exact, "inner"))[0] * undo
        near = np.argpartition(-scores, 50)[:50]
        true = (exact[near] @ query) * undo[near]
        return near[np.argsort(-true)[:10]].tolist()

    def lanced(query: Any) -> list[int]:
        found = lance.search(query).distance_type("cosine").nprobes(20).ef(200).refine_factor(5).limit(10)
        return found.select(["key"]).to_arrow()["key"].to_pylist()

    engines: dict[str, Ask] = {
        "4-bit codes, then float16": lambda query: [key for key, _ in ours.best(query, 10)],
        "exact int8 scan": scan,
        "usearch HNSW i8": lambda query: graph.search(query, 10).keys.tolist(),
        "LanceDB IVF_HNSW_SQ": lanced,
    }
    seconds = timed(engines, list(queries))
    recall = {name: np.mean([len(set(ask(query)) & true) / 10 for query, true in zip(queries, truth, strict=True)])
              for name, ask in engines.items()}  # fmt: skip
    one_more("4-bit codes, then float16", lambda: ours.append([count], [1], more))
    one_more("usearch HNSW i8", lambda: (graph.add(count, more[0]), graph.save(scratch / "usearch" / "graph")))
    one_more("LanceDB IVF_HNSW_SQ", lambda: lance.add([{"key": count, "vector": more[0]}]))
    out = ["", f"## Vectors, {count:,} of 384", "",
           "| engine | p50 ms | p99 | recall@10 | vectors/s built | MB on disk | one added, s |",
           "|---|---|---|---|---|---|---|"]  # fmt: skip
    folders = dict(zip(engines, ("ours", "exact", "usearch", "lance"), strict=True))
    for name in engines:
        told = f"{added[name]:.3f}" if name in added else "append"
        out.append(f"| {name} | {ms(seconds[name])} | {recall[name]:.4f} | {count / built[name]:,.0f} | "
                   f"{size(scratch / folders[name])} | {told} |")  # fmt: skip
    return out


def encoders(texts: list[str], queries: list[str]) -> list[str]:
    """The table of runtimes."""
    from paperlab.core.home import home
    from paperlab.site.search import encoder

    engines: dict[str, Any] = {name: encoder.load(name) for name in encoder.RUNTIMES}
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(
            str(home() / "models" / encoder.ROUNDED[1] / "model.onnx"), providers=["CPUExecutionProvider"]
        )

        class Request:
            def __init__(self, alone: bool) -> None:
                pass

            def infer(self, told: dict[str, Any]) -> list[Any]:
                return session.run(None, told)  # type: ignore[no-any-return]

        theirs, run = engines["openvino"], object.__new__(encoder.OpenVINO)
        run.__dict__ |= {**theirs.run.__dict__, "_request": Request}
        engines["onnxruntime"] = object.__new__(encoder.Transformer)
        engines["onnxruntime"].__dict__ |= {**theirs.__dict__, "run": run}
    asked = timed({name: (lambda text, e=e: [int(e.query(text).size)]) for name, e in engines.items()}, queries)
    rate: dict[str, list[float]] = {name: [] for name in engines}
    for start in range(0, len(texts) - 31, 32):
        for name, one in engines.items():
            begun = time.perf_counter()
            one.passages(texts[start : start + 32])
            rate[name].append(32 / (time.perf_counter() - begun))
    made = {name: one.passages(texts[:64]) for name, one in engines.items()}
    shown = {"engine": "paperlab's engine", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
    out = ["", "## Encoder, all-MiniLM-L6-v2 in int8", "",
           "| runtime | query p50 ms | p99 | abstracts/s, median | least cosine to OpenVINO's |",
           "|---|---|---|---|---|"]  # fmt: skip
    for name in engines:
        cosine = np.min((made[name] * made["openvino"]).sum(1))
        out.append(f"| {shown[name]} | {ms(asked[name])} | {statistics.median(rate[name]):.0f} | {cosine:.5f} |")
    return out


def main() -> None:
    """Run all three; write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--papers", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--encoders", action="store_true", help="the encoder's runtimes alone")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from paperlab.core.home import BUNDLED
    from paperlab.site.search import encoder
    from paperlab.site.start import configure

    configure()
    if arguments.encoders:
        rows = [json.loads(line) for line in (BUNDLED / "catalogue.jsonl").read_text(encoding="utf-8").splitlines()]
        long = [" ".join([row["title"], row["summary"], *(claim["claim"] for claim in row["claims"])]) for row in rows]
        return print("\n".join(encoders(long[:256], [row["title"] for row in rows[-100:]])))
    if not (arguments.papers and arguments.vectors):
        parser.error("--papers and --vectors are needed, or --encoders alone")
    real = list(papers(arguments.papers))
    base = np.load(arguments.vectors).astype(np.float32)
    texts = [row["title"] for row in real[-100:]]
    scratch = Path(tempfile.mkdtemp())
    try:
        lines = ["# Engines of the search", "", "Written by `engines.py`, whose head says how.", ""]
        lines += words(list(resampled(real, arguments.count)), scratch)
        print("\n".join(lines), flush=True)
        lines += vectors(base, arguments.count, scratch, encoder.load("").passages(texts))
        print("\n".join(lines), flush=True)
        lines += encoders([f"{row['title']}. {row['abstract']}" for row in real[:256]], texts)
    finally:
        shutil.rmtree(scratch)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
