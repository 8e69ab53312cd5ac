"""Dropping parts: what is left computes what the residual stream says, and generates with its cache."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.depth import Droppable, drop, how_many, residual_states, without_blocks

IDS = torch.arange(2, 34).reshape(2, 16)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def by_hand(model: LlamaForCausalLM, attention: set[int], feed_forward: set[int]) -> torch.Tensor:
    """Logits with the residual stream added up part by part."""
    body = model.model
    with torch.no_grad():
        hidden = body.embed_tokens(IDS)
        positions = torch.arange(IDS.shape[1])[None]
        rotary = body.rotary_emb(hidden, position_ids=positions)
        mask = torch.full((IDS.shape[1], IDS.shape[1]), float("-inf")).triu(1)[None, None]
        for index, block in enumerate(body.layers):
            if index not in attention:
                normed = block.input_layernorm(hidden)
                hidden = hidden + block.self_attn(normed, position_embeddings=rotary, attention_mask=mask)[0]
            if index not in feed_forward:
                hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        return model.lm_head(body.norm(hidden))


@pytest.mark.parametrize(
    ("attention", "feed_forward"), [(set(), set()), ({0}, set()), ({1, 2}, {2}), ({0, 3}, {0, 1}), (set(), {3})]
)
def test_what_is_left_adds_up(model: LlamaForCausalLM, attention: set[int], feed_forward: set[int]) -> None:
    wanted = by_hand(model, attention, feed_forward)
    trial = Droppable(copy.deepcopy(model))
    with torch.no_grad():
        torch.testing.assert_close(trial.without(attention, feed_forward)(input_ids=IDS).logits, wanted)
        small: Any = trial.finish(attention, feed_forward)
        torch.testing.assert_close(small(input_ids=IDS).logits, wanted)
    block = model.model.layers[0]
    size = {part: sum(p.numel() for p in part.parameters()) for part in (block.self_attn, block.mlp)}
    gone = len(attention) * (size[block.self_attn] + 32) + len(feed_forward) * (size[block.mlp] + 32)
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters()) == gone
    assert len(small.model.layers) == 4 - len(attention & feed_forward) == small.config.num_hidden_layers


def test_trying_leaves_no_trace(model: LlamaForCausalLM) -> None:
    before = copy.deepcopy(model)
    trial = Droppable(model)
    trial.without({0, 1}, {2})
    trial.without((), ())
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, before(input_ids=IDS).logits)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in before.named_modules()]


@pytest.mark.parametrize(("chosen", "unit"), [([0], "attention"), ([1, 3], "block"), ([0, 2], "feed_forward")])
def test_the_cache_serves_what_is_left(model: LlamaForCausalLM, chosen: list[int], unit: str) -> None:
    small: Any = drop(model, chosen, unit)  # type: ignore[arg-type]
    made = [
        small.generate(IDS[:1], max_new_tokens=6, do_sample=False, use_cache=cached, pad_token_id=0)
        for cached in (True, False)
    ]
    assert torch.equal(*made)


def test_the_residual_stream_is_the_model_s_own(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    (rows,) = residual_states(model, [{"input_ids": IDS}])
    for index, (before, between, after) in enumerate(rows):
        assert torch.equal(before, states[index])
        if index + 1 < len(rows):  # the last hidden state of transformers is normed
            assert torch.equal(after, states[index + 1])
        block = model.model.layers[index]
        with torch.no_grad():
            torch.testing.assert_close(after, between + block.mlp(block.post_attention_layernorm(between)))
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_what_cannot_be_done_is_refused(model: LlamaForCausalLM) -> None:
    assert how_many(model, 0.49) == 1
    with pytest.raises(ValueError, match="2 of 4 blocks, 3 of them protected"):
        how_many(model, 0.5, {0, 1, 3})
    config = BertConfig(vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    bert: Any = BertModel(config).eval()
    with pytest.raises(ValueError, match="only whole blocks of it can be dropped"):
        Droppable(bert)
    without_blocks(bert, [0])
    assert len(bert.encoder.layer) == 1
