"""Plain fine-tuning: cross-entropy by hand."""

import math

import pytest
import torch

from paperlab.methods.distillation.fine_tuning import loss


def test_two_examples_by_hand() -> None:
    student = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    value = loss(student, torch.tensor([1, 0]))
    assert value.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_its_gradient_is_what_is_predicted_less_what_is_right() -> None:
    student = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    (gradient,) = torch.autograd.grad(loss(student, labels), student)
    expected = (student.detach().softmax(-1) - torch.eye(5, dtype=torch.float64)[labels]) / 6
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
    assert gradient.sum().abs() < 1e-12
