"""Longer fine-tuning: plain fine-tuning where nothing is added, more steps where something is."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from paperlab.kit.tuning import Batch
from paperlab.lab.drivers.finetune import build
from paperlab.methods.distillation.fine_tuning import loss
from paperlab.methods.distillation.longer_fine_tuning import recipe


class Setting:
    teacher: nn.Module | None = None
    steps = 4
    rates: tuple[float, ...] = (1e-3,)

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(40, (2, 9), generator=draw)
            yield {"input_ids": ids[:, :-1]}, ids[:, 1:]

    def validate(self, model: nn.Module) -> float:
        return 0.0


def test_nothing_added_is_fine_tuning_and_a_half_more_is_half_as_many_steps_again(six_blocks: LlamaForCausalLM) -> None:
    setting = Setting(six_blocks)
    plain = build({"loss": loss}, {}, setting=setting, seed=3, tuned={"rate": 1e-3, "validation": {}})
    same = recipe(copy.deepcopy(six_blocks), setting, 3, 1e-3, multiple=1.0)
    longer = recipe(copy.deepcopy(six_blocks), setting, 3, 1e-3)
    assert (plain.steps, same.steps, longer.steps) == (4, 4, 6)
    pairs = zip(plain.model.parameters(), same.model.parameters(), longer.model.parameters(), strict=True)
    for one, again, more in pairs:
        assert torch.equal(one, again)
        assert not torch.equal(one, more)
    with pytest.raises(ValueError, match=r"multiple=0\.5"):
        recipe(six_blocks, setting, 0, 1e-3, multiple=0.5)
