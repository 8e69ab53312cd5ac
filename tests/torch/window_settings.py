"""A setting of windows of token ids, for recipes that train a small causal language model with a teacher."""

from collections.abc import Iterator

import torch
from contract_cases import VOCABULARY, tiny
from torch import Tensor, nn

from paperlab.kit.tuning import Batch


class Windows:
    """Two windows of nine random tokens a batch."""

    rates: tuple[float, ...] = (1e-3,)

    def __init__(self, teacher: nn.Module, steps: int = 2) -> None:
        self.model, self.teacher, self.steps = tiny("Llama"), teacher, steps

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(3, VOCABULARY, (2, 9), generator=draw)
            yield {"input_ids": ids[:, :-1]}, ids[:, 1:]

    def validate(self, model: nn.Module) -> float:
        return 0.0
