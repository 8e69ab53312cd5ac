import copy

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.methods.quantization.kv_adaquant import _Plan, _rounded, round_groups, transform


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    net = LlamaForCausalLM(config).eval()
    for p in net.parameters():
        p.data *= 4  # sharp attention: rounding must matter
    return net


@pytest.fixture
def ids():
    return torch.randint(60, (2, 40), generator=torch.Generator().manual_seed(1))


def compress(model, **params):
    return transform(copy.deepcopy(model), **({"group": 8, "residual": 8} | params))


def test_a_hand_worked_group():
    """0 1 2 9 at 2 bits: step 3, so 0 0 3 9 (1/3 rounds down, 2/3 up). The second group has its own range."""
    x = torch.tensor([[0.0, 1.0, 2.0, 9.0, -1.0, -1.0, -1.0, 2.0]])
    assert torch.equal(round_groups(x, bits=2, group=4), torch.tensor([[0.0, 0.0, 3.0, 9.0, -1.0, -1.0, -1.0, 2.0]]))


def test_sixteen_bits_are_the_original_model(model, ids):
    arm = compress(model, key_bits=16, value_bits=16)
    assert torch.allclose(arm.model(ids).logits, model(ids).logits, atol=1e-4)
    assert arm.totals()["cache_bits"] == 16
    assert arm.totals()["layer_bits"] == 16


def test_padding_is_still_masked(model, ids):
    mask = torch.ones_like(ids)
    mask[1, :8] = 0
    arm = compress(model, key_bits=16, value_bits=16)
    ours, theirs = arm.model(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits
    assert torch.allclose(ours[mask.bool()], theirs[mask.bool()], atol=1e-4)


@pytest.mark.parametrize("axis", ["token", "channel"])
def test_the_model_equals_decoding_with_a_cache_that_is_rounded_block_by_block(model, ids, axis):
    """Token by token with a real cache: the last complete block is rounded before the next block's first query."""
    params = {"key_bits": 3, "value_bits": 2, "key_axis": axis}
    model = model.double()  # a code next to a tie must not flip with the order of a float32 sum
    together = compress(model, **params).model(ids).logits
    plan = _Plan(3, 2, 8, 8, axis)
    cache, steps = None, []
    for t in range(ids.shape[1]):
        if cache is not None and t % 8 == 0:
            for layer in cache.layers:
                keys, values = _rounded(layer.keys[:, :, t - 8 :], layer.values[:, :, t - 8 :], plan)
                layer.keys[:, :, t - 8 :], layer.values[:, :, t - 8 :] = keys, values
        out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    assert torch.allclose(together, torch.cat(steps, 1), atol=1e-5)
    assert (together - model(ids).logits).abs().max() > 0.01  # and it does round


def test_no_token_sees_the_future(model, ids):
    arm = compress(model, key_bits=2, value_bits=2, key_axis="channel")
    other = ids.clone()
    other[:, 20:] = (other[:, 20:] + 1) % 60
    assert torch.equal(arm.model(ids).logits[:, :20], arm.model(other).logits[:, :20])


def test_generation_with_a_cache_agrees_with_scoring(model, ids):
    arm = compress(model.double(), key_bits=3, value_bits=3).model
    first = arm(ids[:, :33], use_cache=True)
    rest = arm(ids[:, 33:], past_key_values=first.past_key_values, use_cache=True)
    assert torch.allclose(torch.cat([first.logits, rest.logits], 1), arm(ids).logits, atol=1e-5)


def test_bits_count_codes_scale_and_minimum(model):
    assert compress(model, key_bits=4, value_bits=2).totals()["cache_bits"] == 3 + 32 / 8
    assert compress(model, key_bits=3, value_bits=3, group=16).totals()["cache_bits"] == 3 + 32 / 16
    mixed = compress(model, key_bits=4, value_bits=2, key_axis="channel", residual=16, group=8)
    assert mixed.totals()["cache_bits"] == 3 + (32 / 16 + 32 / 8) / 2


def test_bad_parameters_and_models_are_refused(model):
    for wrong, match in (({"key_bits": 17}, "bits=17"), ({"group": 5}, "16 channels"), ({"key_axis": "head"}, "token")):
        with pytest.raises(ValueError, match=match):
            compress(model, **wrong)
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ValueError, match="decoder"):
        transform(BertModel(config))
