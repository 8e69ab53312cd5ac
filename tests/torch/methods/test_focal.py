"""Focal loss: the formula in double precision, the binary form as torchvision writes it, ends, slopes, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import paperlab
from paperlab.methods.loss import cross_entropy
from paperlab.methods.loss.focal import loss


@pytest.fixture
def examples() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return 3 * torch.randn(40, 6, generator=draw, dtype=torch.float64), torch.randint(6, (40,), generator=draw)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_it_is_equation_4(examples: tuple[Tensor, Tensor], gamma: float) -> None:
    logits, labels = examples
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        total += -((1 - p) ** gamma) * math.log(p)
    assert paperlab.load("focal", gamma=gamma)(logits, labels).item() == pytest.approx(total / 40, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_of_two_classes_it_is_the_detector_s(gamma: float) -> None:
    """sigmoid_focal_loss of torchvision without its alpha, for logits (x, 0)."""
    draw = torch.Generator().manual_seed(1)
    x = (3 * torch.randn(30, generator=draw, dtype=torch.float64)).requires_grad_()
    positive = torch.randint(2, (30,), generator=draw)
    p = torch.sigmoid(x)
    p_t = p * positive + (1 - p) * (1 - positive)
    theirs = (F.binary_cross_entropy_with_logits(x, positive.double(), reduction="none") * (1 - p_t) ** gamma).mean()
    mine = loss(torch.stack((torch.zeros_like(x), x), 1), positive, gamma=gamma)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (mine, theirs)))


def test_without_gamma_it_is_cross_entropy(examples: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(loss(*examples, gamma=0.0), cross_entropy.loss(*examples), rtol=1e-15, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_slope_is_the_function_s(examples: tuple[Tensor, Tensor], gamma: float) -> None:
    logits, labels = examples[0][:5].requires_grad_(), examples[1][:5]
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, gamma=gamma), logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_certain_example_has_a_finite_slope(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)  # right, then wrong, both beyond doubt
    value = loss(logits, torch.tensor([0, 0]), gamma=gamma)
    (slope,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(100.0)
    assert slope.isfinite().all()
    assert slope[0].abs().max() == 0


def test_well_predicted_examples_count_less(examples: tuple[Tensor, Tensor]) -> None:
    easy, hard = torch.tensor([[3.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
    label = torch.tensor([0])
    shares = [(loss(easy, label, gamma=g) / loss(hard, label, gamma=g)).item() for g in (0.0, 1.0, 2.0)]
    assert shares[0] > 10 * shares[1] > 100 * shares[2]


def test_a_negative_gamma_is_refused(examples: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="give 0 or more"):
        loss(*examples, gamma=-1.0)
