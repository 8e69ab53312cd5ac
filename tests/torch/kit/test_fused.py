"""Fused weights against explicit matrices; gradients of made weights against plain autograd."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.fused import Pairs, backward, fuse
from paperlab.kit.orthogonal import random_orthogonal


def tiny(**options: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, use_cache=False, **options,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def test_pairs_touch_the_weights_that_they_should() -> None:
    """An independent statement of the folds on one block with explicit matrices."""
    block = tiny().model.layers[0]
    generator = torch.Generator().manual_seed(2)
    pairs = Pairs(block, generator)
    for scale in pairs.scales():
        scale.normal_(0, 0.3, generator=generator)
    q = random_orthogonal(32, generator).float()
    made = {name: make() for name, make in fuse(block, q, pairs).items()}
    norm, norm2 = block.input_layernorm.weight.detach(), block.post_attention_layernorm.weight.detach()
    turn = torch.block_diag(*pairs.heads)  # two value heads of eight channels
    turn4 = torch.block_diag(*pairs.heads.repeat_interleave(2, 0))
    s_v = torch.diag(pairs.value.exp())
    s_v4 = torch.diag(pairs.value.exp().view(2, 8).repeat_interleave(2, 0).flatten())
    gather = torch.diag(norm) @ q @ torch.diag(pairs.norm_attn.exp())
    attention, mlp = block.self_attn, block.mlp
    close = torch.testing.assert_close
    close(made["self_attn.k_proj"], attention.k_proj.weight @ gather, rtol=1e-4, atol=1e-5)
    close(made["self_attn.v_proj"], turn.T @ s_v.inverse() @ attention.v_proj.weight @ gather, rtol=1e-4, atol=1e-5)
    close(made["self_attn.o_proj"], q.T @ attention.o_proj.weight @ s_v4 @ turn4, rtol=1e-4, atol=1e-5)
    up = mlp.up_proj.weight @ torch.diag(norm2) @ q @ torch.diag(pairs.norm_ffn.exp())
    close(made["mlp.up_proj"], torch.diag((-pairs.up).exp()) @ up, rtol=1e-4, atol=1e-5)
    online = pairs.online(torch.eye(48))
    close(online @ online.T, torch.eye(48), rtol=1e-5, atol=1e-6)
    close(online.abs(), torch.full((48, 48), 48**-0.5), rtol=1e-5, atol=1e-6)  # a Hadamard matrix
    down = q.T @ mlp.down_proj.weight @ torch.diag(pairs.up.exp()) @ online
    close(made["mlp.down_proj"], down, rtol=1e-4, atol=1e-5)


def test_gradients_of_made_weights_are_those_of_one_graph() -> None:
    model = tiny().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    batch = {"input_ids": torch.randint(96, (2, 8), generator=generator)}
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight")
    norm = torch.ones(32, requires_grad=True)
    scale = torch.tensor(1.3, requires_grad=True)  # both weights are made of it
    made = {name: lambda name=name: model.get_parameter(name) * scale**2 for name in names}
    given = {"model.norm.weight": norm}
    value = backward(model, made, given, batch, lambda logits: logits.square().mean())
    mine = scale.grad, norm.grad
    weights = {name: make() for name, make in made.items()}
    loss = functional_call(model, {**weights, **given}, (), batch).logits.square().mean()
    theirs = torch.autograd.grad(loss, (scale, norm))
    assert value == pytest.approx(loss.item(), rel=1e-6)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_biases_are_refused() -> None:
    with pytest.raises(ValueError, match="biases"):
        Pairs(tiny(mlp_bias=True).model.layers[0], torch.Generator().manual_seed(0))
