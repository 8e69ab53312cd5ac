"""Tokens per second of the engine's formats and of other runtimes, in turns.

    python benchmarks/engine/language.py --out packed/                       # SmolLM2-135M
    python benchmarks/engine/language.py --out packed/ --shape 1.1b          # a 1.1B Llama of random codes: speed only
    python benchmarks/engine/language.py --out packed/ --busy                # beside a process that never rests
    python benchmarks/engine/language.py --out packed/ --text wikitext2.txt --rounds 0    # perplexities only
    python benchmarks/engine/language.py --out packed/ --peers peers/bin/python --models MODELS --keep results.json

Decoding: 128 tokens after the first one that follows a prompt of 128; to first: the milliseconds until that one.
Prefill: 512 tokens. What is packed or quantized lies under --out and serves the next run; llama.cpp (llama-cpp-python)
joins where it is installed, on files that its own quantizer made, pure; make_peers.py says what --peers needs.
--keep adds a run's turns to those of earlier runs, so that many short runs make one table. "of read" is the share that
the bytes of weights read per second make of what two loops read over as many bytes, measured in the same run.
Activations meet packed weights in 8 bits, as llama.cpp's do.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from peers import Peer
from random_llama import random_gguf, random_packed

from paperlab import engine
from paperlab.assets.models import model_folder
from paperlab.engine.language import LanguageModel
from paperlab.engine.native import call

FORMATS = {
    "8 bits": engine.Layout(8, 64, symmetric=True),
    "4 bits": engine.Layout(4, 64, symmetric=True),
    "4 bits, groups of 32, minima": engine.Layout(4, 32, symmetric=False),
    "3 bits": engine.Layout(3, 64, symmetric=True),
    "2 bits": engine.Layout(2, 64, symmetric=True),
    "4 bits, half kept": engine.Layout(4, keep=0.5),
    "4 bits, quarter kept": engine.Layout(4, keep=0.25),
}
QUANTIZED = {"Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0"}
# What peers.py calls them; a folder of --models, or the model's own; the file that holds the weights.
PEERS = {
    "OpenVINO GenAI int8": ("ov-int8", "openvino_model.bin"),
    "OpenVINO GenAI int4": ("ov-int4", "openvino_model.bin"),
    "ONNX Runtime GenAI int8": ("ort-int8", "model.onnx.data"),
    "ONNX Runtime GenAI int4": ("ort-int4", "model.onnx.data"),
    "torchao int8, compiled": ("torchao-int8", ""),
    "PyTorch bfloat16, compiled": ("torch-bf16", ""),
}
APART = {"ort-int8": 49_152 * 576 * 4}  # bytes of embeddings beside the head: a token reads one row of them
WIDTHS = {"torchao-int8": 1, "torch-bf16": 2}  # bytes of a weight


class Ours:
    """A model in the engine."""

    def __init__(self, path: Path, threads: int) -> None:
        begun = time.perf_counter()
        before = _resident()
        model = engine.load(path, threads=threads, activation_bits=8)
        assert isinstance(model, LanguageModel)
        self.load, self.resident = time.perf_counter() - begun, _resident() - before
        self.model, self.session = model, model.session(1024)
        self.bytes, self.weights = model.about["bytes_per_token"], model.about["weights_per_token"]

    def run(self, ids: list[int], count: int) -> tuple[float, float]:
        """Seconds to the first token after a prompt, and of `count` more."""
        self.session.truncate(0)
        begun = time.perf_counter()
        made = self.model.generate_ids(ids, max_tokens=1 + count, session=self.session, ignore_end=True)
        next(made)
        first = time.perf_counter() - begun
        return first, (time.perf_counter() - begun - first) if sum(1 for _ in made) == count else float("nan")

    def prefill(self, ids: list[int]) -> float:
        """Seconds of a prompt."""
        self.session.truncate(0)
        begun = time.perf_counter()
        self.model.forward([(self.session, ids)])
        return time.perf_counter() - begun

    def nll(self, ids: list[int]) -> float:
        """Mean negative log-likelihood."""
        return -float(np.mean(self.model.score(ids)))


class Other(Peer):
    """A model in another runtime."""

    def __init__(self, python: str, kind: str, path: Path, size: int, threads: int) -> None:
        super().__init__(python, kind, path, threads)
        self.bytes, self.weights = size, 0

    def run(self, ids: list[int], count: int) -> tuple[float, float]:
        """Seconds to the first token after a prompt, and of `count` more."""
        first, rest, _ = self.ask(ids, count)
        return first, rest

    def prefill(self, ids: list[int]) -> float:
        """Seconds of a prompt."""
        return self.ask(ids, 0)[0]

    def nll(self, ids: list[int]) -> float:
        """Mean negative log-likelihood."""
        return self.ask(ids, "score")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_rate(size: int, threads: int) -> float:
    """Bytes per second that plain loops read, over as many bytes."""
    return float(call("test_read", threads, size, 5))


def requantized(source: Path, out: Path, kind: str) -> Path:
    """A file that llama.cpp's quantizer makes of another, every matrix in the same type."""
    import llama_cpp

    file = out / f"{kind}.gguf"
    if not file.exists():
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{QUANTIZED[kind]}")
        how.pure = how.allow_requantize = True
        if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), ctypes.byref(how)):
            raise RuntimeError(f"llama.cpp could not quantize {source}")
    return file


def contestants(words: argparse.Namespace) -> dict[str, Callable[[], Ours | Other]]:
    """What takes turns, by name; packs what is not there yet."""
    threads, out, large = words.threads, words.out / words.shape, words.shape == "1.1b"
    out.mkdir(parents=True, exist_ok=True)
    folder = out if large else model_folder("smollm2-135m")[0]
    source = out / "f16.gguf" if large else next(folder.glob("*.gguf"))
    chosen = [part.strip() for part in words.formats.split(",")]
    arms: dict[str, Callable[[], Ours | Other]] = {}

    def add(name: str, arm: Callable[[], Ours | Other]) -> None:
        if any(part in name for part in chosen):
            arms[name] = arm

    def packed(name: str) -> Ours:
        place = out / name.replace(" ", "-").replace(",", "")
        if not place.exists() and large:
            random_packed(place, FORMATS[name])
        elif not place.exists():
            engine.pack(folder, place, FORMATS[name])
        return Ours(place, threads)

    def peer(file: Path) -> Other:
        return Other(sys.executable, "llama.cpp", file, file.stat().st_size, threads)

    if not large:
        add("the shipped Q4_1 file", lambda: Ours(source, threads))
    for name in FORMATS:
        add(name, lambda name=name: packed(name))
    if find_spec("llama_cpp") is None:
        print("llama.cpp is not installed and takes no part", file=sys.stderr)
    else:
        if large and not source.exists():
            random_gguf(source)
        if not large:
            add("llama.cpp, the shipped Q4_1 file", lambda: peer(source))
        for kind in QUANTIZED:
            add(f"llama.cpp, {kind} pure", lambda kind=kind: peer(requantized(source, out, kind)))
    for name, (kind, file) in PEERS.items() if words.peers and not large else ():
        place = words.models / kind if file else folder
        if not place.exists():
            print(f"{place} is not there: {name} takes no part", file=sys.stderr)
            continue
        size = (place / file).stat().st_size - APART.get(kind, 0) if file else 134_515_008 * WIDTHS[kind]
        add(name, lambda kind=kind, place=place, size=size: Other(words.peers, kind, place, size, threads))
    return arms


def show(rows: dict[str, dict[str, Any]]) -> None:
    """The table."""
    print("| format | MB per token | bits per weight | decode, tokens/s | of read | prefill, tokens/s | to first, ms | "
          "x Q4_0 | x Q8_0 | load, ms | resident, MB | perplexity |\n|" + "---|" * 12)  # fmt: skip
    median = {
        name: {kind: statistics.median(row[kind]) if row[kind] else 0.0 for kind in ("decode", "prefill", "first")}
        for name, row in rows.items()
    }
    for name, row in rows.items():
        speed = median[name]["decode"]
        bits = f"{8 * row['bytes'] / row['weights']:.2f}" if row["weights"] else ""
        share = f"{speed * row['bytes'] / row['read']:.0%}" if row.get("read") else ""
        over = [median.get(f"llama.cpp, {kind} pure", {}).get("decode") for kind in ("Q4_0", "Q8_0")]
        times = " | ".join(f"{speed / other:.2f}" if other else "" for other in over)
        quality = f"{row['perplexity']:.2f}" if "perplexity" in row else ""
        print(f"| {name} | {row['bytes'] / 1e6:.1f} | {bits} | {speed:.0f} | {share} | {median[name]['prefill']:.0f} | "
              f"{1e3 * median[name]['first']:.0f} | {times} | {1e3 * row['load']:.0f} | {row['resident'] / 1e6:.0f} | "
              f"{quality} |")  # fmt: skip


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=["smollm2-135m", "1.1b"], default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=4, help="turns that count; one more warms up")
    parser.add_argument("--formats", default="", help="parts of the names of rows, with commas; all without")
    parser.add_argument("--text", type=Path, help="take perplexities over it")
    parser.add_argument("--tokens", type=int, default=4000, help="tokens of --text, in windows of 1,000")
    parser.add_argument("--decode", type=int, default=128, help="tokens of a turn")
    parser.add_argument("--busy", action="store_true", help="a third thread is busy meanwhile")
    parser.add_argument("--peers", help="the interpreter of the other runtimes")
    parser.add_argument("--models", type=Path, default=Path("models"), help="what make_peers.py made")
    parser.add_argument("--keep", type=Path, help="a JSON file that turns are added to, those of earlier runs too")
    words = parser.parse_args()
    kept = json.loads(words.keep.read_text()) if words.keep and words.keep.exists() else {}
    models = {name: make() for name, make in contestants(words).items()}
    rows = {
        name: {"decode": [], "prefill": [], "first": []} | kept.get(name, {}) | {
            "bytes": model.bytes, "weights": model.weights, "load": model.load, "resident": model.resident
        }
        for name, model in models.items()
    }  # fmt: skip

    def keep() -> None:
        if words.keep:
            words.keep.write_text(json.dumps(kept | rows))

    ids = np.random.default_rng(0).integers(100, 31000, 512).tolist()
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if words.busy else None
    try:
        for turn in range(words.rounds + 1 if words.rounds else 0):
            for name, model in models.items():
                time.sleep(0.25)  # threads of the one before may wait busily for a while
                first, rest = model.run(ids[:128], words.decode if turn else 8)
                prefill = model.prefill(ids)
                if turn:
                    rows[name]["first"].append(first)
                    rows[name]["decode"].append(words.decode / rest)
                    rows[name]["prefill"].append(len(ids) / prefill)
            keep()
    finally:
        if neighbour:
            neighbour.kill()
    for name, model in models.items():
        if words.rounds:
            rows[name]["read"] = read_rate(model.bytes, words.threads)
        if words.text:
            text = words.text.read_text(encoding="utf-8")[: words.tokens * 8]
            encoded = next(m for m in models.values() if isinstance(m, Ours)).model.tokens.encode(text)[: words.tokens]
            parts = [encoded[i : i + 1000] for i in range(0, len(encoded) - 1, 1000)]
            total = sum(model.nll(part) * (len(part) - 1) for part in parts)
            rows[name]["perplexity"] = float(np.exp(total / sum(len(part) - 1 for part in parts)))
            keep()
    keep()
    print(
        json.dumps({"threads": words.threads, "rounds": words.rounds, "busy": words.busy, "load": os.getloadavg()[0]})
    )
    show(kept | rows)


if __name__ == "__main__":
    main()
