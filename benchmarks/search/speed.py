"""How fast the search is at a million papers, the whole way: query text in, ranked hits with snippets out.

    python benchmarks/search/speed.py make HOME --papers FILE.jsonl[.gz|.xz] [--count 1000000] [--real 30000]
    python benchmarks/search/speed.py run HOME [--out benchmarks/search/speed.md]

`make` fills a store with papers resampled from real ones (a title of two halves, an abstract of sentences, from several
papers each), indexes their words, and gives them vectors: real embeddings of --real papers, each moved along the
difference of two others and a little at random. `run` measures warm searches through `rank.search`: titles, halves of
titles, common words, filters; one client, then eight at once in as many threads; recall of the vector index against an
exact scan; sizes; and the time until a paper that comes in can be found.
"""

import argparse
import gzip
import json
import lzma
import os
import random
import resource
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

COMMON = ["model learning data", "language model", "neural network training", "large language models", "deep learning",
          "attention", "a survey of methods", "speech recognition with transformers"]  # fmt: skip
PART = 20_000


def papers(file: Path) -> Iterator[dict[str, Any]]:
    """Rows with title, abstract, categories, authors."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(file.suffix, open)
    with opener(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def resampled(rows: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """New papers out of parts of real ones, the same for the same rows."""
    draw = random.Random(0)
    sentences = [[s for s in row["abstract"].split(". ") if len(s) > 20] or [row["abstract"]] for row in rows]
    titles = [row["title"].split() for row in rows]
    for _ in range(count):
        first, second = draw.choice(titles), draw.choice(titles)
        parts = [draw.choice(draw.choice(sentences)) for _ in range(draw.randrange(4, 9))]
        source = draw.choice(rows)
        yield {
            "title": " ".join([*first[: (len(first) + 1) // 2], *second[len(second) // 2 :]]),
            "abstract": ". ".join(parts),
            "authors": source.get("authors") or [],
            "categories": source.get("categories") or [],
            "published": date(2010, 1, 1) + timedelta(days=draw.randrange(6000)),
            "code": draw.random() < 0.2,
        }


def make(file: Path, count: int, real: int) -> None:
    """Fill the store and the index."""
    from paperlab.site.start import start

    start()
    from django.db import transaction

    from paperlab.site.search import index
    from paperlab.site.store import clean
    from paperlab.site.store.models import Counter, Paper

    rows = list(papers(file))
    begun, made = time.perf_counter(), 0
    revision = Counter.objects.get(name="revision").value
    pending: list[Any] = []

    def keep() -> None:
        nonlocal revision, made
        revision += 1
        for row in pending:
            row.revision = revision
        with transaction.atomic():
            Paper.objects.bulk_create(pending, batch_size=1000)
            Counter.objects.filter(name="revision").update(value=revision)
        made += len(pending)
        pending.clear()
        print(f"stored {made:,} at {made / (time.perf_counter() - begun):,.0f}/s", file=sys.stderr, flush=True)

    for number, row in enumerate(resampled(rows, count)):
        categories = row["categories"].split() if isinstance(row["categories"], str) else row["categories"]
        authors = clean.names(row["authors"])
        key = f"{number:032x}"
        pending.append(
            Paper(
                arxiv=f"{row['published']:%y%m}.{number:07d}",
                title=row["title"],
                title_key=key,
                abstract=row["abstract"],
                authors=authors,
                categories=categories,
                published=row["published"],
                year=row["published"].year,
                code="https://example.org/code" if row["code"] else "",
            )
        )
        if len(pending) == PART:
            keep()
    if pending:
        keep()
    begun = time.perf_counter()
    last = [begun]

    def told(what: str, done: int, total: int) -> None:
        print(
            f"{what} {done:,} of {total:,}, {done / (time.perf_counter() - begun):,.0f}/s", file=sys.stderr, flush=True
        )
        last[0] = time.perf_counter()

    index.refresh(meaning=False, progress=told)
    embed(rows, real)


def embed(rows: list[dict[str, Any]], real: int) -> None:
    """Give every paper of the store a vector: real embeddings of the first rows, moved about."""
    import numpy as np

    from paperlab.site.search import encoder as encoders
    from paperlab.site.search import index
    from paperlab.site.search.document import documents, stored
    from paperlab.site.search.vectors import Vectors

    encoder = encoders.load()
    real_file = index.folder() / "real.npy"
    base = (
        np.load(real_file)
        if real_file.exists()
        else encoder.passages([f"{r['title']}. {r['abstract']}" for r in rows[:real]])
    )
    np.save(real_file, base)
    now = index.state()
    vectors = Vectors(index.vectors_folder(now.generation, encoder.name), encoder.dimension)
    draw = np.random.default_rng(0)
    for batch in stored(size=PART):
        held = list(documents(batch))
        start_, one, two = (base[draw.integers(0, len(base), len(held))] for _ in range(3))
        rows_ = start_ + 0.5 * (one - two) + 0.15 * draw.standard_normal(start_.shape) / encoder.dimension**0.5
        rows_ = (rows_ / np.linalg.norm(rows_, axis=1, keepdims=True)).astype(np.float32)
        vectors.append([paper.key for paper in held], [index.text_hash(paper.passage) for paper in held], rows_)
        print(f"vectors {len(vectors):,}", file=sys.stderr, flush=True)
    index.keep(replace(now, encoder=encoder.name, vectors=now.words, trust=1.0, judged=len(vectors)))


def run(file: Path, out: Path | None) -> None:
    """Measure and write the table."""
    import numpy as np

    from paperlab.site.start import start

    start()
    from paperlab.site.search import index, rank
    from paperlab.site.search.query import Query
    from paperlab.site.store.models import Counter, Paper

    engine = index.engine()
    encoder = engine.encoder()
    assert encoder is not None
    assert engine.vectors is not None
    rows = [row for _, row in zip(range(45_000), papers(file), strict=False)][-400:]
    titles = [row["title"] for row in rows]
    kinds: dict[str, list[Query]] = {
        "whole titles": [Query(text=title) for title in titles[:200]],
        "four words of a title": [Query(text=" ".join(title.split()[:4])) for title in titles[200:]],
        "common words": [Query(text=text) for text in COMMON * 10],
        "common words, filtered": [Query(text=text, category=("cs.CL",), years=(2020, None)) for text in COMMON * 10],
        "rare filter": [Query(text=text, category=("cs.SD",), years=(2015, 2015), code=True) for text in COMMON * 5],
        "sorted by date": [Query(text=text, sort="date") for text in COMMON * 5],
        "a phrase": [Query(text=f'"{" ".join(title.split()[:2])}"') for title in titles[:80]],
    }
    for queries in kinds.values():
        for query in queries[:5]:
            rank.search(query)
    told = []
    everything: list[float] = []
    for name, queries in kinds.items():
        seconds = []
        for query in queries:
            begun = time.perf_counter()
            rank.search(query)
            seconds.append(time.perf_counter() - begun)
        told.append((name, len(seconds), *_quantiles(seconds)))
        if name in ("whole titles", "four words of a title", "common words"):
            everything += seconds
    told.append(("**the first three together**", len(everything), *_quantiles(everything)))
    together: list[float] = []
    mixed = [query for name in ("whole titles", "four words of a title", "common words") for query in kinds[name]]

    def client(number: int) -> None:
        draw = random.Random(number)
        for _ in range(40):
            query = draw.choice(mixed)
            begun = time.perf_counter()
            rank.search(query)
            together.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.append(("eight clients at once", len(together), *_quantiles(together)))
    alone = []
    for query in mixed[:100]:
        begun = time.perf_counter()
        encoder.query(query.text)
        alone.append(time.perf_counter() - begun)
    told.append(("of it: embedding the query", len(alone), *_quantiles(alone)))

    recall = _recall(engine.vectors, np.stack([encoder.query(query.text) for query in mixed[::4][:100]]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    disk = sum(path.stat().st_size for path in (index.folder() / engine.state.generation).rglob("*")) / 2**30

    before = time.perf_counter()
    revision = Counter.objects.get(name="revision").value + 1
    Paper.objects.create(
        title="Zyzzyva quokka retrieval",
        title_key=f"new{time.time_ns()}"[:32],
        abstract="A new one.",
        revision=revision,
    )
    Counter.objects.filter(name="revision").update(value=revision)
    found = rank.search(Query(text="zyzzyva quokka")).hits
    fresh = time.perf_counter() - before
    assert any(hit.why.words_rank == 1 for hit in found)
    lines = ["# Search speed", "", "Written by `speed.py run`, whose head says how. Milliseconds.", ""]
    lines += [
        f"{engine.size:,} papers, {len(engine.vectors):,} vectors of {encoder.dimension}; {os.cpu_count()} cores.",
        "",
    ]
    lines += ["| queries | n | p50 | p95 | p99 | most |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {n} | " + " | ".join(f"{1000 * value:.1f}" for value in values) + " |" for name, n, *values in told
    ]
    lines += ["", f"- vector recall@10 against an exact float32 scan of the stored vectors: {recall:.4f}"]
    lines += [f"- index on disk {disk:.2f} GiB; largest resident size of this process {memory:.2f} GiB"]
    lines += [f"- a paper stored is found after {fresh:.2f} s"]
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text)


def _quantiles(seconds: list[float]) -> tuple[float, float, float, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98], max(seconds)


def _recall(vectors: Any, queries: Any) -> float:
    import numpy as np

    best = np.full((len(queries), 10), -2.0)
    keys = np.zeros((len(queries), 10), np.int64)
    for start in range(0, vectors.count, PART):
        part = np.asarray(vectors.full[start : start + PART], np.float32)
        scores = queries @ part.T
        near = np.argpartition(-scores, 10, axis=1)[:, :10]
        best_ = np.concatenate([best, np.take_along_axis(scores, near, 1)], 1)
        keys_ = np.concatenate([keys, vectors.keys[near + start]], 1)
        order = np.argsort(-best_, 1)[:, :10]
        best, keys = np.take_along_axis(best_, order, 1), np.take_along_axis(keys_, order, 1)
    found = [{key for key, _ in vectors.best(query, 10)} for query in queries]
    return float(np.mean([len(set(true.tolist()) & got) / 10 for true, got in zip(keys, found, strict=True)]))


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("home", type=Path)
    parser.add_argument("--papers", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--real", type=int, default=30_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ["PAPERLAB_HOME"] = str(arguments.home)
    if arguments.what == "make":
        make(arguments.papers, arguments.count, arguments.real)
    else:
        run(arguments.papers, arguments.out)


if __name__ == "__main__":
    main()
