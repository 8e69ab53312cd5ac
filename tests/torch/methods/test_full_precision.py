"""Full precision: an ordinary linear layer, with the norm of BitLinear where it is asked for."""

import torch
from torch import nn

from paperlab.methods.quantization.full_precision import linear


def test_by_hand() -> None:
    layer = linear(2, 1, bias=False, norm=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 3.0]]))
        # mean 5, deviation 1: (4, 6) becomes (-1, 1), and -1 + 3 = 2
        torch.testing.assert_close(layer(torch.tensor([[4.0, 6.0]])), torch.tensor([[2.0]]), rtol=0, atol=1e-4)
        plain = linear(2, 1, bias=False)
        plain.weight.copy_(layer.weight)
        assert plain(torch.tensor([[4.0, 6.0]])).item() == 22


def test_the_norm_is_pytorch_s_without_parameters_and_gradients_pass() -> None:
    torch.manual_seed(0)
    layer, x = linear(8, 3, norm=True), torch.randn(2, 5, 8, requires_grad=True)
    norm = nn.LayerNorm(8, elementwise_affine=False)
    out = layer(x)
    torch.testing.assert_close(out, norm(x) @ layer.weight.T + layer.bias)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    out.square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    assert x.grad is not None
    assert x.grad.sum(-1).abs().max() < 1e-4  # a shift of all inputs changes nothing
