"""Rotations leave a Llama's function unchanged."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.orthogonal import random_hadamard, random_orthogonal
from paperlab.kit.rotate import fold_norms, llama_blocks, rotate_heads, rotate_online, rotate_residual


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=32, tie_word_embeddings=True, attention_bias=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.uniform_(parameter, 0.5, 2)
    return model


def test_function_stays():
    model = llama()
    original = copy.deepcopy(model)
    ids = torch.arange(24).reshape(2, 12) % 50
    with torch.no_grad():
        before = model(ids).logits
        fold_norms(model)
        rotate_residual(model, random_hadamard(48, generator()))
        for _, block in llama_blocks(model):
            rotate_heads(block, random_orthogonal(16, generator()))
            rotate_online(block.mlp.down_proj, random_hadamard(96, generator()))
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(model)(ids).logits, before, rtol=1e-4, atol=1e-5)
    assert model.lm_head.weight is model.model.embed_tokens.weight  # still tied, still the same
    assert torch.equal(model.lm_head.weight, original.lm_head.weight)
    assert not torch.allclose(model.model.layers[0].mlp.up_proj.weight, original.model.layers[0].mlp.up_proj.weight)


def test_hidden_states_turn_by_q():
    model, seen = llama(), []
    model.model.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ids = torch.arange(12)[None]
    q = random_orthogonal(48, generator()).float()
    with torch.no_grad():
        model(ids)
        fold_norms(model)
        rotate_residual(model, q)
        model(ids)
    torch.testing.assert_close(seen[1], seen[0] @ q, rtol=1e-4, atol=1e-5)


def test_heads_may_turn_differently():
    model = llama()
    ids = torch.arange(12)[None]
    turns = torch.stack([random_orthogonal(16, generator()), torch.eye(16, dtype=torch.float64).flip(0)])
    with torch.no_grad():
        before = model(ids).logits
        for _, block in llama_blocks(model):
            rotate_heads(block, turns)
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="fold_norms"):
        rotate_residual(llama(), torch.eye(48))
    bert = BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=9)
    )
    with pytest.raises(ValueError, match=r"BertModel is built as BERT: .* norms stand behind the residual sums"):
        fold_norms(bert)
