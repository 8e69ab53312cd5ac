"""EvoPress: states keep their size, the parent stays unless beaten, and what was planted is found."""

import copy
import itertools
import random
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from paperlab.kit.fitness import Fitness
from paperlab.methods.pruning import evopress

BATCHES = [{"input_ids": torch.randint(0, 40, (8, 24), generator=torch.Generator().manual_seed(0))}]


@pytest.fixture
def model(six_blocks: LlamaForCausalLM) -> LlamaForCausalLM:
    made = copy.deepcopy(six_blocks)
    with torch.no_grad():
        for block in made.model.layers:
            for parameter in block.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8)
    return made


def removed(made: Any) -> int:
    return sum(int((~layer.mask).sum()) for layer in made.layers.values())


def test_every_state_removes_as_many_weights(model: LlamaForCausalLM) -> None:
    draw = random.Random(0)
    space = evopress.Levels(model, BATCHES, 0.7, 4, 0.0375, 0.01, draw)
    start = space.first(0)[0]
    total = sum(int((~m).sum()) for m in (made[0].mask for made in space.pruned.values()))
    state = start
    for _ in range(200):
        state = space.switch(state)
        assert sum(state) == 0
        stored = space.stored(state)
        assert abs(sum(int((~layer.mask).sum()) for layer in stored.values()) - total) <= 1
    assert {-4, 4} & set(state)
    fresh = [space.fresh() for _ in range(50)]
    assert all(sum(one) == 0 for one in fresh)
    assert len(set(fresh)) > 40


def test_without_steps_all_layers_have_the_mean(model: LlamaForCausalLM) -> None:
    made: Any = evopress.transform(model, BATCHES, 0, sparsity=0.7, steps=0)
    assert {round(layer.density, 3) for layer in made.layers.values()} == {0.3}


def test_a_layer_that_does_nothing_gives_its_weights(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.zero_()  # what gate and up say is lost behind it
    fine: Any = {"levels": 4, "level_step": 0.0375}
    found: Any = evopress.transform(
        copy.deepcopy(model), BATCHES, 0, sparsity=0.7, steps=30, stage_tokens="96,192", **fine
    )
    state = dict(zip(found.layers, found.notes["state"], strict=True))
    silent = [state[f"model.layers.2.mlp.{name}"] for name in ("gate_proj", "up_proj", "down_proj")]
    assert sum(silent) > 0  # of all 42 layers the levels sum to 0
    fitness = Fitness(model, BATCHES)
    rows = [(row, 24) for row in range(8)]
    uniform = evopress.transform(copy.deepcopy(model), BATCHES, 0, sparsity=0.7, steps=0)
    assert fitness(found.model, rows) < fitness(uniform.model, rows)
    assert removed(found) == pytest.approx(removed(uniform), abs=1)


def test_depth_finds_the_best_of_all_states(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.mul_(0.01)
        model.model.layers[4].mlp.down_proj.weight.mul_(0.01)
    fitness = Fitness(model, BATCHES)
    space = evopress.Depth(copy.deepcopy(model), 0.17, random.Random(0))
    every = []
    for a, f in itertools.product(range(6), range(6)):
        state = tuple(int(i == a) for i in range(6)) + tuple(int(i == f) for i in range(6))
        every.append((fitness(space.show(state), [(row, 24) for row in range(8)]), state))
    made: Any = evopress.transform(model, BATCHES, 0, target="depth", sparsity=0.17, stage_tokens="192,192")
    assert made.notes["state"] == min(every)[1]
    assert made.totals()["parameters"] == sum(p.numel() for p in made.model.parameters())
    assert not list(made.model.model.layers[1].self_attn.parameters())


def test_states_for_depth_drop_as_many_of_each_kind(model: LlamaForCausalLM) -> None:
    space = evopress.Depth(model, 0.34, random.Random(0))
    state = space.fresh()
    for _ in range(100):
        state = space.switch(state)
        assert sum(state[:6]) == sum(state[6:]) == 2
    assert len(space.first(30)) == len(set(space.first(30))) == 30


def test_children_differ_and_the_parent_is_kept_when_no_child_is_better(model: LlamaForCausalLM) -> None:
    draw = itertools.cycle([(1,), (2,), (2,), (3,)])
    assert evopress.different(lambda: next(draw), 3, (1,)) == [(2,), (3,)]
    torch.manual_seed(0)
    one = evopress.transform(copy.deepcopy(model), BATCHES, 3, sparsity=0.5, steps=2, offspring=4, stage_tokens="24,48")
    two = evopress.transform(copy.deepcopy(model), BATCHES, 3, sparsity=0.5, steps=2, offspring=4, stage_tokens="24,48")
    assert one.notes == two.notes
    assert one.notes["evaluations"] == 1 + 2 * (4 + 3)


def test_what_cannot_be_done_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="the last stage leaves one"):
        evopress.transform(model, BATCHES, 0, survivors="4,2")
    with pytest.raises(ValueError, match="whole numbers from 1"):
        evopress.transform(model, BATCHES, 0, stage_tokens="a,b")
