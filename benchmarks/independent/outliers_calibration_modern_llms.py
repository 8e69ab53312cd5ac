"""Does GPTQ care what it is calibrated on? Measured without paperlab: own GPTQ, 2 bits in groups of 64.

    python benchmarks/independent/outliers_calibration_modern_llms.py MODEL TEXTS

Perplexity on 96 windows of held-out abstracts; 32 windows of other abstracts, of Python's own library, or of tokens
drawn evenly calibrate. Rounding to nearest looks at none.
"""

import json
import lzma
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

BITS, GROUP = 2, 64


def grid(w: Tensor) -> tuple[Tensor, Tensor]:
    """Step and zero point of each row of (out, n)."""
    low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
    step = (high - low) / (2**BITS - 1)
    return step, (-low / step).round()


def to_grid(w: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """A column (out,) rounded."""
    return ((w / step).round() + zero).clamp(0, 2**BITS - 1).sub(zero) * step


def gptq(weight: Tensor, hessian: Tensor | None) -> Tensor:
    """Column by column, each error spread over the columns to come; without a Hessian it is rounding to nearest."""
    w, out = weight.double(), torch.empty_like(weight, dtype=torch.float64)
    inverse = torch.eye(w.shape[1], dtype=torch.float64)
    if hessian is not None:
        hessian = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
        inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    for j in range(w.shape[1]):
        if j % GROUP == 0:
            step, zero = grid(w[:, j : j + GROUP])
        out[:, j] = to_grid(w[:, j], step, zero)
        error = (w[:, j] - out[:, j]) / inverse[j, j]
        w = w - error[:, None] * torch.cat([torch.zeros(j), inverse[j, j:]])
    return out.float()


def measured(tokens: Tensor | None) -> float:
    """Perplexity after rounding block by block, Hessians from `tokens` behind the blocks rounded before."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for block in model.model.layers:
        layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        hessians: dict = dict.fromkeys(layers)
        seen: dict = {layer: [] for layer in layers}
        hooks = [layer.register_forward_pre_hook(lambda one, args, seen=seen: seen[one].append(args[0].flatten(0, 1)))
                 for layer in layers]  # fmt: skip
        if tokens is not None:
            for ids in tokens.split(8):
                model(ids)
            hessians = {layer: (x := torch.cat(seen[layer]).double()).T @ x for layer in layers}
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.weight.data = gptq(layer.weight.data, hessians[layer])
    parts = [F.cross_entropy(model(i).logits[:, :-1].flatten(0, 1), i[:, 1:].flatten()) for i in held_out.split(4)]
    return math.exp(float(sum(parts)) / len(parts))


torch.set_grad_enabled(False)
folder, file = sys.argv[1:3]
tokenizer = AutoTokenizer.from_pretrained(folder)
streams: dict = {True: [], False: []}
with lzma.open(file, "rt", encoding="utf-8") as lines:
    for row in map(json.loads, lines):
        streams[row["held_out"]] += [*tokenizer.encode(row["text"].strip()), tokenizer.get_vocab()["<|endoftext|>"]]
held_out = torch.tensor(streams[True][: 96 * 128]).view(96, 128)
source = (
    "".join(Path(module.__file__).read_text() for module in (json, lzma))
    + Path(sys.modules["typing"].__file__).read_text()
)
draw = torch.Generator().manual_seed(0)
print(f"round to nearest {measured(None):.4f}")
for name, ids in (
    ("abstracts", torch.tensor(streams[False])),
    ("program code", torch.tensor(tokenizer.encode(source))),
    ("random tokens", torch.randint(len(tokenizer), (32 * 128,), generator=draw)),
):
    print(f"GPTQ on {name} {measured(ids[: 32 * 128].view(-1, 128)):.4f}")
