"""LLM-FP4 against 4-bit integers, measured without paperlab: weights and inputs of a Llama layout in 4 bits.

    python benchmarks/independent/llm_fp4.py MODEL TEXTS

The nearest value of a format is taken. FP: three formats and the largest value (weights: of each row; inputs: of the
layer, each channel's lowered by a whole power of two where `shift`) by the least error of the output on 128 tokens.
INT: zero point, extremes of rows and of the layer's inputs. 32 windows calibrate.
"""

import json
import lzma
import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer


def values(exponent: int, mantissa: int) -> Tensor:
    """The format's values, the largest 1."""
    parts = [(e, m) for e in range(2**exponent) for m in range(2**mantissa)]
    positive = torch.tensor([2.0 ** max(e, 1) * ((e > 0) + m / 2**mantissa) for e, m in parts])
    return torch.cat([-positive, positive]).unique() / positive.max()


FORMS, SHARES = [(e, values(e, 3 - e)) for e in (1, 2, 3)], (1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """The value of the book nearest to each of x."""
    return book[torch.bucketize(x, (book[1:] + book[:-1]) / 2)]


class Layer(nn.Module):
    """A linear layer whose inputs go through `quantize`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.exact, self.weight, self.quantize = layer.weight.data, layer.weight.data, lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        self.seen = x.flatten(0, -2)
        return self.quantize(x) @ self.weight.T


def integers(layer: Layer) -> None:
    """Extremes, a zero point, 16 codes."""

    def grid(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        step = (high.clamp(min=0) - low.clamp(max=0)) / 15
        zero = (-low.clamp(max=0) / step).round()
        return ((x / step).round() + zero).clamp(0, 15).sub(zero) * step

    low, high = layer.seen.min(), layer.seen.max()
    layer.weight = grid(layer.exact, *layer.exact.aminmax(dim=1, keepdim=True))
    layer.quantize = lambda x: grid(x, low, high)


def floats(layer: Layer, shift: bool = False) -> None:
    """Search inputs first, then weights behind rounded inputs."""
    x, w, peak, tried = layer.seen[::32], layer.exact, layer.seen.abs().amax(0), []
    exact = x @ w.T
    for e, book in FORMS:
        for share in SHARES:
            most, top = math.log2((2 - 2.0 ** (e - 3)) * 2 ** (2**e - 1)), share * float(peak.max())
            k = (most - peak.clamp(min=1e-8).log2()).round() - round(most - math.log2(top))
            c = top / 2 ** (k.clamp(0, 2**e - 1) if shift else torch.zeros_like(k))
            tried.append((float(((nearest(x / c, book) * c - x) @ w.T).square().sum()), c, book))
    _, c, book = min(tried, key=lambda one: one[0])
    inputs, tried = nearest(x / c, book) * c, []
    for _, weights in FORMS:
        tops = (w.abs().amax(1, keepdim=True) * share for share in SHARES)
        options = torch.stack([nearest(w / top, weights) * top for top in tops])
        errors = torch.stack([(inputs @ option.T - exact).square().sum(0) for option in options])
        tried.append((float(errors.amin(0).sum()), options[errors.argmin(0), torch.arange(len(w))]))
    layer.weight = min(tried, key=lambda one: one[0])[1]
    layer.quantize = lambda y: nearest(y / c, book) * c


torch.set_grad_enabled(False)
tokenizer, ids = AutoTokenizer.from_pretrained(sys.argv[1]), {True: [], False: []}
with lzma.open(sys.argv[2], "rt", encoding="utf-8") as lines:
    for row in map(json.loads, lines):
        ids[row["held_out"]] += [*tokenizer.encode(row["text"].strip()), tokenizer.get_vocab()["<|endoftext|>"]]
held_out, few = (torch.tensor(ids[held][: n * 128]).view(n, 128) for held, n in ((True, 96), (False, 32)))
arms = {"original": None, "INT4": integers, "FP4": floats, "FP4, shifted": lambda one: floats(one, shift=True)}
for name, change in arms.items():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    for part in (part for block in model.model.layers for part in (block.self_attn, block.mlp)):
        for own, layer in [(n, c) for n, c in part.named_children() if isinstance(c, nn.Linear)]:
            setattr(part, own, Layer(layer))
    for block in model.model.layers:
        model(few)
        for layer in (one for one in block.modules() if isinstance(one, Layer) and change):
            change(layer)
    parts = [F.cross_entropy(model(i).logits[:, :-1].flatten(0, 1), i[:, 1:].flatten()) for i in held_out.split(4)]
    print(f"{name:12} {math.exp(float(sum(parts)) / len(parts)):.4f}")
