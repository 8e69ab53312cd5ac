"""Q-BERT's claim on ranges, measured again without a line of paperlab: 128 ranges a matrix against one, at 4 bits.

    python benchmarks/independent/q_bert.py MODEL TEXTS

MODEL: folder of a sentence encoder of BERT's layout (all-MiniLM-L6-v2). TEXTS: a document a line; every second one is
held out. Both arms train for 16 steps towards the original's embeddings. Printed: mean of 1 - cos(original, rounded)
over held-out documents, before and after training, for three draws of training windows.
"""

import copy
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

BITS, STEPS, RATE, ROWS, LENGTH = 4, 16, 3e-4, 8, 128


def rounded(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Each run of out / groups rows on its own grid from its least to its largest weight, zero being on it."""
    parts = weight.reshape(groups, -1)
    low, high = parts.amin(1, keepdim=True), parts.amax(1, keepdim=True)
    step = (high - low) / (2**BITS - 1)
    zero = torch.round(-low / step)
    codes = torch.clamp(torch.round(parts / step) + zero, 0, 2**BITS - 1)
    return ((codes - zero) * step).reshape(weight.shape)


class Layer(torch.nn.Module):
    """A linear layer that multiplies with its rounded weight; gradients pass straight through the rounding."""

    def __init__(self, layer: torch.nn.Linear, groups: int) -> None:
        super().__init__()
        self.weight, self.bias, self.groups = layer.weight, layer.bias, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        weight = self.weight + (rounded(self.weight, self.groups) - self.weight).detach()
        return torch.nn.functional.linear(x, weight, self.bias)


def embed(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Unit means of the token outputs."""
    mask = inputs["attention_mask"][..., None].float()
    hidden = model(**inputs).last_hidden_state
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def main(folder: str, file: str) -> None:
    """Three draws, two arms."""
    texts = [line for line in Path(file).read_text(encoding="latin-1").splitlines() if line.strip()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    original = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()

    def inputs(chosen: list[str]) -> dict[str, torch.Tensor]:
        return dict(tokenizer(chosen, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"))

    held_out = [inputs(texts[i : i + 32 : 2]) for i in range(1, min(len(texts), 257), 32)]
    with torch.no_grad():
        wanted = [embed(original, batch) for batch in held_out]

    def error(model: torch.nn.Module) -> float:
        with torch.no_grad():
            gaps = [1 - (embed(model, b) * w).sum(1) for b, w in zip(held_out, wanted, strict=True)]
        return torch.cat(gaps).mean().item()

    for seed in range(3):
        order = torch.randperm(len(texts[::2]), generator=torch.Generator().manual_seed(seed)).tolist()
        for groups in (128, 1):
            model = copy.deepcopy(original).requires_grad_(False)
            for block in model.encoder.layer:
                for name, child in list(block.named_modules()):
                    if isinstance(child, torch.nn.Linear):
                        block.set_submodule(name, Layer(child, groups))
            weights = [m.weight.requires_grad_(True) for m in model.modules() if isinstance(m, Layer)]
            before, adam = error(model), torch.optim.Adam(weights, lr=RATE)
            for step in range(STEPS):
                at = step * ROWS % 64
                batch = inputs([texts[::2][i] for i in order[at : at + ROWS]])
                with torch.no_grad():
                    target = embed(original, batch)
                adam.zero_grad()
                (embed(model, batch) - target).square().sum(1).mean().backward()
                adam.step()
            print(f"draw {seed}, {groups} ranges: {before:.4f} untrained, {error(model):.4f} trained", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
