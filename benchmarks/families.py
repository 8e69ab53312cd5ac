"""How often guessed families are right: by cross-validation on the bundled catalogue, and a sample to read by eye.

    python benchmarks/families.py [--daily FILE.jsonl.gz] [--seed N]

prints the table of benchmarks/families.md and, with a file of daily papers (title, abstract), 60 of them with their
guesses. Vectors are made anew: some minutes on a slow machine.
"""

import argparse
import gzip
import json
import random
import time

import numpy as np

from paperlab.core.paper import papers
from paperlab.site.start import configure

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--daily", help="JSON lines of daily papers, compressed by gzip")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    configure()
    from paperlab.site.search import encoder, families

    titles, bodies, labels = families.examples()
    texts = [". ".join(filter(None, pair)) for pair in zip(titles, bodies, strict=True)]
    vectors = encoder.load().passages(texts)
    count = len(papers())
    models = {}
    for name, given in (("words and vectors", vectors), ("words alone", None)):
        begun = time.perf_counter()
        models[name] = model = families.Model(titles, bodies, labels, given)
        seconds = time.perf_counter() - begun
        scores, wanted = model.left_out[:count], labels[:count]
        right, sure, found = scores.argmax(1) == wanted, model.confidence(scores), scores.argmax(1) > 0
        print(
            f"\n{name}: learnt in {1000 * seconds:.0f} ms; accuracy {right.mean():.3f} of {count}, left out in turn\n"
        )
        print("| confidence at least | given a family | of those right |\n|---|---|---|")
        for least in THRESHOLDS:
            given_one = found & (sure >= least)
            print(f"| {least} | {given_one.mean():.3f} | {right[given_one].mean():.3f} |")
    if not options.daily:
        return
    with gzip.open(options.daily, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    ours = {paper.arxiv for paper in papers().values()}
    chosen = random.Random(options.seed).sample([row for row in rows if row["id"] not in ours], 60)
    model = models["words and vectors"]
    made = encoder.load().passages([f"{row['title']}. {row['abstract']}" for row in chosen])
    begun = time.perf_counter()
    guesses = [
        model.guess(row["title"], row["abstract"], np.asarray(vector)) for row, vector in zip(chosen, made, strict=True)
    ]
    print(f"\n{len(chosen)} daily papers in {1000 * (time.perf_counter() - begun):.0f} ms\n")
    for guess, row in sorted(zip(guesses, chosen, strict=True), key=lambda pair: -pair[0].confidence):
        print(f"{guess.confidence:.2f}  {guess.given or '-':20} ({guess.family or '-'})  {row['title'][:100]}")


if __name__ == "__main__":
    main()
