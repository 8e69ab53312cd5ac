"""What `paperlab compress` ends on, beside single methods of the catalogue packed at about the same size.

    paperlab compress abstracts-lm -o small --target 4x --within 5%
    python benchmarks/compress.py abstracts-lm small --tokens 4096

One table: bytes, perplexity and its change with the paired 95 % interval, KL, generated tokens per second; and
for each compressed folder which single methods are as small and no worse. The text is the held-out half of the bundled
abstracts, as in the command's own decision.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from paperlab.assets.models import model_folder
from paperlab.assets.texts import load_text, split_documents
from paperlab.core.words import number, percent, span
from paperlab.engine.measure import compare

# method, its settings, bits of embeddings and head
METHODS = (
    ("round-to-nearest", "bits=3 group=32", 8),
    ("gptq", "bits=3 group=32", 8),
    ("gptq", "bits=3 group=64", 8),
    ("gptq", "bits=3 group=32", 4),
    ("gptq", "bits=4 group=64", 4),
    ("gptq", "bits=2 group=32", 8),
    ("cptquant", "mean_bits=3 choices=2,3,4,8 group=32", 8),
    ("sparsegpt", "sparsity=0.5", 8),
)


def main() -> None:
    """Pack, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("compressed", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    asked = parser.parse_args()
    texts = split_documents(load_text("abstracts"), "held-out")
    with tempfile.TemporaryDirectory() as place:
        made: list[tuple[str, Path]] = [(f"compress: {one.name}", one) for one in asked.compressed]
        for count, (slug, settings, tables) in enumerate(METHODS):
            out = Path(place) / str(count)
            words = [word for setting in settings.split() for word in ("--set", setting)]
            command = ["pack", asked.model, "-o", str(out), "--method", slug, *words, "--tables", str(tables)]
            done = subprocess.run(
                [sys.executable, "-m", "paperlab", *command, "--no-measure"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"not packed: {slug} {settings}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            made.append((f"{slug} {settings}, tables {tables}", out))
        found = compare(model_folder(asked.model)[0], [path for _, path in made], texts, tokens=asked.tokens)
    print(f"{asked.model}: {found.tokens:,} tokens, {found.items} windows\n")
    print("| model | MB | perplexity | change | KL | tok/s |\n|---|---:|---:|---:|---:|---:|")
    rows = [("original", found.source), *((name, one) for (name, _), one in zip(made, found.models, strict=True))]
    for name, one in rows:
        change = f"{percent(one.change.value)} {span(one.change.low, one.change.high, percent)}".strip()
        print(
            f"| {name} | {one.bytes / 1e6:.3f} | {number(one.perplexity.value)} | {change} | {number(one.kl.value)} "
            f"| {one.generating:,.0f} |"
        )
    for name, mine in rows[1 : 1 + len(asked.compressed)]:
        better = [
            other
            for other, one in rows[1 + len(asked.compressed) :]
            if one.bytes <= mine.bytes and one.perplexity.value <= mine.perplexity.value
        ]
        print(f"\n{name}: {'no method is as small and no worse' if not better else ', '.join(better)}")


if __name__ == "__main__":
    main()
