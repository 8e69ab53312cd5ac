"""LoRC over 4-bit rounding, measured without paperlab: exact SVD, transformers, an own perplexity.

    python benchmarks/independent/zeroquant_v2_lorc.py MODEL TEXTS

MODEL: a folder of a Llama-like model. TEXTS: lee_background.cor of gensim's test data (the half of its lines whose
SHA-256 have odd ranks; 32 windows of 128 tokens), or abstracts.jsonl.xz (the rows that are held out; 96 windows).
Prints the perplexity of the model, of its 4-bit weights (one range with a zero point per row), and of those with
rank-8 factors in 8 bits added.
"""

import hashlib
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer


def documents(file: str) -> list[str]:
    """Those that no model is calibrated on."""
    if file.endswith(".xz"):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            return [row["text"].strip() for row in map(json.loads, lines) if row["held_out"]]
    texts = list(dict.fromkeys(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line))
    odd = set(sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[1::2])
    return [text for text in texts if text in odd]


def windows(folder: str, file: str) -> Tensor:
    """(windows, 128) tokens of the documents, one after another."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    between = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    stream: list[int] = []
    for text in documents(file):
        stream += tokenizer(text, add_special_tokens=False)["input_ids"] + [between]
    count = 96 if file.endswith(".xz") else 32
    return torch.tensor(stream[: count * 128]).view(count, 128)


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """exp of the mean negative log-likelihood of all tokens but each window's first."""
    total = 0.0
    for row in tokens:
        logs = model(input_ids=row[None]).logits[0].double().log_softmax(-1)
        total -= logs[:-1].gather(1, row[1:, None]).mean().item()
    return float(torch.tensor(total / len(tokens)).exp())


def rounded(weight: Tensor, bits: int = 4) -> Tensor:
    """Nearest of 2^bits evenly spaced values between each row's least and largest weight, 0 among them."""
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**bits - 1)
    zero = (-low / step).round()
    return step * ((weight / step).round() + zero).clamp(0, 2**bits - 1).sub(zero)


def eight_bits(rows: Tensor) -> Tensor:
    """Each row to 8 bits, symmetric."""
    step = rows.abs().amax(1, keepdim=True) / 127
    return (rows / step).round() * step


def with_factors(weight: Tensor, rank: int = 8) -> Tensor:
    """The rounded weights and the best approximation of their error, its two factors in 8 bits."""
    base = rounded(weight)
    u, s, vt = torch.linalg.svd(weight.double() - base, full_matrices=False)
    left = (u[:, :rank] * s[:rank].sqrt()).T
    right = s[:rank].sqrt()[:, None] * vt[:rank]
    return base + (eight_bits(left).T @ eight_bits(right)).float()


def measured(folder: str, tokens: Tensor, change: Callable[[Tensor], Tensor] | None) -> float:
    """The perplexity with every linear layer of the blocks changed."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if change is not None and isinstance(module, nn.Linear) and ".layers." in name:
            module.weight.data = change(module.weight.data)
    return perplexity(model, tokens)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tokens = windows(*sys.argv[1:3])
    original, plain, lorc = (measured(sys.argv[1], tokens, change) for change in (None, rounded, with_factors))
    print(f"original {original:.4f}  rounded to 4 bits {plain:.4f}  with rank-8 factors {lorc:.4f}")
    print(f"relative gain of the factors {100 * (plain - lorc) / plain:+.2f} %")
