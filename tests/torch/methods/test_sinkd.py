"""SinKD: the transport against another library's numbers, against the authors' loop, and what follows from it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.methods.distillation.sinkd import loss, transport

X = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
Y = torch.tensor([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)


def loops(x: Tensor, y: Tensor, epsilon: float, iterations: int) -> float:
    """The authors' order of steps in plain probabilities: rows, then columns."""
    cost = [[sum(abs(a - b) for a, b in zip(one, two, strict=True)) for two in y.tolist()] for one in x.tolist()]
    plan = [[2.718281828459045 ** (-c / epsilon) for c in row] for row in cost]
    for _ in range(iterations):
        plan = [[value / sum(row) for value in row] for row in plan]
        sums = [sum(row[j] for row in plan) for j in range(len(plan))]
        plan = [[value / sums[j] for j, value in enumerate(row)] for row in plan]
    return sum(p * c for row, costs in zip(plan, cost, strict=True) for p, c in zip(row, costs, strict=True))


def test_as_the_authors_loop() -> None:
    assert transport(X, Y).item() == pytest.approx(loops(X, Y, 0.1, 20), rel=1e-12)
    assert transport(X, Y, epsilon=0.5, iterations=3).item() == pytest.approx(loops(X, Y, 0.5, 3), rel=1e-12)


def test_as_python_optimal_transport() -> None:
    """POT 0.9.7: 3 sum(ot.sinkhorn(1/3, 1/3, ot.dist(X, Y, "cityblock"), reg) * D), to convergence; ot.emd2 for 0."""
    assert transport(X, Y, epsilon=0.1, iterations=2000).item() == pytest.approx(1.2103360019622527, rel=1e-9)
    assert transport(X, Y, epsilon=0.5, iterations=2000).item() == pytest.approx(1.8645291096871806, rel=1e-9)
    assert transport(X, Y, epsilon=0.005, iterations=2000).item() == pytest.approx(1.2, abs=1e-3)


def test_one_text_moves_to_the_other_and_a_batch_may_be_shuffled() -> None:
    assert transport(X[:1], Y[:1]).item() == pytest.approx((X[0] - Y[0]).abs().sum().item())
    order = torch.tensor([2, 0, 1])
    assert transport(X, Y[order]).item() == pytest.approx(transport(X, Y).item(), rel=1e-6)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(4, 5).double(), torch.randn(4, 5).double(), torch.tensor([0, 1, 4, 2])
    soft = -((teacher / 2).softmax(-1) * (student / 2).log_softmax(-1)).sum(-1).mean()
    moved = transport((student / 2).softmax(-1), (teacher / 2).softmax(-1))
    known = 0.1 * F.cross_entropy(student, labels) + 0.9 * soft + 0.8 * 0.001 * moved
    torch.testing.assert_close(loss(student, teacher, labels), known)
    assert loss(student, teacher, labels, beta=0.0) < loss(student, teacher, labels)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels, scale=1.0), student)


def test_far_logits_stay_finite() -> None:
    student = torch.tensor([[90.0, -90.0], [90.0, -90.0]], requires_grad=True)
    value = loss(student, -student.detach(), torch.tensor([0, 1]), epsilon=0.001, scale=1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_wrong_values_are_refused() -> None:
    one = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="correct them"):
        loss(one, one, torch.tensor([0]), alpha=2.0)
