"""Kanana's cut: heads by hand, against silenced heads of the whole model, and what misalignment does."""

import copy
from typing import Any

import pytest
import torch
from contract_cases import batches, tiny
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.width import activity, narrowed
from paperlab.methods.distillation.kanana import kept_heads, submodel


@pytest.fixture(scope="module")
def grouped() -> LlamaForCausalLM:
    """Six query heads of width 8 in three groups."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, head_dim=8,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batches()[0]).logits


def test_the_best_of_each_group_by_hand() -> None:
    score = torch.tensor([[0.1, 0.2, 0.9], [5.0, 4.0, 3.0]])
    assert kept_heads(score, 1).tolist() == [2, 3]
    assert kept_heads(score, 2).tolist() == [1, 2, 3, 4]


def test_cut_heads_are_those_that_silence_would_take_if_groups_stay_aligned(grouped: LlamaForCausalLM) -> None:
    cut: Any = submodel(grouped, batches(), width=1.0, inner=1.0, heads=0.5)
    assert cut.config.num_attention_heads == cut.config.num_key_value_heads == 3
    silenced: Any = copy.deepcopy(grouped)
    sizes = activity(grouped, batches()).of("attention").unflatten(1, (6, 8)).norm(dim=-1)
    for block, row in zip(silenced.model.layers, sizes, strict=True):
        for head in set(range(6)) - set(kept_heads(row.view(3, 2), 1).tolist()):
            block.self_attn.o_proj.weight.data[:, head * 8 : head * 8 + 8] = 0
    torch.testing.assert_close(logits(cut), logits(silenced), rtol=1e-4, atol=1e-5)


def test_heads_dealt_to_other_groups_read_other_keys(grouped: LlamaForCausalLM) -> None:
    heads = torch.tensor([0, 1, 4])  # the second belongs to the first group and would read the second one's keys
    cut = narrowed(grouped, torch.arange(48), [torch.arange(64)] * 2, [heads] * 2)
    silenced: Any = copy.deepcopy(grouped)
    for block in silenced.model.layers:
        for head in (2, 3, 5):
            block.self_attn.o_proj.weight.data[:, head * 8 : head * 8 + 8] = 0
    assert (logits(cut) - logits(silenced)).abs().max() > 1e-2


def test_nothing_cut_is_the_same_model_and_the_shape_is_the_configuration_s(grouped: LlamaForCausalLM) -> None:
    torch.testing.assert_close(
        logits(submodel(grouped, batches(), width=1.0, inner=1.0, heads=1.0)), logits(grouped), rtol=1e-5, atol=1e-6
    )
    for aligned in (True, False):
        cut: Any = submodel(grouped, batches(), aligned=aligned)
        fresh = type(cut)(cut.config)
        assert [p.shape for p in fresh.parameters()] == [p.shape for p in cut.parameters()]
        assert cut.config.hidden_size == 32
        assert logits(cut).isfinite().all()


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="heads=0"):
        submodel(tiny("Llama"), batches(), heads=0.0)
    with pytest.raises(ValueError, match="layout"):
        submodel(tiny("BERT"), batches())
