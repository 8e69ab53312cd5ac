"""Key/value caches rounded block by block in real decoding, without paperlab: python kv_adaquant.py MODEL TEXTS

MODEL: src/paperlab/data/models/abstracts-lm. TEXTS: src/paperlab/data/texts/abstracts.jsonl.xz, whose held-out rows are
read. The model decodes 32 tokens at a time; after each block its keys and values in the cache are rounded.
"""

import json
import lzma
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

LENGTH, BLOCK, GROUP, WINDOWS = 512, 32, 64, 24


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Minimum and maximum of each 64 channels of a token, and 2^bits levels between them."""
    if bits == 16:
        return x
    parts = x.reshape(*x.shape[:-1], -1, GROUP)
    low, high = parts.min(-1, keepdim=True).values, parts.max(-1, keepdim=True).values
    unit = (high - low).clamp(min=1e-9) / (2**bits - 1)
    return (((parts - low) / unit).round() * unit + low).reshape(x.shape)


@torch.no_grad()
def perplexity(model: torch.nn.Module, rows: torch.Tensor, keys: int, values: int) -> float:
    """Of all tokens but each row's first."""
    total = 0.0
    for ids in rows.split(4):
        cache, parts = DynamicCache(), []
        for start in range(0, LENGTH, BLOCK):
            out = model(input_ids=ids[:, start : start + BLOCK], past_key_values=cache, use_cache=True)
            parts.append(out.logits.float())
            for layer in cache.layers:
                layer.keys[:, :, start:] = rounded(layer.keys[:, :, start:], keys)
                layer.values[:, :, start:] = rounded(layer.values[:, :, start:], values)
        logits = torch.cat(parts, 1)[:, :-1]
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item() * len(ids)
    return math.exp(total / len(rows))


def main() -> None:
    """Print the perplexity for each pair of bits."""
    folder, texts = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with (lzma.open if texts.endswith(".xz") else open)(texts, "rt", encoding="utf-8") as stream:
        documents = [row["text"] for row in map(json.loads, stream) if row["held_out"]]
    ids = [token for text in documents for token in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    rows = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)[:WINDOWS]
    print(len(rows), "windows of", LENGTH)
    for keys, values in ((16, 16), (4, 4), (4, 2), (3, 3), (2, 4), (2, 2)):
        print(f"{keys}-bit keys, {values}-bit values: {perplexity(model, rows, keys, values):.3f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
