"""What each layout keeps of a model, and what it takes: the ground of `Layout.of`, which chooses for `--bits`.

    python benchmarks/engine/layouts.py --bits 4 3               # three models, some minutes each
    python benchmarks/engine/layouts.py --models abstracts-lm --layouts 32,min 64,sym

Language models: perplexity of held-out abstracts and the mean divergence (KL, nats) of the next token's distribution
from that of the weights as they are. Encoders: the mean and the lowest cosine to the vectors of those. A layout is
named by its group, by "sym" or "min" (a minimum beside each scale), and by the bits of embeddings and head where these
differ.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from paperlab import engine
from paperlab.assets.models import MODELS, model_folder
from paperlab.assets.texts import load_text
from paperlab.engine.language import LanguageModel

TOKENS = 160  # of each text that a language model reads
LAYOUTS = ("128,sym", "64,sym", "32,sym", "64,min", "32,min")


def texts(count: int) -> list[str]:
    """The first held-out abstracts."""
    text = load_text("abstracts")
    return [document for document in text.documents if document in text.held_out][:count]


def recipe(bits: int, name: str) -> list[tuple[str, engine.Layout]]:
    """ "32,min,8": groups of 32 with minima, embeddings and head in 8 bits of groups of 64."""
    group, kind, *tables = name.split(",")
    made = [("*", engine.Layout(bits, "row" if group == "row" else int(group), kind == "sym"))]
    for width in tables:
        apart = engine.Layout(int(width), 64) if width == "8" else engine.Layout(int(width), 32, symmetric=False)
        made += [("*embed_tokens", apart), ("*lm_head", apart)]
    return made


def distributions(model: LanguageModel, ids: list[list[int]]) -> list[np.ndarray]:
    """Log probabilities (tokens, vocabulary) after each token of each text."""
    out = []
    for text in ids:
        logits = model.forward([(model.session(len(text)), text)], every=True)
        logits -= logits.max(1, keepdims=True)
        out.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    return out


def main() -> None:
    """Measure what the command line asks for, one table to a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS)
    parser.add_argument("--texts", type=int, default=4)
    words = parser.parse_args()
    for name in words.models:
        folder = model_folder(name)[0]
        plain = engine.load(folder)
        language = isinstance(plain, LanguageModel)
        shown = texts(words.texts if language else 8 * words.texts)
        size = (folder / "model.safetensors").stat().st_size / 1e6
        if isinstance(plain, LanguageModel):
            ids = [plain.ids(text)[:TOKENS] for text in shown]
            truth = distributions(plain, ids)
            base = np.exp(-np.concatenate([plain.score(text) for text in ids]).mean())
            print(f"\n{name}: {size:.1f} MB as it is, perplexity {base:.2f} ({sum(map(len, ids))} tokens)\n")
            print("| bits | layout | MB | bits per weight | perplexity | KL |\n|---|---|---|---|---|---|")
        else:
            vectors = plain.embed(shown)
            print(f"\n{name}: {size:.1f} MB as it is ({len(shown)} texts)\n")
            print("| bits | layout | MB | bits per weight | mean cosine | lowest |\n|---|---|---|---|---|---|")
        for bits in words.bits:
            for layout in words.layouts:
                with tempfile.TemporaryDirectory() as place:
                    made = engine.pack(folder, Path(place) / "packed", recipe(bits, layout))
                    model = engine.load(Path(place) / "packed")
                    row = f"| {bits} | {layout} | {made['bytes'] / 1e6:.1f} | {made['bits_per_weight']:.2f} "
                    if isinstance(model, LanguageModel):
                        score = np.exp(-np.concatenate([model.score(text) for text in ids]).mean())
                        pairs = zip(truth, distributions(model, ids), strict=True)
                        apart = np.concatenate([(np.exp(p) * (p - q)).sum(1) for p, q in pairs]).mean()
                        print(f"{row}| {score:.2f} | {apart:.3f} |", flush=True)
                    else:
                        cosine = (model.embed(shown) * vectors).sum(1)
                        print(f"{row}| {cosine.mean():.5f} | {cosine.min():.5f} |", flush=True)


if __name__ == "__main__":
    main()
