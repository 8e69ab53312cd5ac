"""Block dropping: each score finds the block that was planted for it."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaForCausalLM

from paperlab.kit.depth import residual_states
from paperlab.methods.pruning import block_dropping

BATCHES = [
    {"input_ids": ids} for ids in torch.randint(0, 40, (6, 24), generator=torch.Generator().manual_seed(0)).split(4)
]


@pytest.fixture
def model(six_blocks: LlamaForCausalLM) -> LlamaForCausalLM:
    made = copy.deepcopy(six_blocks)
    with torch.no_grad():
        for block in made.model.layers:
            for parameter in block.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8)
    return made


def mute(block: Any, share: float, part: str = "block") -> None:
    with torch.no_grad():
        if part != "feed_forward":
            block.self_attn.o_proj.weight.mul_(share)
        if part != "attention":
            block.mlp.down_proj.weight.mul_(share)


@pytest.mark.parametrize("by", ["cosine", "norm", "perplexity", "window"])
@pytest.mark.parametrize("quiet", [1, 4])
def test_a_block_that_does_nothing_is_found(model: LlamaForCausalLM, by: str, quiet: int) -> None:
    mute(model.model.layers[quiet], 0.0)
    if by == "perplexity":  # a random model gains as often as it loses by a dropped block: make each one matter
        with torch.no_grad():
            before = model(input_ids=BATCHES[0]["input_ids"]).logits
        copied = copy.deepcopy(model)
        scores = block_dropping._without_each(copied, BATCHES, "block")
        with torch.no_grad():
            assert torch.equal(copied(input_ids=BATCHES[0]["input_ids"]).logits, before)
        assert scores[quiet] == pytest.approx(block_dropping._nll(model, BATCHES), abs=1e-6)
        return
    original = list(model.model.layers)
    small: Any = block_dropping.submodel(model, BATCHES, sparsity=0.17, by=by)  # type: ignore[arg-type]
    assert [index for index, block in enumerate(original) if block not in list(small.model.layers)] == [quiet]


def test_cosine_is_the_block_influence_of_shortgpt(model: LlamaForCausalLM) -> None:
    states = list(residual_states(model, BATCHES))
    wanted = []
    for index in range(6):
        ends = [(rows[index][0].reshape(-1, 32), rows[index][2].reshape(-1, 32)) for rows in states]
        pairs = [pair for x, z in ends for pair in zip(x, z, strict=True)]
        wanted.append(sum(1 - float(F.cosine_similarity(x, z, dim=0)) for x, z in pairs) / len(pairs))
    assert block_dropping._change_of_each(model, BATCHES, "block", "cosine") == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("unit", ["attention", "feed_forward"])
def test_parts_alone(model: LlamaForCausalLM, unit: str) -> None:
    mute(model.model.layers[2], 0.0, unit)
    small: Any = block_dropping.submodel(model, BATCHES, sparsity=0.17, unit=unit)  # type: ignore[arg-type]
    assert len(small.model.layers) == 6
    silent = small.model.layers[2].self_attn if unit == "attention" else small.model.layers[2].mlp
    assert not list(silent.parameters())


def test_even_random_and_protected() -> None:
    def dropped(**params: object) -> list[int]:
        stack = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(10))
        holder = nn.Module()
        holder.model = nn.Module()
        holder.model.layers = stack
        before = list(stack)
        block_dropping.submodel(holder, [], sparsity=0.3, **params)  # type: ignore[arg-type]
        return [index for index, block in enumerate(before) if block not in list(holder.model.layers)]

    assert dropped(by="even") == [1, 5, 8]
    torch.manual_seed(0)
    drawn = [dropped(by="random", protect_first=2, protect_last=3) for _ in range(20)]
    assert all(set(one) <= set(range(2, 7)) and len(one) == 3 for one in drawn)
    assert len({tuple(one) for one in drawn}) > 3


def test_what_cannot_be_done_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="by=window drops neighbouring blocks"):
        block_dropping.submodel(model, BATCHES, by="window", unit="attention")
    assert len(block_dropping.first_tokens(BATCHES, 50)) == 1
    assert [len(b["input_ids"]) for b in block_dropping.first_tokens(BATCHES, 24 * 5)] == [4, 1]
