"""Distillation on what the student writes: the objectives that on-policy papers compare with.

L = CE(student, text) + weight * D(teacher, student on y),       y the text, or what the student writes at that step

forward-kl, text          supervised distillation (Hinton et al., arXiv 1503.02531)
forward-kl, student       ImitKD, and GKD with that divergence (Lin et al., 2009.07253; Agarwal et al., 2306.13649)
js, student               GKD with that divergence
reverse-kl, student       the token-level part of MiniLLM (Gu et al., 2306.08543), without its policy gradient
skew-kl, student          KL(p || 0.1 p + 0.9 q), the loss of DistiLLM (Ko et al., 2402.03898), not its schedule
skew-reverse-kl, student  KL(q || 0.9 p + 0.1 q), DistiLLM's other one
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit import divergences
from paperlab.kit.tuning import Setting, Tuned
from paperlab.kit.writing import answer, continued, distilled

CARD = Card(
    family="distillation",
    departs=(
        "objectives as the papers behind them state them; their schedules and further terms are left out: MiniLLM's "
        "policy gradient and teacher-mixed sampling, DistiLLM's replay buffer and its rising share of samples; all "
        "have the text's cross-entropy beside, which ImitKD and GKD have not",
        "answers for four steps are written at once, so that a sample is up to three steps old",
    ),
)

SKEW = 0.1  # share of the teacher in what the skewed KL compares it with; DistiLLM's value


def recipe(
    model: nn.Module,
    setting: Setting,
    seed: int,
    rate: float,
    *,
    samples: Literal["student", "text"] = "student",
    divergence: Literal["forward-kl", "reverse-kl", "js", "skew-kl", "skew-reverse-kl"] = "forward-kl",
    weight: float = 1.0,
) -> Tuned:
    """The student, trained on the setting's text and towards its teacher on answers by `samples`.

    divergence: between the teacher's and the student's predictions. weight: of that term, at least 0; without it
    nothing is written.
    """
    if weight < 0:
        raise ValueError(f"weight={weight}: what the divergence is multiplied by, at least 0")
    draw = torch.Generator().manual_seed(seed)

    def written(ids: Tensor) -> Tensor:
        begin = answer(ids)
        return continued(model, ids[:, :begin], ids.shape[1] - begin, draw) if samples == "student" and weight else ids

    def distance(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        if divergence == "skew-kl":
            return weight * skew_kl(student, teacher)
        if divergence == "skew-reverse-kl":
            return weight * skew_kl(teacher, student)
        return weight * divergences.divergence(student, teacher, divergence)

    return distilled(model, setting, seed, rate, written=written, distance=distance)


def skew_kl(student: Tensor, teacher: Tensor, share: float = SKEW) -> Tensor:
    """KL(p || share p + (1 - share) q) of logits (..., classes), averaged over rows; p the teacher's, or of swapped
    arguments the student's. At most -log(share)."""
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    return divergences.forward_kl(p, torch.logaddexp(p + math.log(share), q + math.log1p(-share)))
