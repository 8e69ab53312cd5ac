"""Ternary layers: hand-worked codes, straight-through gradients, size, and the late variant."""

import math

import pytest
import torch
import torch.nn.functional as F

from paperlab.methods.quantization.bitnet_1_58_bottom_up import BitLinear, linear, round_activations, ternary
from paperlab.methods.quantization.full_precision import linear as full


def test_codes_by_hand() -> None:
    weight = torch.tensor([[0.1, -0.9], [0.5, -0.2]])  # mean |w| = 0.425, lower median 0.2
    codes, beta = ternary(weight, "mean")
    assert beta.item() == pytest.approx(0.425)
    assert codes.tolist() == [[0.0, -1.0], [1.0, 0.0]]  # 0.1 / 0.425 = 0.24, 0.2 / 0.425 = 0.47
    codes, beta = ternary(weight, "max")
    assert beta.item() == pytest.approx(0.9)
    assert codes.tolist() == [[0.0, -1.0], [1.0, 0.0]]  # 0.5 / 0.9 = 0.56
    codes, beta = ternary(weight, "median")
    assert beta.item() == pytest.approx(0.2)
    assert codes.tolist() == [[0.0, -1.0], [1.0, -1.0]]  # 0.1 / 0.2 = 0.5 rounds to even


def test_activations_by_hand() -> None:
    # step = 2 / 128: the largest positive value meets code 127, the largest negative one -128
    rounded, step = round_activations(torch.tensor([[2.0, 0.02, -1.0]]))
    assert rounded.tolist() == [[127 / 64, 1 / 64, -1.0]]
    assert step.item() == 2 / 128
    assert round_activations(torch.tensor([[-2.0, 0.0]]))[0].tolist() == [[-2.0, 0.0]]


def test_forward_equals_the_integer_computation() -> None:
    torch.manual_seed(0)
    layer = linear(16, 8, True)
    x = torch.randn(5, 16)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    largest = normed.abs().amax(1, keepdim=True)
    integers = (normed * 128 / largest).round().clamp(-128, 127)
    codes, beta = ternary(layer.weight.detach(), "mean")
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    expected = (integers @ codes.T + layer.bias) * largest / 128 * beta  # the bias is added to the integers
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_gradients_pass_straight_through() -> None:
    torch.manual_seed(1)
    layer = linear(12, 4, True, norm=False)
    x = torch.randn(3, 12, requires_grad=True)
    out = layer(x)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    rounded, _ = round_activations(x.detach())
    codes, beta = ternary(layer.weight.detach(), "mean")
    torch.testing.assert_close(layer.weight.grad, upstream.T @ rounded)  # as if w itself had been multiplied
    torch.testing.assert_close(x.grad, upstream @ (codes * beta))


def test_late_layer_is_ordinary_while_it_trains() -> None:
    torch.manual_seed(2)
    layer = linear(12, 4, True, when="after-training", norm=False)
    x = torch.randn(3, 12)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    early = BitLinear(12, 4, True, scale="mean", late=False, norm=False)
    early.load_state_dict(layer.state_dict())
    _, step = round_activations(x)
    beta = ternary(layer.weight.detach(), "mean")[1]
    # the same rounding; its bias is added as it was trained, outside of the scales
    torch.testing.assert_close(layer.eval()(x) - layer.bias, early(x) - layer.bias * beta * step)
    assert not torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_same_seed_same_start_for_all_arms() -> None:
    layers = []
    for make in (full, linear):
        torch.manual_seed(3)
        layers.append(make(6, 5, True).weight)
    assert torch.equal(*layers)


def test_bits_count_weights_scale_and_bias() -> None:
    layer = linear(10, 4, True)
    assert layer.stored_bits() == math.ceil(40 * math.log2(3)) + 32 * (1 + 4)
