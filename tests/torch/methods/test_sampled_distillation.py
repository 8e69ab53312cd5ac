"""Distillation on own samples: the skewed KL, which text the teacher is asked about, and a step by plain autograd."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from contract_cases import tiny
from torch import nn
from window_settings import Windows

from paperlab.kit import writing
from paperlab.methods.distillation import sampled_distillation as method


def test_skew_kl_is_its_formula_and_bounded() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64) * 4
    p, q = teacher.softmax(-1), student.softmax(-1)
    mixed = 0.1 * p + 0.9 * q
    expected = F.kl_div(mixed.log(), p, reduction="none").sum(-1).mean()
    torch.testing.assert_close(method.skew_kl(student, teacher), expected)
    assert method.skew_kl(student * 100, -student * 100) <= -math.log(0.1) + 1e-9
    reverse = F.kl_div((0.9 * p + 0.1 * q).log(), q, reduction="none").sum(-1).mean()
    torch.testing.assert_close(method.skew_kl(teacher, student), reverse)
    torch.testing.assert_close(method.skew_kl(student, student), torch.zeros((), dtype=torch.float64))


def test_the_first_step_is_adamw_on_both_terms() -> None:
    teacher = copy.deepcopy(tiny("Llama"))
    with torch.no_grad():
        teacher.get_parameter("lm_head.weight").mul_(2)
    setting = Windows(teacher, steps=1)
    got = method.recipe(copy.deepcopy(tiny("Llama")), setting, 4, 1e-3, samples="text").model
    batches = setting.batches(4)
    (first, next_1), (second, _) = next(batches), next(batches)
    own = copy.deepcopy(tiny("Llama"))
    said = own(**first).logits[:, 3:].flatten(0, 1)  # windows of 8 tokens: token 3 is the first to be asked for 4
    loss = F.cross_entropy(said, next_1[:, 3:].flatten())
    p = teacher(**second).logits[:, 3:].log_softmax(-1)
    q = own(**second).logits[:, 3:].log_softmax(-1)
    loss = loss + F.kl_div(q, p.detach(), log_target=True, reduction="none").sum(-1).mean()
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3 * (1 - 0.5) / 0.95, weight_decay=0.0)
    loss.backward()
    optimizer.step()
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(got.get_parameter(name), parameter, atol=2e-5, rtol=1e-4)


def test_the_teacher_is_asked_about_what_the_student_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = writing.on_answers
    teacher = tiny("Llama")

    def spy(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        if model is teacher:
            asked.append(ids)
        return real(model, ids)

    monkeypatch.setattr(writing, "on_answers", spy)
    for samples in ("text", "student"):
        method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher), 0, 1e-3, samples=samples)
    text, own = asked[0], asked[2]
    assert torch.equal(text[:, :4], own[:, :4])
    assert not torch.equal(text[:, 4:], own[:, 4:])
    with pytest.raises(ValueError, match="at least 0"):
        method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher), 0, 1e-3, weight=-1.0)
