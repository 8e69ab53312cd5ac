"""Vector quantization tuned with few or all codes a step, without paperlab: python pv_tuning.py MODEL TEXTS

Tuned on 32 windows of 128 tokens that are not held out, measured on 96 that are. One codebook of 256 words of 8
weights a matrix, from k-means that starts at weights drawn at random.
"""

import json
import lzma
import math
import sys

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS, RATE, CODE_RATES = 40, 3e-3, (0.03, 0.1)


def nearest(points: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Index of the word closest to each point."""
    return torch.cat([(words.square().sum(1) - 2 * part @ words.T).argmin(1) for part in points.split(8192)])


class Matrix:
    """One layer's scale, words and codes, and what the optimizer keeps."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self.layer, weight = layer, layer.weight.data
        self.scale = weight.square().mean(1, keepdim=True).sqrt()
        points = (weight / self.scale).view(-1, 8)
        self.words = points[torch.randperm(len(points))[:256]].clone()
        for _ in range(10):  # Lloyd
            codes = nearest(points, self.words)
            sums = torch.zeros_like(self.words).index_add(0, codes, points)
            count = codes.bincount(minlength=256)[:, None]
            self.words = torch.where(count > 0, sums / count.clamp(min=1), self.words)
        self.codes, self.moments = nearest(points, self.words), {}
        self.buffer = layer.weight.data = self._dense()

    def _dense(self) -> torch.Tensor:
        return self.words[self.codes].view_as(self.layer.weight) * self.scale

    def _move(self, name: str, gradient: torch.Tensor, step: int, rate: float, momentum: float) -> None:
        first, second = self.moments.get(name, (torch.zeros_like(gradient),) * 2)
        first, second = first.lerp(gradient, 1 - momentum), second.lerp(gradient.square(), 0.05)
        self.moments[name] = first, second
        update, value = first / (second.sqrt() + 1e-6), getattr(self, name)
        rate *= math.sqrt(1 - 0.95**step) / (1 - momentum**step)
        setattr(self, name, value - rate * value.norm() / update.norm() * update)

    def step(self, step: int, share: float, code_rate: float) -> None:
        """One step by the layer's gradient; `share` of the codes may change."""
        gradient = self.layer.weight.grad
        words = torch.zeros_like(self.words).index_add(0, self.codes, (gradient * self.scale).view(-1, 8))
        scale = (gradient * self.words[self.codes].view_as(gradient)).sum(1, keepdim=True)
        self._move("buffer", gradient, step, code_rate, 0.0)
        self._move("words", words, step, RATE, 0.9)
        self._move("scale", scale, step, RATE, 0.9)
        if share:
            apart = (self.buffer - self._dense()).view(-1, 8).square().sum(1)
            chosen = apart.topk(math.ceil(share * len(apart))).indices
            self.codes[chosen] = nearest((self.buffer / self.scale).view(-1, 8)[chosen], self.words)
        self.layer.weight.data, self.layer.weight.grad = self._dense(), None


def main() -> None:
    """Perplexity of the original, after clustering, and after tuning with each share."""
    folder, texts = sys.argv[1:]
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), {True: [], False: []}
    with lzma.open(texts, "rt", encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            rows[row["held_out"]] += [*tokenizer(row["text"]).input_ids, tokenizer.eos_token_id]
    test, tune = (torch.tensor(rows[key][: n * 128]).view(n, 128) for key, n in ((True, 96), (False, 32)))
    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    kinds = [("clustered", 0, 0, 0.0), ("words only", STEPS, 0, 0.0)]
    for rate in CODE_RATES:
        kinds += [("pv", STEPS, 0.025, rate), ("straight-through", STEPS, 1, rate)]
    for what, steps, share, rate in kinds:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
        matrices = [Matrix(layer.requires_grad_()) for layer in layers]
        for step in range(1, steps + 1):
            ids = tune[torch.randint(32, (4,))]
            with torch.no_grad():
                wanted = teacher(ids).logits.log_softmax(-1)
            loss = F.kl_div(model(ids).logits.log_softmax(-1), wanted, log_target=True, reduction="none")
            loss.sum(-1).mean().backward()
            with torch.no_grad():
                for matrix in matrices:
                    matrix.step(step, share, rate)
        with torch.no_grad():
            logits = model(test).logits[:, :-1].flatten(0, 1)
        print(what, rate, f"{math.exp(F.cross_entropy(logits, test[:, 1:].flatten())):.3f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
