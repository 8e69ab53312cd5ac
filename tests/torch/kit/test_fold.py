"""Folds leave a model's function unchanged, and count what they add."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.fold import fold, scaling_groups
from paperlab.kit.walk import walk


def llama(**more: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=32, **more,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 2)
    return model


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertModel(config).eval()
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name or name.endswith("bias"):
            nn.init.uniform_(parameter, 0.5, 2)
    return model


IDS = torch.arange(24).reshape(2, 12) % 50


@pytest.mark.parametrize("make", [llama, bert])
@pytest.mark.parametrize("shifted", [False, True])
def test_function_stays(make, shifted):
    model = make()
    with torch.no_grad():
        before = model(IDS)[0]
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):  # a second fold composes with the first
            for group in (g for block in scaling_groups(model) for g in block):
                scale = torch.rand(group.width, generator=generator) * 3 + 0.2
                shift = torch.randn(group.width, generator=generator) if shifted and group.shiftable else None
                fold(group, scale, shift)
        torch.testing.assert_close(model(IDS)[0], before, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(copy.deepcopy(model)(IDS)[0], before, rtol=1e-4, atol=2e-5)


def test_readers_see_scaled_inputs():
    model = llama()
    group = scaling_groups(model)[1][2]
    seen = []
    group.readers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    scale, shift = torch.linspace(0.5, 4, 32), torch.linspace(-1, 1, 32)
    with torch.no_grad():
        model(IDS)
        fold(group, scale, shift)
        model(IDS)
    torch.testing.assert_close(seen[1], (seen[0] - shift) / scale, rtol=1e-4, atol=1e-5)


def test_grouped_heads_share_a_scale():
    group = scaling_groups(llama())[0][1]
    assert group.width == 16
    assert group.index.tolist() == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
    values = torch.arange(32.0)
    assert group.to_source(values).tolist() == [*range(8, 16), *range(24, 32)]  # the larger of the two heads
    assert group.to_readers(torch.arange(16.0)).tolist() == group.index.tolist()


def test_added_numbers_are_counted():
    def added(model: nn.Module, shifted: bool) -> list[int]:
        groups = scaling_groups(model)[0]
        ones, zeros = (lambda g: torch.ones(g.width)), (lambda g: torch.zeros(g.width))
        return [fold(g, ones(g), zeros(g) if shifted and g.shiftable else None) for g in groups]

    assert added(llama(), False) == [0, 0, 0, 0]
    # norm 32 + biases of q, k, v 32 + 16 + 16; v has its bias by then, o 32; norm 32 + gate, up 48 + 48; no shift
    assert added(llama(), True) == [96, 32, 128, 0]
    assert added(bert(), False) == [32, 0, 32]  # one residual vector for each LayerNorm
    assert added(bert(), True) == [64, 0, 64]


def test_refuses_what_it_cannot_fold():
    model = llama()
    groups = scaling_groups(model)[0]
    with pytest.raises(ValueError, match="positive"):
        fold(groups[0], torch.zeros(32))
    with pytest.raises(ValueError, match="products"):
        fold(groups[3], torch.ones(48), torch.ones(48))
    odd = llama()
    odd.model.layers[0].input_layernorm.forward = lambda x: x
    with pytest.raises(ValueError, match="LlamaRMSNorm is not proportional to its weight"):
        scaling_groups(odd)
    with pytest.raises(ValueError, match=r"Sequential has blocks \(Sequential\) that fit no row"):
        scaling_groups(nn.Sequential(nn.ModuleList([nn.Sequential(nn.Linear(4, 4))])))


@pytest.mark.parametrize("make", [llama, bert])
def test_folding_while_walking(make):
    model = make()
    with torch.no_grad():
        last = [call.through(block) for _, block, [call] in walk(model, [{"input_ids": IDS}])][-1]
        groups, out = scaling_groups(model), last
        for index, (_, block, calls) in enumerate(walk(model, [{"input_ids": IDS}])):
            for group in groups[index]:
                shift = torch.ones(group.width) if group.shiftable else None
                fold(group, torch.full((group.width,), 3.0), shift, calls)
            out = calls[0].through(block)
    torch.testing.assert_close(out, last, rtol=1e-4, atol=2e-5)
