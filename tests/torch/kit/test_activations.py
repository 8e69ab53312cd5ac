"""Rounding activations: by hand, and with a gradient."""

import torch
from torch import nn

from paperlab.kit.activations import per_head, per_token, per_token_through, round_input, straight_through


def test_rounding_with_a_gradient_has_the_same_values() -> None:
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(per_token_through(x, bits=4), per_token(x, bits=4))
    torch.testing.assert_close(per_token_through(x, bits=4, symmetric=False), per_token(x, bits=4, symmetric=False))
    per_token_through(x, bits=4, symmetric=False).sum().backward()
    assert torch.isfinite(x.grad).all()
    per_token_through(x, bits=4).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_gradient_of_rounding_by_hand() -> None:
    # y = (x / s + c) s with s = max|x| / 7 and c the rounding's change, held fixed: dy/dx = 1 but at the largest
    # value, where s adds c / 7 for each value. 7 -> code 7, c = 0; 2.4 -> code 2, c = -0.4.
    x = torch.tensor([[7.0, 2.4]], requires_grad=True)
    y = per_token_through(x, bits=4)
    torch.testing.assert_close(y, torch.tensor([[7.0, 2.0]]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1 - 0.4 / 7, 1.0]]))


def test_gradient_of_asymmetric_rounding_by_hand() -> None:
    # range -1 to 14, s = 1, zero point 1: 2.4 -> 2, c = -0.4; s grows by 1/15 with 14, and shrinks with -1
    x = torch.tensor([[-1.0, 2.4, 14.0]], requires_grad=True)
    y = per_token_through(x, bits=4, symmetric=False)
    torch.testing.assert_close(y, torch.tensor([[-1.0, 2.0, 14.0]]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1 + 0.4 / 15, 1.0, 1 - 0.4 / 15]]))


def test_straight_through_has_the_identitys_gradient() -> None:
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    y = straight_through(torch.round, x)
    torch.testing.assert_close(y, torch.tensor([0.0, 2.0]))
    (3 * y).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]


def test_round_input_ends_with_its_handle() -> None:
    layer = nn.Identity()
    handle = round_input(layer, torch.round)
    assert layer(torch.tensor(1.6)).item() == 2
    handle.remove()
    assert layer(torch.tensor(1.6)).item() == torch.tensor(1.6).item()


def test_each_head_has_its_own_range() -> None:
    x = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 0.0, 10.0, 21.0, 30.0]]])  # two bits: steps of 1 and of 10
    assert per_head(x, bits=2, size=4).tolist() == [[[0, 1, 2, 3, 0, 10, 20, 30]]]
