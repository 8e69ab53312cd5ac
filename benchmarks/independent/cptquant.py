"""CPTQuant's finding measured again without a line of paperlab: the first and the last layers are the most sensitive.

    python benchmarks/independent/cptquant.py MODEL TEXTS

MODEL: folder of a Llama-like model. TEXTS: .jsonl.xz, in each row a text and whether it is held out. Weights are
rounded to nearest in groups of 32, each from its least to its largest weight. Printed: perplexity on 96 windows of 128
tokens with one block at 2 bits and the others as they are, for each block; then with 8, 4 and 2 bits from the ends to
the middle of the stack (a sixth, a half, a third of the blocks), and from the middle to the ends.
"""

import copy
import json
import lzma
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """On the grid of each 32 weights of a row; zero is on it."""
    parts = weight.reshape(-1, 32)
    low, high = parts.amin(1, keepdim=True).clamp(max=0), parts.amax(1, keepdim=True).clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
    zero = torch.round(-low / step)
    return ((torch.clamp(torch.round(parts / step) + zero, 0, 2**bits - 1) - zero) * step).reshape(weight.shape)


def main(folder: str, file: str) -> None:
    """One block at a time, then the two mixes."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        texts = [row["text"] for row in map(json.loads, lines) if row["held_out"]]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [i for text in texts for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], 0]]
    rows = torch.tensor(ids[: 96 * 128]).reshape(96, 128)

    def perplexity(bits: dict[int, int]) -> float:
        model = copy.deepcopy(original)
        with torch.no_grad():
            for block, width in bits.items():
                for layer in model.model.layers[block].modules():
                    if isinstance(layer, torch.nn.Linear):
                        layer.weight.copy_(rounded(layer.weight, width))
            return math.exp(sum(model(input_ids=part, labels=part).loss.item() for part in rows.split(8)) / 12)

    count = len(original.model.layers)
    print(f"original: {perplexity({}):.3f}", flush=True)
    for block in range(count):
        print(f"block {block} of {count} at 2 bits: {perplexity({block: 2}):.3f}", flush=True)
    widths = [8] * (count // 6) + [4] * (count // 2) + [2] * (count - count // 6 - count // 2)
    outside_in = sorted(range(count), key=lambda block: -abs(2 * block - count + 1))
    for name, order in (("ends", outside_in), ("middle", outside_in[::-1])):
        print(f"most bits for the {name}: {perplexity(dict(zip(order, widths, strict=True))):.3f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
