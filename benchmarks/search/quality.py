"""How well the ranking finds what people judged relevant: words alone, meaning alone, both.

    python benchmarks/search/quality.py --data FOLDER [--weak TABLE TOKENIZER] [--out benchmarks/search/quality.md]

FOLDER holds collections: BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv), `cacm` (corpus.jsonl,
queries.jsonl, TREC qrels.txt), `vaswani` (TREC doc-text.trec, query-text.trec, qrels), each file plain or .gz. Every
collection is loaded into a store of its own and indexed; queries go through `rank.search`, the code that serves users.

Encoders: all-MiniLM-L6-v2 by paperlab's engine, by OpenVINO, and mixed (stored texts by OpenVINO, queries by the
engine: an index that was begun before the engine was installed); a weak static one (a safetensors table of token
vectors, averaged; e.g. the 256-d one that the package wordllama carries) by --weak; and random vectors.
nDCG@10 and recall@100 by ir-measures; a document that is the query itself is not left out.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CALLS = ("words", "meaning", "both", "rank fusion")
MINILM = "all-MiniLM-L6-v2 by the engine"
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7)


def lines(folder: Path, name: str) -> Iterator[str]:
    """The lines of a file, plain or compressed."""
    file = folder / name
    with gzip.open(f"{file}.gz", "rt", errors="replace") if not file.exists() else open(file) as stream:
        yield from stream


def collection(folder: Path) -> tuple[list[tuple[str, str, str]], dict[str, str], dict[str, dict[str, int]]]:
    """(documents as (id, title, text), {query id: text}, {query id: {document id: grade}})."""
    if (folder / "doc-text.trec.gz").exists() or (folder / "doc-text.trec").exists():
        text = "".join(lines(folder, "doc-text.trec"))
        docs = [(i.strip(), "", body) for i, body in re.findall(r"(?is)<docno>(.*?)</docno>(.*?)</doc>", text)]
        asked = re.findall(r"(?is)<num>(.*?)</num>\s*<title>(.*?)</title>", "".join(lines(folder, "query-text.trec")))
        queries = {i.strip(): text.strip() for i, text in asked}
    else:
        rows = [json.loads(line) for line in lines(folder, "corpus.jsonl")]
        docs = [(str(row.get("_id", row.get("id"))), row.get("title") or "", row.get("text") or "") for row in rows]
        asked_ = [json.loads(line) for line in lines(folder, "queries.jsonl")]
        queries = {str(row.get("_id", row.get("id"))): row["text"] for row in asked_}
    judged: dict[str, dict[str, int]] = {}
    name = next(name for name in ("qrels/test.tsv", "qrels.txt", "qrels") if (folder / name).is_file())
    for line in lines(folder, name):
        parts = line.split()
        if len(parts) == 4:
            judged.setdefault(parts[0], {})[parts[2]] = int(parts[3])
        elif len(parts) == 3 and parts[2].lstrip("-").isdecimal():
            judged.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    return docs, {key: queries[key] for key in judged if key in queries}, judged


class Mixed:
    """Stored texts by one encoder, embedded once for those that ask again; queries by another."""

    def __init__(self, stored: Any, asked: Any, kept: dict[str, Any]) -> None:
        self.stored, self.kept, self.query = stored, kept, asked.query
        self.name, self.dimension = stored.name, stored.dimension

    def passages(self, texts: Any) -> Any:
        """(n, dimension), unit length."""
        import numpy as np

        if missing := [text for text in texts if text not in self.kept]:
            self.kept |= dict(zip(missing, self.stored.passages(missing), strict=True))
        return np.stack([self.kept[text] for text in texts])


class Table:
    """A static encoder: the mean of token vectors."""

    def __init__(self, table: str, tokenizer: str) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self.table = next(iter(load_file(table).values())).astype("float32")
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.name, self.dimension = "static", self.table.shape[1]

    def passages(self, texts: Any) -> Any:
        """(n, dimension), unit length."""
        import numpy as np

        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = np.stack([self.table[e.ids].mean(0) if e.ids else self.table[0] for e in encoded])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def query(self, text: str) -> Any:
        """(dimension,)."""
        return self.passages([text.lower() if text.isupper() else text])[0]


class Random:
    """An encoder that knows nothing."""

    name, dimension = "random", 384

    def passages(self, texts: Any) -> Any:
        """(n, dimension), unit length, the same for the same text."""
        import zlib

        import numpy as np

        rows = np.stack([np.random.default_rng(zlib.crc32(t.encode())).standard_normal(384) for t in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")

    def query(self, text: str) -> Any:
        """(dimension,)."""
        return self.passages(["? " + text])[0]


def measure(folder: Path, weak: tuple[str, str] | None) -> list[dict[str, Any]]:
    """One collection, in a process and a home of its own: rows of the table."""
    from paperlab.site.start import configure

    configure()
    from django.core.management import call_command

    from paperlab.site.search import encoder as encoders
    from paperlab.site.search import index, rank
    from paperlab.site.search.query import Query, Within
    from paperlab.site.search.words import asked
    from paperlab.site.store import clean
    from paperlab.site.store.models import Counter, Paper

    call_command("migrate", interactive=False, verbosity=0)
    docs, queries, judged = collection(folder)
    Paper.objects.bulk_create(
        [
            Paper(title=title, title_key=clean.title_key(f"{i} {title}"), abstract=clean.paragraphs(body), revision=1)
            for i, title, body in docs
        ],
        batch_size=500,
    )
    Counter.objects.update_or_create(name="revision", defaults={"value": 1})
    names = dict(zip(Paper.objects.order_by("pk").values_list("pk", flat=True), (i for i, _, _ in docs), strict=True))
    rows = []
    ours, theirs, kept = encoders.load("engine"), encoders.load("openvino"), dict[str, Any]()
    encoder_list: dict[str, Any] = {
        MINILM: ours,
        "the same by OpenVINO": Mixed(theirs, theirs, kept),
        "stored by OpenVINO, asked by the engine": Mixed(theirs, ours, kept),
        "random": Random(),
    } | ({"static": Table(*weak)} if weak else {})
    for name, encoder in encoder_list.items():
        encoders.load = lambda named=None, encoder=encoder: encoder  # type: ignore[assignment]
        encoders.available = lambda: True
        index.refresh(rebuild=True)
        engine = index.engine()

        def words(text: str, engine: Any = engine) -> list[tuple[int, float]]:
            return engine.words(asked(text), Within(), 1000)

        def meaning(text: str, engine: Any = engine, encoder: Any = encoder) -> list[tuple[int, float]]:
            return engine.meaning(encoder.query(text), Within(), 1000)

        def both(text: str) -> list[tuple[int, float]]:
            return [(hit.paper, hit.score) for hit in rank.search(Query(text=text, limit=100)).hits]

        def rank_fusion(text: str) -> list[tuple[int, float]]:
            scores: dict[int, float] = {}
            for found in (words(text), meaning(text)):
                for place, (key, _) in enumerate(found, 1):
                    scores[key] = scores.get(key, 0.0) + 1 / (60 + place)
            return sorted(scores.items(), key=lambda row: -row[1])[:1000]

        for call, ask in zip(CALLS, (words, meaning, both, rank_fusion), strict=True):
            told = {query: [(names[key], score) for key, score in ask(text)] for query, text in queries.items()}
            rows.append(
                {"collection": folder.name, "encoder": name, "trust": index.state().trust, "call": call}
                | scored(told, judged)
            )
        if name == MINILM:
            for weight in WEIGHTS:
                rank.WEIGHT = weight
                told = {query: [(names[key], score) for key, score in both(text)] for query, text in queries.items()}
                rows.append(
                    {"collection": folder.name, "encoder": name, "call": f"weight {weight}"} | scored(told, judged)
                )
            rank.WEIGHT = 0.5
    return rows


def scored(run: dict[str, list[tuple[str, float]]], judged: dict[str, dict[str, int]]) -> dict[str, float]:
    """nDCG@10 and recall@100 over all judged queries."""
    import ir_measures
    from ir_measures import R, ScoredDoc, nDCG

    docs = [ScoredDoc(query, doc, score) for query, found in run.items() for doc, score in found]
    qrels = [
        ir_measures.Qrel(query, doc, grade)
        for query, docs in judged.items()
        if query in run
        for doc, grade in docs.items()
    ]
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 100], qrels, docs)
    return {"ndcg": found[nDCG @ 10], "recall": found[R @ 100]}


def main() -> None:
    """Measure every collection in a process of its own; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weak", nargs=2, metavar=("TABLE", "TOKENIZER"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, tuple(arguments.weak) if arguments.weak else None)))
        return
    from paperlab.core.home import home

    models = home() / "models"
    rows: list[dict[str, Any]] = []
    for folder in sorted(path for path in arguments.data.iterdir() if path.is_dir()):
        with tempfile.TemporaryDirectory() as scratch:
            if models.is_dir():
                os.symlink(models.resolve(), Path(scratch) / "models")
            weak = ["--weak", *arguments.weak] if arguments.weak else []
            command = [sys.executable, __file__, "--data", str(arguments.data), "--one", str(folder), *weak]
            done = subprocess.run(
                command, env={**os.environ, "PAPERLAB_HOME": scratch}, stdout=subprocess.PIPE, check=True
            )
            rows += json.loads(done.stdout.splitlines()[-1])
            print(folder.name, file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def table(rows: list[dict[str, Any]]) -> str:
    """The result page."""
    names = sorted({row["collection"] for row in rows})
    at = {(row["collection"], row["encoder"], row["call"]): row for row in rows}
    out = ["# Search quality", "", "Written by `quality.py`, whose head says how. nDCG@10 / recall@100.", ""]
    out += [f"| encoder | side | {' | '.join(names)} | mean nDCG@10 |", "|---|---|" + "---|" * (len(names) + 1)]
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        for call in CALLS:
            cells = [at[name, encoder, call] for name in names]
            mean = sum(cell["ndcg"] for cell in cells) / len(cells)
            shown = " | ".join(f"{cell['ndcg']:.4f} / {cell['recall']:.3f}" for cell in cells)
            out.append(f"| {encoder} | {call} | {shown} | {mean:.4f} |")
        trusts = " | ".join(f"{at[name, encoder, 'both']['trust']:.2f}" for name in names)
        out.append(f"| {encoder} | *trust, measured without judgements* | {trusts} | |")
    out += ["", "## The weight, chosen on the other collections", ""]
    out += [
        "| collection | " + " | ".join(map(str, WEIGHTS)) + " | best on the others | there |",
        "|---|" + "---|" * (len(WEIGHTS) + 2),
    ]
    for name in names:
        cells = [at[name, MINILM, f"weight {weight}"]["ndcg"] for weight in WEIGHTS]
        others = [other for other in names if other != name] or names
        best = max(WEIGHTS, key=lambda w: sum(at[other, MINILM, f"weight {w}"]["ndcg"] for other in others))
        out.append(
            f"| {name} | "
            + " | ".join(f"{cell:.4f}" for cell in cells)
            + f" | {best} | {cells[WEIGHTS.index(best)]:.4f} |"
        )
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
