"""Well-read students: the soft loss by hand, and that labels play no part; the start from random weights."""

import copy
import math

import pytest
import torch
from torch import nn

from paperlab.methods.distillation.fine_tuning import loss as labels_alone
from paperlab.methods.distillation.random_weights import recipe
from paperlab.methods.distillation.well_read_students import loss


def test_by_hand() -> None:
    student, teacher = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert loss(student, teacher).item() == pytest.approx(-0.5 * math.log(0.25) - 0.5 * math.log(0.75))


def test_a_certain_teacher_is_a_label() -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 3)
    labels = torch.tensor([0, 2, 1, 1])
    teacher = 100.0 * nn.functional.one_hot(labels, 3)
    torch.testing.assert_close(loss(student, teacher), labels_alone(student, labels))


def test_the_least_loss_is_where_the_student_says_what_the_teacher_says() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(4, 3).double()
    student = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    assert gradient.abs().max() < 1e-12


def test_random_weights_are_drawn_by_the_seed_where_they_are_trained() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.Linear(50, 3))
    model[2].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    made = [recipe(copy.deepcopy(model), None, seed).model.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(made[0]["0.weight"], made[1]["0.weight"])
    assert not torch.equal(made[0]["0.weight"], made[2]["0.weight"])
    assert torch.equal(made[0]["2.weight"], before["2.weight"])
    assert 0.018 < made[0]["0.weight"].std() < 0.022
    assert torch.equal(made[0]["1.weight"], torch.ones(50))
    assert not made[0]["0.bias"].any()
