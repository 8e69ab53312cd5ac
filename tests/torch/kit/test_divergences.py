"""Divergences: by hand, against another implementation in double precision, and what must hold of any."""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor

from paperlab.kit.divergences import DIVERGENCES, divergence


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_by_hand() -> None:
    teacher, student = logits(0.5, 0.5), logits(0.25, 0.75)
    said = {name: divergence(student, teacher, name).item() for name in DIVERGENCES}
    assert said["forward-kl"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert said["reverse-kl"] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    middle = (0.375, 0.625)
    halves = [p * math.log(p / m) for pair in ((0.5, 0.5), (0.25, 0.75)) for p, m in zip(pair, middle, strict=True)]
    assert said["js"] == pytest.approx(sum(halves) / 2)
    assert said["tvd"] == pytest.approx(0.25)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_as_scipy_in_double_precision(temperature: float) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(7, 5, dtype=torch.float64) * 3, torch.randn(7, 5, dtype=torch.float64) * 3
    p, q = (teacher / temperature).softmax(-1).numpy(), (student / temperature).softmax(-1).numpy()
    known = {
        "forward-kl": entropy(p, q, axis=1).mean(),
        "reverse-kl": entropy(q, p, axis=1).mean(),
        "js": (jensenshannon(p, q, axis=1) ** 2).mean(),
        "tvd": abs(p - q).sum(1).mean() / 2,
    }
    for name, value in known.items():
        assert divergence(student, teacher, name, temperature=temperature).item() == pytest.approx(value, rel=1e-12)
        single = divergence(student.float(), teacher.float(), name, temperature=temperature)
        assert single.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_what_holds_of_any(name: str) -> None:
    torch.manual_seed(1)
    teacher, student = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    assert divergence(teacher, teacher, name).item() == pytest.approx(0, abs=1e-15)
    assert divergence(student, teacher, name) > 0
    shifted = divergence(student + 3, teacher - 5, name)  # a constant added to logits changes nothing
    torch.testing.assert_close(shifted, divergence(student, teacher, name))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x, teacher, name, temperature=2.0), student)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_far_logits_stay_finite(name: str) -> None:
    teacher = torch.tensor([[200.0, -200.0, 0.0]])
    student = -teacher.clone().requires_grad_()
    value = divergence(student, teacher, name)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if name == "js":
        assert value.item() == pytest.approx(math.log(2))
    if name == "tvd":
        assert value.item() == pytest.approx(1)


def test_wrong_values_are_refused() -> None:
    one = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="one of forward-kl"):
        divergence(one, one, "weather")
    with pytest.raises(ValueError, match="more than 0"):
        divergence(one, one, "js", temperature=0)
