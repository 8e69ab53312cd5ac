"""BitFit: it starts as the model, moves biases alone, and its gradients are those of the layer's own bias."""

import copy

import torch
from torch import nn
from transformers import LlamaForCausalLM

from paperlab.kit.walk import block_linears
from paperlab.lab.drivers.finetune import adapt
from paperlab.methods.low_rank.bitfit import Shifted, adapter


def test_outputs_and_gradients_are_those_of_a_layer_of_which_the_bias_alone_is_trained() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        plain = nn.Linear(6, 4, bias=bias)
        made = adapter(copy.deepcopy(plain))
        assert isinstance(made, Shifted)
        x, weight = torch.randn(5, 6), torch.randn(5, 4)
        torch.testing.assert_close(made(x), plain(x))
        (made(x) * weight).sum().backward()
        (plain(x) * weight).sum().backward()
        assert made.linear.weight.grad is None
        expected = plain.bias.grad if bias else weight.sum(0)
        torch.testing.assert_close(made.shift.grad, expected)
        with torch.no_grad():
            made.shift.add_(1.0)
        torch.testing.assert_close(made.merged()(x), plain(x) + 1)
        torch.testing.assert_close(made(x), plain(x) + 1)


def test_nothing_else_of_a_model_is_trained(six_blocks: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 40, (2, 7))
    model = adapt(copy.deepcopy(six_blocks), adapter)
    assert torch.equal(model(ids).logits, six_blocks(ids).logits)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.shift" for name in block_linears(six_blocks)}
