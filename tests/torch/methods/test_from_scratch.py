"""Training from scratch: nothing of the given model's weights is left, its shape is, and the tokens are counted."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from paperlab.kit.tuning import Batch
from paperlab.methods.distillation.from_scratch import recipe


class Setting:
    teacher, steps, rates = None, 2, (1e-3,)

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(40, (2, 9), generator=draw)
            yield {"input_ids": ids[:, :-1]}, ids[:, 1:]

    def validate(self, model: nn.Module) -> float:
        return 0.0


def test_the_weights_given_do_not_matter_and_the_seed_does(six_blocks: LlamaForCausalLM) -> None:
    other = copy.deepcopy(six_blocks)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
    made = []
    for model in (six_blocks, other):
        torch.manual_seed(5)
        made.append(recipe(model, Setting(model), 5, 1e-3, multiple=3))
    assert made[0].steps == 6
    assert made[0].trained == sum(p.numel() for p in six_blocks.parameters())
    for one, another, given in zip(*(m.model.parameters() for m in made), six_blocks.parameters(), strict=True):
        assert torch.equal(one, another)
        assert one.shape == given.shape
        assert not torch.equal(one, given)
    with pytest.raises(ValueError, match="multiple=0"):
        recipe(six_blocks, Setting(six_blocks), 0, 1e-3, multiple=0)


def test_a_model_that_no_longer_has_its_configuration_s_shape_is_refused(six_blocks: LlamaForCausalLM) -> None:
    model = copy.deepcopy(six_blocks)
    model.model.layers = model.model.layers[:3]
    with pytest.raises(ValueError, match="another shape"):
        recipe(model, Setting(model), 0, 1e-3)
