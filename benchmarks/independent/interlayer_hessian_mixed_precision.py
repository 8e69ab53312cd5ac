"""Inter-layer Hessians measured again without a line of paperlab: are pairs of blocks worth adding to the curvature?

    python benchmarks/independent/interlayer_hessian_mixed_precision.py MODEL TEXTS

MODEL: folder of a Llama-like model. TEXTS: .jsonl.xz, in each row a text and whether it is held out. A layer's score
is half its trace of the Gauss-Newton matrix (labels drawn from the model) times its mean squared error at 2 bits; with
pairs, its part of what its block costs beyond the sum when rounded with each neighbour is added. By score, layers get 4
bits until the mean is 3. Printed: perplexity on 96 windows of 128 tokens; each draw measures on four windows.
"""

import json
import lzma
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Each row on its own grid from its least to its largest weight; zero is on it."""
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**bits - 1)
    zero = torch.round(-low / step)
    return (torch.clamp(torch.round(weight / step) + zero, 0, 2**bits - 1) - zero) * step


class Model:
    """A model whose layers can be rounded for the length of one measurement."""

    def __init__(self, folder: str) -> None:
        self.net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        named = self.net.model.layers.named_modules()
        self.weights = {name: layer.weight for name, layer in named if isinstance(layer, torch.nn.Linear)}

    @torch.no_grad()
    def loss(self, bits: dict[str, int], rows: torch.Tensor) -> float:
        """Mean nats per token with these layers rounded."""
        kept = {name: self.weights[name].clone() for name in bits}
        for name, width in bits.items():
            self.weights[name].copy_(rounded(kept[name], width))
        parts = [self.net(input_ids=part, labels=part).loss.item() for part in rows.split(4)]
        for name, weight in kept.items():
            self.weights[name].copy_(weight)
        return sum(parts) / len(parts)

    def alone(self, rows: torch.Tensor) -> dict[str, float]:
        """Half the trace, of four probes, times the mean squared error, for each layer."""
        logits = self.net(input_ids=rows).logits[:, :-1].flatten(0, 1)
        found = dict.fromkeys(self.weights, 0.0)
        for _ in range(4):
            labels = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            slopes = torch.autograd.grad(loss, [*self.weights.values()], retain_graph=True)
            for name, slope in zip(found, slopes, strict=True):
                found[name] += slope.square().sum().item() / len(logits) / 4
        errors = {n: (rounded(w.detach(), 2) - w.detach()).square().mean().item() for n, w in self.weights.items()}
        return {name: trace * errors[name] / 2 for name, trace in found.items()}

    def excess(self, rows: torch.Tensor) -> list[float]:
        """Half of what each block costs beyond the sum with each of its neighbours."""
        blocks = [[n for n in self.weights if n.startswith(f"{i}.")] for i in range(len(self.net.model.layers))]
        base, found = self.loss({}, rows), [0.0] * len(blocks)
        rise = [self.loss(dict.fromkeys(names, 2), rows) - base for names in blocks]
        for i in range(len(blocks) - 1):
            pair = self.loss(dict.fromkeys(blocks[i] + blocks[i + 1], 2), rows) - base - rise[i] - rise[i + 1]
            found[i], found[i + 1] = found[i] + pair / 2, found[i + 1] + pair / 2
        return found


def main(folder: str, file: str) -> None:
    """Five draws, two orders."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), Model(folder)

    def windows(held_out: bool) -> torch.Tensor:
        chosen = [row["text"] for row in texts if row["held_out"] == held_out]
        ids = [i for text in chosen for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], 0]]
        return torch.tensor(ids[: len(ids) // 128 * 128]).reshape(-1, 128)

    pool, held_out = windows(False), windows(True)[:96]
    for draw in range(5):
        rows = pool[torch.randperm(len(pool), generator=torch.manual_seed(draw))[:4]]
        alone, excess = model.alone(rows), model.excess(rows)
        of = {name: int(name.split(".")[0]) for name in alone}
        whole = [sum(alone[name] for name in of if of[name] == block) for block in range(len(excess))]
        paired = {name: alone[name] * (1 + excess[of[name]] / whole[of[name]]) for name in alone}
        scores = {"curvature": alone, "curvature and pairs": paired}
        for how, score in scores.items():
            left = sum(weight.numel() for weight in model.weights.values())
            bits = dict.fromkeys(score, 2)
            for name in sorted(score, key=lambda name: -score[name]):
                if 2 * model.weights[name].numel() <= left:
                    bits[name], left = 4, left - 2 * model.weights[name].numel()
            print(f"draw {draw}, {how}: {math.exp(model.loss(bits, held_out)):.3f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
