"""Exports of SmolLM2-135M, each computed by its own runtime and by the engine: the largest difference of logits.

    python benchmarks/engine/exports.py --llama-cpp /path/to/python-with-llama-cpp --out /tmp/exports

Needs torch, transformers and compressed-tensors beside paperlab. Prints the table of exports.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from paperlab import engine
from paperlab.assets.models import model_folder
from paperlab.engine.language import LanguageModel

PEER = Path(__file__).parents[2] / "tests" / "native" / "llama_peer.py"
TEXT = "The capital of France is Paris. The capital of Italy is Rome, and 2024 was a leap year."
PROMPTS = ("What is the capital of Italy?", "Write one sentence about the sea.", "Why is the sky blue?")
TOKENS = 40


def difference(mine: np.ndarray, theirs: np.ndarray) -> str:
    """Largest difference over the largest logit."""
    return f"{np.abs(mine - theirs).max() / np.abs(theirs).max():.1e}"


def by_transformers(folder: Path, ids: list[int]) -> np.ndarray:
    """Logits in float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def by_llama_cpp(python: str, file: Path, ids: list[int], prompt: list[int]) -> Any:
    """Logits of ids, and what follows the prompt greedily."""
    job, out = file.with_suffix(".json"), file.with_suffix(".npz")
    job.write_text(json.dumps({"ids": ids, "prompt": prompt, "tokens": TOKENS, "text": TEXT}))
    subprocess.run([python, str(PEER), str(file), str(job), str(out)], check=True)
    return np.load(out)


def opened(path: Path) -> LanguageModel:
    """A language model of the engine."""
    model = engine.load(path)
    assert isinstance(model, LanguageModel)
    return model


def main() -> None:
    """Export, compute twice, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", default=sys.executable, help="an interpreter that has llama-cpp-python")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    folder, _ = model_folder("smollm2-135m")
    shipped = next(folder.glob("*.gguf"))
    kept: dict[str, Any] = {"recipe": None}
    runs: list[tuple[str, Path, str, str, dict[str, Any]]] = [
        ("the shipped Q4_1 file to hf", shipped, "hf", "", kept),
        ("float32 to hf, bfloat16", folder, "hf", "", {"dtype": "BF16"}),
        ("4 bits, groups of 64", folder, "compressed-tensors", "", {"recipe": engine.Layout(4, 64)}),
        ("8 bits, whole rows", folder, "compressed-tensors", "", {"recipe": engine.Layout(8, "row")}),
        *(
            (f"float32 to {kind}", folder, "gguf", ".gguf", {"dtype": kind})
            for kind in ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")
        ),
        ("the shipped Q4_1 file to gguf", shipped, "gguf", ".gguf", kept),
    ]
    print("| export | MB | reloaded by | logits differ by | greedy tokens alike | chosen alike, forced |")
    print("|---|---|---|---|---|---|", flush=True)
    for number, (name, source, to, suffix, options) in enumerate(runs):
        out = given.out / f"{number}{suffix}"
        size = engine.export(source, out, to, **options)["bytes"]  # type: ignore[arg-type]
        model = opened(out)
        ids = model.ids(TEXT)
        logits = model.forward([(model.session(cache_bits=32), ids)], every=True)
        if to != "gguf":
            runtime = "transformers" + (" + compressed-tensors" if to != "hf" else "")
            row = [difference(logits, by_transformers(out, ids)), "", ""]
        else:
            runtime, alike, chosen = "llama.cpp", 0, []
            for words in PROMPTS:
                prompt = model.ids([{"role": "user", "content": words}])
                seen = by_llama_cpp(given.llama_cpp, out, ids, prompt)
                said = seen["tokens"].tolist()
                text = list(model.generate_ids(prompt, max_tokens=TOKENS, cache_bits=32, ignore_end=True))
                alike += next((i for i, (a, b) in enumerate(zip(text, said, strict=True)) if a != b), TOKENS)
                forced = model.forward([(model.session(cache_bits=32), prompt + said[:-1])], every=True)
                chosen += (forced[len(prompt) - 1 :].argmax(1) == said).tolist()
            row = [difference(logits, seen["logits"]), f"{alike} of {len(chosen)}", f"{sum(chosen)} of {len(chosen)}"]
        print(f"| {name} | {size / 1e6:.0f} | {runtime} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
