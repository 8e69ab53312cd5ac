"""BAQ's claim measured again without a line of paperlab: perplexity below GPTQ's at the same mean bits of a code.

    python benchmarks/independent/baq.py MODEL TEXTS

MODEL: folder of a Llama-like model. TEXTS: .jsonl.xz, in each row a text and whether it is held out. All layers are
measured on the original model's inputs. Printed: perplexity on 96 windows of 128 tokens, and mean bits, for GPTQ, for
GPTQ in the order of the Hessian's diagonal, and for BAQ, under two draws of 32 calibration windows.
"""

import copy
import functools
import json
import lzma
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def windows(tokenizer, texts: list[str]) -> torch.Tensor:
    """(n, 128) token ids of the texts in a row."""
    ids = [i for text in texts for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], 0]]
    return torch.tensor(ids[: len(ids) // 128 * 128]).reshape(-1, 128)


@torch.no_grad()
def hessians(model, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """X^T X of every linear layer inside the blocks."""
    found, model = {}, copy.deepcopy(model)

    def watch(name: str, _, args, __) -> None:
        x = args[0].flatten(0, 1).double()
        found[name] = x.T @ x

    for name, layer in model.model.layers.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(functools.partial(watch, f"model.layers.{name}"))
    model(input_ids=rows)
    return found


def sweep(weight: torch.Tensor, hessian: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round column after column, later ones answering for the error: (rounded weights, each column's loss)."""
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    work, done, losses = weight.clone(), torch.zeros_like(weight), torch.zeros(len(hessian))
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    for j, top in enumerate((levels - 1).tolist()):
        if top > 0:
            step = (high - low) / top
            zero = torch.round(-low / step)
            done[:, j] = step * (torch.clamp(torch.round(work[:, j] / step) + zero, 0, top) - zero)
        error = (work[:, j] - done[:, j]) / upper[j, j]
        losses[j] = error.square().sum() / 2
        work[:, j:] -= error[:, None] * upper[j, j:][None]
    return done, losses


def rounded(weight: torch.Tensor, hessian: torch.Tensor, bits: int, how: str) -> tuple[torch.Tensor, float]:
    """One matrix by "gptq", "gptq, ordered" or "baq", and its mean bits."""
    levels = torch.full((len(hessian),), 2.0**bits)
    order = (hessian.diagonal() if how == "gptq, ordered" else -torch.arange(len(hessian))).argsort(descending=True)
    found, losses = sweep(weight[:, order], hessian[order][:, order], levels)
    if how == "baq":
        share = losses / (losses + 1e-8).log().mean().exp()
        levels = (share ** (1 / 1.95) * 2**bits).clamp(min=1).round()
        found = sweep(weight, hessian, levels)[0]
    return found[:, order.argsort()], levels.log2().mean().item()


def main(folder: str, file: str) -> None:
    """Draws, bits, methods."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pool, held_out = (windows(tokenizer, [r["text"] for r in rows if r["held_out"] == own]) for own in (False, True))

    @torch.no_grad()
    def perplexity(model) -> float:
        return math.exp(sum(model(input_ids=rows, labels=rows).loss.item() for rows in held_out[:96].split(8)) / 12)

    print(f"original: {perplexity(original):.3f}")
    for draw in range(2):
        chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(draw))[:32]
        seen = hessians(original, pool[chosen])
        for bits in (3, 2):
            for how in ("gptq", "gptq, ordered", "baq"):
                model, spent, sizes = copy.deepcopy(original), 0.0, 0
                for name, hessian in seen.items():
                    weight = model.get_submodule(name).weight.data
                    found, mean = rounded(weight.double(), hessian, bits, how)
                    weight.copy_(found)
                    spent, sizes = spent + mean * weight.numel(), sizes + weight.numel()
                print(f"draw {draw}, {how}: {perplexity(model):.3f} at {spent / sizes:.3f} bits", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
