"""How far a changed model's predictions are from the original's: KL on calibration windows, drawn anew each time."""

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.walk import Batch


class Fitness:
    """KL(original || candidate), nats a token, on rows of the calibration text.

    original: asked once, for all rows, so it may be changed afterwards. Its predictions are kept, float32.
    """

    def __init__(self, original: nn.Module, calibration: list[Batch]) -> None:
        for batch in calibration:
            if "input_ids" not in batch or "decoder_input_ids" in batch or "pixel_values" in batch:
                raise ValueError(f"{type(original).__name__} reads more than text: give a causal language model")
        self.rows = torch.cat([batch["input_ids"] for batch in calibration])
        self.known = [_log_probabilities(original, row[None]) for row in self.rows]
        self.evaluations = 0
        self.tokens = 0

    def draw(self, tokens: int, generator: random.Random) -> list[tuple[int, int]]:
        """Different rows, drawn, and how many tokens of each, `tokens` in all, or all there are."""
        width = self.rows.shape[1]
        order = generator.sample(range(len(self.rows)), min(-(-tokens // width), len(self.rows)))
        return [(row, min(width, tokens - i * width)) for i, row in enumerate(order)]

    def __call__(self, candidate: nn.Module, rows: list[tuple[int, int]]) -> float:
        """Mean over the predictions of these rows' tokens, the last of each left out."""
        whole = [row for row, length in rows if length == self.rows.shape[1]]
        total, count = 0.0, 0
        batches = [(whole[i : i + 8], self.rows.shape[1]) for i in range(0, len(whole), 8)]
        batches += [([row], length) for row, length in rows if 1 < length < self.rows.shape[1]]
        for chosen, length in batches:
            mine = _log_probabilities(candidate, self.rows[chosen, :length])
            theirs = torch.cat([self.known[row][:, : length - 1] for row in chosen])
            total += float(F.kl_div(mine, theirs, log_target=True, reduction="sum"))
            count += len(chosen) * (length - 1)
        self.evaluations += 1
        self.tokens += count
        return total / max(count, 1)


@torch.no_grad()
def _log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    """ids (b, t) -> (b, t - 1, vocabulary): the last position predicts nothing that is known."""
    out: Any = model(input_ids=ids, use_cache=False)
    if getattr(out, "logits", None) is None:
        raise ValueError(f"{type(model).__name__} predicts no tokens: give a causal language model")
    return out.logits[:, :-1].float().log_softmax(-1)
