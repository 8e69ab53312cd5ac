"""EasyQuant against rounding to nearest at 4 bits, measured without paperlab: torch's Adam, an own perplexity.

    python benchmarks/independent/easyquant.py MODEL TEXTS [ARM ...]

MODEL and TEXTS as in zeroquant_v2_lorc.py. One range per row for all. Rounding is tried with and without a zero point.
"""

import hashlib
import json
import lzma
import math
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

BITS, LOW, HIGH = 4, -8, 7


def text(folder: str, file: str) -> Tensor:
    """(32 or 96, 128) token ids."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.get_vocab()["<|endoftext|>"]
    opened = lzma.open if file.endswith(".xz") else open
    with opened(file, "rt", encoding="utf-8") as lines:
        rows = [line.strip() for line in lines if line.strip()]
    if file.endswith(".xz"):
        rows, count = [row["text"].strip() for row in map(json.loads, rows) if row["held_out"]], 96
    else:
        rank = {row: hashlib.sha256(row.encode()).hexdigest() for row in rows}
        chosen, count = sorted(rank, key=lambda row: rank[row])[1::2], 32
        rows = [row for row in rank if row in chosen]
    parts = [tokenizer.encode(row, add_special_tokens=False) for row in rows]
    return torch.tensor([token for part in parts for token in (*part, end)][: count * 128]).view(count, 128)


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """Over the mean loss of 127 predicted tokens in each window."""
    losses = []
    for batch in tokens.split(8):
        logits = model(input_ids=batch).logits[:, :-1]
        losses.append(F.cross_entropy(logits.flatten(0, 1).double(), batch[:, 1:].flatten()))
    return math.exp(sum(map(float, losses)) / len(losses))


def with_zero_point(w: Tensor) -> Tensor:
    """Rounding to nearest between each row's extremes."""
    low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**BITS - 1)
    zero = (-low / step).round()
    return ((w / step).round() + zero).clamp(0, 2**BITS - 1).sub(zero) * step


def symmetric(w: Tensor) -> Tensor:
    """Rounding to nearest around 0."""
    step = 2 * w.abs().amax(1, keepdim=True) / (2**BITS - 1)
    return (w / step).round().clamp(LOW, HIGH) * step


def easyquant(w: Tensor, *, steps: int = 100, n: float = 3.0) -> Tensor:
    """Weights beyond n standard deviations as they are; the others with a step per row from Adam on the error."""
    apart = (w - w.mean()).abs() >= n * w.std()
    rest = w.masked_fill(apart, 0)
    first = 2 * rest.abs().amax(1, keepdim=True) / (2**BITS - 1)
    share = torch.ones_like(first, requires_grad=True)
    adam = torch.optim.Adam([share], lr=0.01)
    for _ in range(steps):
        codes = (rest / (share * first)).round().clamp(LOW, HIGH).detach()
        adam.zero_grad()
        (codes * share * first - rest).square().sum().backward()
        adam.step()
    step = (share * first).detach()
    return torch.where(apart, w, (rest / step).round().clamp(LOW, HIGH) * step)


def measured(folder: str, tokens: Tensor, change: Callable[[Tensor], Tensor]) -> float:
    """Perplexity with the linear layers of the blocks changed."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "layers" in name:
            layer.weight.data = change(layer.weight.data)
    return perplexity(model, tokens)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tokens = text(*sys.argv[1:3])
    arms: dict[str, Callable[[Tensor], Tensor]] = {
        "original": lambda w: w, "rounded, zero point": with_zero_point, "rounded, symmetric": symmetric,
        "EasyQuant": easyquant, "EasyQuant, no steps": partial(easyquant, steps=0),
    }  # fmt: skip
    for name in sys.argv[3:] or arms:
        print(f"{name:24} {measured(sys.argv[1], tokens, arms[name]):.4f}")
