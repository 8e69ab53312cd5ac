"""Divergences between what a teacher and a student say, averaged over rows; in nats but for the total variation.

With p the teacher's and q the student's probabilities, both at one temperature, and m = (p + q) / 2:

    forward KL    sum p log(p / q)            the student must cover all that the teacher holds possible
    reverse KL    sum q log(q / p)            the student may settle on a part of it
    JS            (KL(p, m) + KL(q, m)) / 2   at most log 2
    TVD           sum |p - q| / 2             at most 1

Nothing here multiplies by the temperature squared: a method does so where its paper does.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

DivergenceName = Literal["forward-kl", "reverse-kl", "js", "tvd"]


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities (..., classes), a scalar."""
    return _kl(teacher, student).mean()


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(student || teacher) of log-probabilities (..., classes), a scalar."""
    return _kl(student, teacher).mean()


def jensen_shannon(teacher: Tensor, student: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of log-probabilities (..., classes), a scalar in [0, log 2]."""
    middle = torch.logaddexp(teacher, student) - math.log(2)
    return ((_kl(teacher, middle) + _kl(student, middle)) / 2).mean()


def total_variation(teacher: Tensor, student: Tensor) -> Tensor:
    """Half the absolute difference of the probabilities of log-probabilities (..., classes), a scalar in [0, 1]."""
    return (teacher.exp() - student.exp()).abs().sum(-1).mean() / 2


DIVERGENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "js": jensen_shannon,
    "tvd": total_variation,
}


def divergence(student: Tensor, teacher: Tensor, name: str, *, temperature: float = 1.0) -> Tensor:
    """A divergence by its name, of logits (n, classes) at a temperature; a scalar.

    Raises ValueError for a name that is none of DivergenceName and a temperature that is not above 0.
    """
    if name not in DIVERGENCES:
        raise ValueError(f"divergence={name!r}: one of {', '.join(get_args(DivergenceName))}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} divides the logits: give more than 0")
    said = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return DIVERGENCES[name](*said)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities, (..., classes) -> (...)."""
    return (first.exp() * (first - second)).sum(-1)
