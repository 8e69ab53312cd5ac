"""Kronecker factors: against gradients taken one token at a time, and the model is left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.kfac import kronecker_factors

IDS = torch.randint(0, 40, (6, 8), generator=torch.Generator().manual_seed(0))
BATCHES = [{"input_ids": part} for part in IDS.split(4)]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_factors_are_those_of_single_tokens(model: LlamaForCausalLM) -> None:
    before = copy.deepcopy(model.state_dict())
    known = kronecker_factors(model, BATCHES)
    layer = model.model.layers[0].mlp.up_proj
    inputs, gradients = [], []
    for row in IDS:
        caught: list[torch.Tensor] = []

        def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor, caught: list = caught) -> None:
            out.retain_grad()
            caught.extend([args[0], out])

        handle = layer.register_forward_hook(keep)
        logits = model(input_ids=row[None]).logits
        F.cross_entropy(logits[0, :-1], row[1:]).backward()
        handle.remove()
        inputs.append(caught[0].detach()[0])
        assert caught[1].grad is not None
        gradients.append(caught[1].grad[0])
    x, g = torch.cat(inputs), torch.cat(gradients)
    found = known["model.layers.0.mlp.up_proj"]
    torch.testing.assert_close(found.inputs, x.T @ x / len(x))
    torch.testing.assert_close(found.gradients, g.T @ g / len(g), rtol=1e-4, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_that_read_the_same_share_and_activations_alone_need_no_gradient(model: LlamaForCausalLM) -> None:
    known = kronecker_factors(model, BATCHES)
    stem = "model.layers.1.self_attn."
    assert known[stem + "q_proj"].inputs is known[stem + "v_proj"].inputs
    assert known[stem + "q_proj"].inputs is not known[stem + "o_proj"].inputs
    assert {
        factor.gradients.shape[0] for n, factor in known.items() if "k_proj" in n and factor.gradients is not None
    } == {8}
    alone = kronecker_factors(model, BATCHES, gradients=False)
    assert all(factor.gradients is None for factor in alone.values())
    torch.testing.assert_close(alone[stem + "o_proj"].inputs, known[stem + "o_proj"].inputs)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_encoder_without_a_head_is_refused() -> None:
    config = BertConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match="predicts no tokens"):
        kronecker_factors(BertModel(config).eval(), BATCHES)
