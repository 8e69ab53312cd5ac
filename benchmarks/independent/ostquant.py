"""Weights and activations at 4 bits with and without rotations, without paperlab: python ostquant.py MODEL TEXTS

MODEL: src/paperlab/data/models/abstracts-lm. TEXTS: src/paperlab/data/texts/abstracts.jsonl.xz; 96 windows of 128
held-out tokens. Each linear layer is rounded in a basis of its own, x W^T = (x Q)(W Q)^T, with Q a random Hadamard
matrix: what OSTQuant starts from, before it learns anything and before GPTQ.
"""

import json
import lzma
import math
import sys

import torch
from scipy.linalg import hadamard
from transformers import AutoModelForCausalLM, AutoTokenizer


def rotation(width: int) -> torch.Tensor:
    """Random signs times Hadamard blocks of the largest power of two that divides the width."""
    size = width & -width
    blocks = torch.block_diag(*[torch.tensor(hadamard(size), dtype=torch.float32) / size**0.5] * (width // size))
    return (torch.randint(2, (width,)) * 2.0 - 1)[:, None] * blocks


def per_token(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Between each token's minimum and maximum."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    unit = (high - low).clamp(min=1e-9) / (2**bits - 1)
    return ((x - low) / unit).round() * unit + low


def per_row(weight: torch.Tensor) -> torch.Tensor:
    """Symmetric, 4 bits."""
    unit = weight.abs().amax(1, keepdim=True) / 7.5
    return (weight / unit).round().clamp(-8, 7) * unit


def main() -> None:
    """Perplexity unrounded, rounded, and rounded in rotated bases."""
    folder, texts = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with lzma.open(texts, "rt", encoding="utf-8") as stream:
        held = [row["text"] for row in map(json.loads, stream) if row["held_out"]]
    ids = [token for text in held for token in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    rows = torch.tensor(ids[: 96 * 128]).view(96, 128)
    for what, bits, turned in (
        ("unrounded", 16, False), ("W4A4", 4, False), ("W4A4, rotated", 4, True), ("W4A3", 3, False),
        ("W4A3, rotated", 3, True),
    ):  # fmt: skip
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and "lm_head" not in name and bits < 16:
                q = rotation(layer.in_features) if turned else torch.eye(layer.in_features)
                layer.weight.data = per_row(layer.weight.data @ q)
                layer.register_forward_pre_hook(lambda _, args, q=q, bits=bits: (per_token(args[0] @ q, bits),))
        with torch.no_grad():
            logits = model(rows).logits[:, :-1].flatten(0, 1)
        value = math.exp(torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten()))
        print(f"{what}: {value:.3f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
