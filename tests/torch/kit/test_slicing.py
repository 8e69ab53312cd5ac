"""Sliced feed-forward networks compute what their units say; the KS distance is SciPy's."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.slicing import feed_forwards, kolmogorov_smirnov, say_width


def test_only_the_kept_units_speak() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, mlp_bias=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    whole = copy.deepcopy(model)
    units = torch.tensor([0, 3, 4, 9, 23])
    for network, other in zip(feed_forwards(model), feed_forwards(whole), strict=True):
        network.keep(units)
        with torch.no_grad():
            other.down.weight[:, [i for i in range(24) if i not in units.tolist()]] = 0
    say_width(model, 5)
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, whole(input_ids=ids).logits)
    assert model.config.intermediate_size == model.model.layers[1].mlp.intermediate_size == 5
    again = LlamaForCausalLM(model.config)
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("sizes", [(20, 20), (7, 31), (1, 5)])
def test_the_distance_is_scipy_s(sizes: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(sum(sizes))
    for shift in (0.0, 0.5, 5.0):
        a, b = torch.randn(sizes[0], generator=draw), torch.randn(sizes[1], generator=draw) + shift
        b[0] = a[0]  # a tie
        assert kolmogorov_smirnov(a, b) == pytest.approx(stats.ks_2samp(a.numpy(), b.numpy()).statistic)
    assert kolmogorov_smirnov(torch.arange(4.0), torch.arange(4.0)) == 0


def test_other_forms_are_refused() -> None:
    config = BertConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    bert: nn.Module = BertModel(config)
    with pytest.raises(ValueError, match="has no mlp of gate_proj"):
        feed_forwards(bert)
