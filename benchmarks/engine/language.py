"""Tokens per second, bytes and perplexity of SmolLM2-135M in the engine's formats, in turns.

    python benchmarks/engine/language.py --threads 2 --text wikitext2-test.txt --out packed/

Each format is packed once under --out. Decoding: 128 tokens after a prompt of 128; prefill: 512 tokens. llama.cpp joins
on the shipped Q4_1 file where llama-cpp-python is installed. "of read" is the share that the bytes of weights read per
second make of what a plain loop reads over as many bytes, measured in the same run.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from paperlab import engine
from paperlab.assets.models import model_folder
from paperlab.engine.language import LanguageModel

FORMATS = {
    "8 bits": engine.Layout(8),
    "4 bits": engine.Layout(4),
    "4 bits, groups of 32, minima": engine.Layout(4, 32, symmetric=False),
    "3 bits": engine.Layout(3),
    "2 bits": engine.Layout(2),
    "4 bits, half kept": engine.Layout(4, keep=0.5),
    "4 bits, quarter kept": engine.Layout(4, keep=0.25),
}


def opened(path: Path, threads: int, **options: object) -> LanguageModel:
    """A language model of the engine."""
    model = engine.load(path, threads=threads, **options)
    assert isinstance(model, LanguageModel)
    return model


def decode(model: LanguageModel, ids: list[int]) -> float:
    """Tokens per second after a prompt."""
    session = model.session(len(ids) + 128)
    model.forward([(session, ids[:-1])])
    begun = time.perf_counter()
    count = sum(1 for _ in model.generate_ids(ids[-1:], max_tokens=128, session=session, ignore_end=True))
    return count / (time.perf_counter() - begun)


def prefill(model: LanguageModel, ids: list[int]) -> float:
    """Tokens of a prompt per second."""
    session = model.session(len(ids))
    begun = time.perf_counter()
    model.forward([(session, ids)])
    return len(ids) / (time.perf_counter() - begun)


def read_rate(size: int, threads: int) -> float:
    """Bytes per second that `threads` loops of NumPy's sum read, over `size` bytes in all."""
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:
        best = 0.0
        for _ in range(5):
            begun = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, size / (time.perf_counter() - begun))
    return best


def llama_cpp(file: Path, threads: int) -> tuple[Callable[[list[int]], float], Callable[[list[int]], float]] | None:
    """llama.cpp's decoding and prefill, where it is installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    model = Llama(str(file), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def decoding(ids: list[int]) -> float:
        model.reset()
        model.eval(ids)
        begun = time.perf_counter()
        for _ in range(128):
            model.eval([model.sample(temp=0)])
        return 128 / (time.perf_counter() - begun)

    def filling(ids: list[int]) -> float:
        model.reset()
        begun = time.perf_counter()
        model.eval(ids)
        return len(ids) / (time.perf_counter() - begun)

    return decoding, filling


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8000, help="tokens of --text that perplexity is taken over")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    folder = model_folder("smollm2-135m")[0]
    gguf = next(folder.glob("*.gguf"))
    models = {"float32": opened(folder, words.threads), "the shipped Q4_1 file": opened(gguf, words.threads)}
    models["the same, 8-bit activations"] = opened(gguf, words.threads, activation_bits=8)
    for name, layout in FORMATS.items():
        place = words.out / name.replace(" ", "-").replace(",", "")
        if not place.exists():
            engine.pack(folder, place, layout)
        models[name] = opened(place, words.threads)
    ids = np.random.default_rng(0).integers(100, 40000, 512).tolist()
    arms = {name: (lambda i, m=m: decode(m, i), lambda i, m=m: prefill(m, i)) for name, m in models.items()}
    if peer := llama_cpp(gguf, words.threads):
        arms["llama.cpp, the shipped Q4_1 file"] = peer
    decoded: dict[str, list[float]] = {name: [] for name in arms}
    filled: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(words.rounds + 1):
        for name, (decoding, filling) in arms.items():
            rates = decoding(ids[:128]), filling(ids)
            if turn:  # the first warms up
                decoded[name].append(rates[0])
                filled[name].append(rates[1])
    print(json.dumps({"threads": words.threads, "rounds": words.rounds, "load": os.getloadavg()[0]}))
    print("| format | MB per token | bits per weight | decode, tokens/s | of read | prefill, tokens/s | perplexity |")
    print("|---|---|---|---|---|---|---|")
    for name in arms:
        speed, fill = statistics.median(decoded[name]), statistics.median(filled[name])
        if name not in models:
            print(f"| {name} | | | {speed:.0f} | | {fill:.0f} | |")
            continue
        model = models[name]
        size, weights = model.about["bytes_per_token"], model.about["weights_per_token"]
        share = speed * size / read_rate(size, words.threads)
        quality = ""
        if words.text:
            text = model.tokens.encode(words.text.read_text(encoding="utf-8")[: words.tokens * 8])[: words.tokens]
            parts = [text[i : i + 1000] for i in range(0, len(text) - 1, 1000)]
            quality = f"{np.exp(-np.concatenate([model.score(part) for part in parts]).mean()):.2f}"
        bits = 8 * size / weights
        print(f"| {name} | {size / 1e6:.1f} | {bits:.2f} | {speed:.0f} | {share:.0%} | {fill:.0f} | {quality} |")


if __name__ == "__main__":
    main()
