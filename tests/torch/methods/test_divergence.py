"""Plain distillation: the sum of its two parts, and Hinton's argument for T^2."""

import pytest
import torch
import torch.nn.functional as F

from paperlab.kit.divergences import DIVERGENCES
from paperlab.kit.divergences import divergence as between
from paperlab.methods.distillation.divergence import loss

torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_it_is_the_sum_of_its_parts(name: str) -> None:
    hard = F.cross_entropy(STUDENT, LABELS)
    soft = between(STUDENT, TEACHER, name, temperature=3.0)
    both = loss(STUDENT, TEACHER, LABELS, divergence=name, temperature=3.0, hard=0.25)  # type: ignore[arg-type]
    torch.testing.assert_close(both, 0.25 * hard + 0.75 * 9 * soft)
    torch.testing.assert_close(loss(STUDENT, TEACHER, LABELS, divergence=name, hard=1.0), hard)  # type: ignore[arg-type]


def test_with_t_squared_a_high_temperature_matches_centred_logits() -> None:
    """Hinton et al., eq. 4: the gradient of T^2 KL tends to (z - v) / N for logits of zero mean."""
    z = (STUDENT - STUDENT.mean(1, keepdim=True)).requires_grad_()
    v = TEACHER - TEACHER.mean(1, keepdim=True)
    (gradient,) = torch.autograd.grad(loss(z, v, LABELS, temperature=1e4, hard=0.0), z)
    assert (gradient.sum(1).abs() < 1e-12).all()  # a change of all logits alike changes no probability
    torch.testing.assert_close(gradient * len(z), (z - v).detach() / 3, atol=1e-4, rtol=1e-3)


def test_shares_outside_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="share of the loss"):
        loss(STUDENT, TEACHER, LABELS, hard=1.5)
