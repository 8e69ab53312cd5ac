"""Label smoothing: torch's own in value and slope, its two ends, what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import paperlab
from paperlab.methods.loss import cross_entropy
from paperlab.methods.loss.label_smoothing import loss


@pytest.fixture
def examples() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return 3 * torch.randn(40, 6, generator=draw, dtype=torch.float64), torch.randint(6, (40,), generator=draw)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_it_is_torch_s_own(examples: tuple[Tensor, Tensor], smoothing: float) -> None:
    logits, labels = examples
    logits.requires_grad_()
    mine = paperlab.load("label-smoothing", smoothing=smoothing)(logits, labels)
    theirs = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (mine, theirs)))


def test_it_is_the_cross_entropy_with_the_smeared_target(examples: tuple[Tensor, Tensor]) -> None:
    logits, labels = examples
    target = 0.9 * F.one_hot(labels, 6) + 0.1 / 6  # q' of section 7
    wanted = -(target * logits.softmax(-1).log()).sum(-1).mean()
    torch.testing.assert_close(loss(logits, labels, smoothing=0.1), wanted)


def test_without_smoothing_it_is_cross_entropy(examples: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(loss(*examples, smoothing=0.0), cross_entropy.loss(*examples), rtol=1e-15, atol=0)


def test_the_least_loss_is_that_of_the_smeared_target() -> None:
    """Logits need not grow without bound: the best ones differ by log((1 - e + e / K) / (e / K))."""
    best = torch.tensor([[0.9 + 0.1 / 4, 0.1 / 4, 0.1 / 4, 0.1 / 4]], dtype=torch.float64).log().requires_grad_()
    (slope,) = torch.autograd.grad(loss(best, torch.tensor([0])), best)
    assert slope.abs().max() < 1e-15


def test_the_slope_is_the_function_s(examples: tuple[Tensor, Tensor]) -> None:
    logits, labels = examples[0][:5].requires_grad_(), examples[1][:5]
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, smoothing=0.3), logits)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(examples: tuple[Tensor, Tensor], smoothing: float) -> None:
    with pytest.raises(ValueError, match="is a share"):
        loss(*examples, smoothing=smoothing)
