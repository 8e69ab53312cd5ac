"""Dual-head distillation: losses worked by hand and against the authors' clamped form, alignment, the two heads."""

import math

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.methods.distillation.dual_head_kd import Objective, aligned, binary_kl, binary_kl_norm


def test_losses_worked_by_hand() -> None:
    student, teacher = torch.tensor([[0.0]]), torch.tensor([[2 * math.log(3)]])  # at T = 2: probabilities 1/2 and 3/4
    nats = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert binary_kl(student, teacher, 2.0).item() == pytest.approx(4 * nats)
    away = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)  # the difference has probability 1/4
    assert binary_kl_norm(student, teacher, 2.0).item() == pytest.approx(4 * away)
    assert binary_kl_norm(teacher, teacher, 2.0).item() == binary_kl(teacher, teacher, 2.0).item() == 0.0


def clamped(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both losses as the authors write them."""

    def low(x: Tensor) -> Tensor:
        return x.clamp(1e-8, 1 - 1e-8)

    def both(p: Tensor, q: Tensor) -> Tensor:
        first = F.kl_div(q.log(), p, reduction="none") + F.kl_div((1 - q).log(), 1 - p, reduction="none")
        return temperature**2 * first.sum() / len(student)

    plain = both(low((teacher / temperature).sigmoid()), low((student / temperature).sigmoid()))
    difference = low(((student - teacher) / temperature).sigmoid())
    return plain, both(torch.full_like(difference, 0.5), difference)


def test_losses_are_the_authors() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 4, generator=draw, dtype=torch.double) for _ in range(2))
    plain, norm = clamped(student, teacher, 2.0)
    torch.testing.assert_close(binary_kl(student, teacher, 2.0), plain)
    torch.testing.assert_close(binary_kl_norm(student, teacher, 2.0), norm)


def test_a_gradient_that_works_against_the_first_loses_that_part() -> None:
    first = [torch.tensor([1.0, 0.0]), torch.tensor([0.0])]
    against, along = [torch.tensor([-2.0, 3.0]), torch.tensor([5.0])], [torch.tensor([2.0, 3.0]), torch.tensor([5.0])]
    assert [g.tolist() for g in aligned(first, against)] == [[1.0, 3.0], [5.0]]
    assert [g.tolist() for g in aligned(first, along)] == [[3.0, 3.0], [5.0]]


def gradients(objective: Objective, setting: objective_settings.Image) -> tuple[float, dict[str, Tensor]]:
    objective.train()
    torch.manual_seed(0)  # dropout of the second head
    objective.zero_grad()
    value = objective(*next(setting.batches(0)), 0.5)
    value.backward()
    return value.item(), {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def test_alignment_changes_the_gradient_as_worked_from_both_losses_and_not_the_value() -> None:
    setting = objective_settings.convolutional()
    objective = Objective(setting.model, setting)
    value, merged = gradients(objective, setting)
    objective.align = False
    plain, summed = gradients(objective, setting)
    assert value == pytest.approx(plain, rel=1e-5)
    objective.alpha = 0.0
    _, first = gradients(objective, setting)
    second = {name: summed[name] - first.get(name, torch.zeros_like(summed[name])) for name in summed}
    firsts = [first.get(name, torch.zeros_like(second[name])) for name in second]
    for name, wanted in zip(second, aligned(firsts, list(second.values())), strict=True):
        torch.testing.assert_close(merged[name], wanted, rtol=1e-3, atol=1e-5)


def test_each_head_is_trained_by_its_own_loss_and_the_backbone_by_both() -> None:
    setting = objective_settings.convolutional()
    _, only_labels = gradients(Objective(setting.model, setting, alpha=0.0, align=False), setting)
    _, only_logits = gradients(Objective(setting.model, setting, labels=0.0, align=False), setting)
    assert only_labels["student.classifier.weight"].abs().sum() > 0
    assert only_labels["auxiliary.4.weight"].abs().sum() == 0
    assert only_logits["student.classifier.weight"].abs().sum() == 0
    assert only_logits["auxiliary.4.weight"].abs().sum() > 0
    assert all(found["student.stages.0.0.weight"].abs().sum() > 0 for found in (only_labels, only_logits))


def test_one_head_has_both_losses_and_no_more_parameters() -> None:
    setting = objective_settings.convolutional()
    objective = Objective(setting.model, setting, heads=1, norm=False, align=False)
    assert objective.auxiliary is None
    inputs, labels = next(setting.batches(0))
    student, teacher = setting.model(**inputs), setting.teacher(**inputs)
    wanted = F.cross_entropy(student, labels) + binary_kl(student, teacher, 2.0)
    torch.testing.assert_close(objective(inputs, labels, 0.0), wanted)
    with pytest.raises(ValueError, match="one classifier"):
        Objective(setting.model, setting, heads=3)
