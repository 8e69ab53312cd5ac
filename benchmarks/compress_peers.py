"""Models that `paperlab compress` made beside llama.cpp's own quantizations of the same model, in one run.

    paperlab compress smollm2-135m -o small --target 4x --within 5% --anyway
    python benchmarks/compress_peers.py small --out made/ --peer PYTHON --rounds 5

PYTHON is an interpreter that has llama-cpp-python (with numpy); its quantizer makes each type of the shipped Q4_1 file.
Perplexity: the mean over windows of held-out abstracts, the same tokens for all. Speed: 64 tokens after a prompt of 64,
arms in turns, medians, on --threads threads.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "engine"))
import numpy as np
from language import Other, Ours

from paperlab.assets.models import model_folder
from paperlab.assets.texts import load_text, split_documents

KINDS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M")
MAKE = """
import ctypes, sys, llama_cpp
source, file, kind = sys.argv[1:]
how = llama_cpp.llama_model_quantize_default_params()
how.ftype, how.allow_requantize = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind), True
sys.exit(llama_cpp.llama_model_quantize(source.encode(), file.encode(), ctypes.byref(how)))
"""


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compressed", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=16)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    source = next(model_folder("smollm2-135m")[0].glob("*.gguf"))
    arms: dict[str, Ours | Other] = {
        f"compress: {folder.name}": Ours(folder, given.threads) for folder in given.compressed
    }
    sizes = {f"compress: {folder.name}": (folder / "model.safetensors").stat().st_size for folder in given.compressed}
    for kind in KINDS:
        file = given.out / f"{kind}.gguf"
        if not file.exists():
            subprocess.run([given.peer, "-c", MAKE, str(source), str(file), kind], check=True, capture_output=True)
        arms[f"llama.cpp {kind}"] = Other(given.peer, "llama.cpp", file, file.stat().st_size, given.threads)
        sizes[f"llama.cpp {kind}"] = file.stat().st_size
    arms["the shipped Q4_1 file, ours"] = Ours(source, given.threads)
    sizes["the shipped Q4_1 file, ours"] = source.stat().st_size

    ours = next(arm for arm in arms.values() if isinstance(arm, Ours))
    windows: list[list[int]] = []
    for document in split_documents(load_text("abstracts"), "held-out"):
        ids = list(ours.model.tokens.encode(document))[:256]
        if len(ids) >= 64:
            windows.append(ids)
        if len(windows) == given.windows:
            break
    losses = {name: [arm.nll(ids) for ids in windows] for name, arm in arms.items()}
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(given.rounds):
        for name, arm in arms.items():
            speeds[name].append(64 / arm.run(windows[0][:64], 64)[1])
    truth = losses["the shipped Q4_1 file, ours"]
    count = [len(ids) - 1 for ids in windows]
    print("| model | MB | perplexity | change, % | generated tok/s |\n|---|---:|---:|---:|---:|")
    for name in sorted(arms, key=lambda name: sizes[name]):
        mean, base = (float(np.average(one, weights=count)) for one in (losses[name], truth))
        change = f"{100 * (math.exp(mean - base) - 1):+.1f}"
        speed = f"{statistics.median(speeds[name]):,.0f}"
        print(f"| {name} | {sizes[name] / 1e6:.1f} | {math.exp(mean):.1f} | {change} | {speed} |")


if __name__ == "__main__":
    main()
