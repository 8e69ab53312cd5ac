"""KL on drawn rows: against PyTorch's distributions, and drawn without repetition."""

import copy
import random

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.fitness import Fitness


@pytest.fixture
def six_blocks() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_it_is_the_mean_divergence_of_the_predictions(six_blocks: LlamaForCausalLM) -> None:
    ids = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(six_blocks)
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight.mul_(30)
    fitness = Fitness(six_blocks, [{"input_ids": part} for part in ids.split(4)])
    assert fitness(six_blocks, [(0, 12), (5, 7)]) == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        ours, theirs = six_blocks(input_ids=ids).logits, other(input_ids=ids).logits
    divergence = kl_divergence(Categorical(logits=ours), Categorical(logits=theirs))
    wanted = torch.cat([divergence[3, :11], divergence[1, :11], divergence[5, :4]]).mean()
    assert fitness(other, [(3, 12), (1, 12), (5, 5)]) == pytest.approx(float(wanted), rel=1e-5)
    assert fitness.evaluations == 2


def test_rows_are_drawn_once_each_and_hold_that_many_tokens(six_blocks: LlamaForCausalLM) -> None:
    fitness = Fitness(six_blocks, [{"input_ids": torch.zeros(10, 16, dtype=torch.long)}])
    rows = fitness.draw(40, random.Random(0))
    assert [length for _, length in rows] == [16, 16, 8]
    assert len({row for row, _ in rows}) == 3
    assert len(fitness.draw(10_000, random.Random(0))) == 10
    assert fitness.draw(40, random.Random(0)) == rows
