"""Outlier Suppression+ against SmoothQuant on a Llama layout, measured without paperlab: 4 bits, one range per token.

    python benchmarks/independent/outlier_suppression_plus.py MODEL TEXTS

Nothing is folded: a layer rounds x / s and W s, which is the same. Thresholds are searched as the authors do, in 100
equal steps down to 0.1; SmoothQuant's strength is the best of 9 for the whole model. Four windows calibrate.
"""

import json
import lzma
import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer


def rounded(x: Tensor) -> Tensor:
    """Rows of x to 16 levels, each between its extremes."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = ((high - low) / 15).clamp(min=1e-9)
    zero = (-low / step).round()
    return ((x / step).round() + zero).clamp(0, 15).sub(zero) * step


class Layer(nn.Module):
    """A linear layer; rounds inputs and weights once it has a scale."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.exact, self.s = layer.weight.data, None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        self.seen = x
        return x @ self.exact.T if self.s is None else rounded(x / self.s) @ self.weight.T


def scale(layers: list[Layer], s: Tensor | float | None) -> None:
    """Round from now on, after this scaling; None: no longer."""
    for layer in layers:
        layer.s, layer.weight = s, layer.exact if s is None else rounded(layer.exact * s)


def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """Over 127 predicted tokens a window."""
    parts = [F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for ids in tokens.split(4)]
    return math.exp(float(sum(parts)) / len(parts))


def search(layers: list[Layer], part: nn.Module, last: Layer | None, model: nn.Module, tokens: Tensor) -> None:
    """Scale by the threshold of least error: of attention before o_proj, the gated units, or down_proj itself."""
    calls: list = []
    hook = part.register_forward_pre_hook(lambda _, args, named: calls.append((args, named)), with_kwargs=True)
    model(tokens)
    hook.remove()
    peak, results = layers[0].seen.abs().flatten(0, 1).amax(0), []
    for i in range(-1, 101):
        t = float(peak.max()) - i * (float(peak.max()) - 0.1) / 100
        scale(layers, None if i < 0 else (peak / t).clamp(min=1))
        out = part(*calls[0][0], **calls[0][1])
        results.append((last.seen if last else out, layers[0].s))
    best = min(results[1:], key=lambda pair: float((pair[0] - results[0][0]).square().sum()))
    scale(layers, best[1])


torch.set_grad_enabled(False)
folder, file = sys.argv[1:3]
tokenizer, ids = AutoTokenizer.from_pretrained(folder), {True: [], False: []}
with lzma.open(file, "rt", encoding="utf-8") as lines:
    for row in map(json.loads, lines):
        ids[row["held_out"]] += [*tokenizer.encode(row["text"].strip()), tokenizer.get_vocab()["<|endoftext|>"]]
held_out, few = (torch.tensor(ids[held][: n * 128]).view(n, 128) for held, n in ((True, 96), (False, 4)))
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
print(f"original {perplexity(model, held_out):.4f}")
for name, layer in [(n, c) for n, c in model.model.layers.named_modules() if isinstance(c, nn.Linear)]:
    setattr(model.model.layers.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], Layer(layer))
every = [layer for layer in model.modules() if isinstance(layer, Layer)]
pairs = [(block.self_attn, block.mlp) for block in model.model.layers]
model(few)
peaks = {layer: layer.seen.abs().flatten(0, 1).amax(0) for layer in every}
found = []
for alpha in (i / 10 for i in range(10)):  # 0: nothing is smoothed
    scale(every, 1.0)
    for group in (g for a, m in pairs for g in ([a.q_proj, a.k_proj, a.v_proj], [m.gate_proj, m.up_proj]) if alpha):
        weight = torch.stack([layer.exact.abs().amax(0) for layer in group]).amax(0)
        scale(group, peaks[group[0]] ** alpha / weight ** (1 - alpha))
    found.append((perplexity(model, few), alpha, perplexity(model, held_out)))
print(f"rounded {found[0][2]:.4f}, SmoothQuant, alpha {min(found[1:])[1]}: {min(found[1:])[2]:.4f}")
scale(every, None)
for a, m in pairs:
    search([a.q_proj, a.k_proj, a.v_proj], a, a.o_proj, model, few)
    scale([a.o_proj], 1.0)
    search([m.gate_proj, m.up_proj], m, m.down_proj, model, few)
    search([m.down_proj], m.down_proj, None, model, few)
print(f"Outlier Suppression+ {perplexity(model, held_out):.4f}")
