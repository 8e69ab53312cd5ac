"""ND loss: a feature worked by hand, the authors' loop in double precision, what is added and dropped."""

import math

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperlab.kit.teaching import feature
from paperlab.methods.distillation.nd_loss_kd import Objective, class_means, norm_and_direction


def test_a_feature_worked_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 10.0]])
    direction = torch.tensor([[1.0, 0.0]])
    assert norm_and_direction(student, teacher, direction).item() == pytest.approx(1 - 3 / 10)
    assert norm_and_direction(4 * student, teacher, direction).item() == pytest.approx(1 - 3 / 5)  # longer than 10
    assert norm_and_direction(student, 0 * teacher, direction).item() == pytest.approx(1 - 3 / 5)  # the cosine alone


def test_it_is_the_loop_of_the_authors() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 5, generator=draw, dtype=torch.double) for _ in range(2))
    centres, labels = torch.randn(3, 5, generator=draw, dtype=torch.double), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    student.requires_grad_()
    total = torch.zeros((), dtype=torch.double)
    for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
        centre = centres[label] / centres[label].norm()
        total = total + 1 - torch.dot(s, centre) / max(s.norm(), t.norm())
    found = norm_and_direction(student, teacher, F.normalize(centres, dim=-1)[labels])
    torch.testing.assert_close(found, total / 7)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(total / 7, student))


def test_class_means_are_of_the_training_images() -> None:
    setting = objective_settings.convolutional()
    assert setting.teacher is not None
    means = class_means(setting.teacher, setting.train)
    inside = feature(setting.teacher(*setting.train.inputs, output_hidden_states=True))
    torch.testing.assert_close(means[1], inside[1::3].mean(0))


def test_without_its_weight_it_is_distillation_whose_soft_part_grows() -> None:
    setting = objective_settings.convolutional()
    inputs, labels = next(setting.batches(0))
    student, teacher = setting.model(**inputs), setting.teacher(**inputs)
    hard = F.cross_entropy(student, labels)
    soft = 16 * F.kl_div((student / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="batchmean")
    plain = Objective(setting.model, setting, weight=0.0, warm_up=0.1)
    torch.testing.assert_close(plain(inputs, labels, 0.0), hard)
    torch.testing.assert_close(plain(inputs, labels, 0.05), hard + soft / 2)
    torch.testing.assert_close(plain(inputs, labels, 0.5), hard + soft)
    torch.testing.assert_close(
        Objective(setting.model, setting, weight=0.0, warm_up=0.0)(inputs, labels, 0.0), hard + soft
    )


def test_features_of_another_width_are_carried_by_layers_that_are_trained_along() -> None:
    same, wider = (Objective(s.model, s) for s in (objective_settings.convolutional(), objective_settings.wider()))
    assert isinstance(same.project, nn.Identity)
    added = {name for name, _ in wider.named_parameters()} - {name for name, _ in same.named_parameters()}
    assert added == {"project.0.weight", "project.0.bias", "project.2.weight", "project.2.bias"}
    setting = objective_settings.wider()
    value = wider(*next(setting.batches(0)), 0.5)
    value.backward()
    assert all(parameter.grad is not None for parameter in wider.project.parameters())
    assert math.isfinite(value.item())


def test_the_teacher_stays_out_of_training() -> None:
    setting = objective_settings.convolutional()
    objective = Objective(setting.model, setting)
    objective.train()
    assert setting.teacher is not None
    assert not setting.teacher.training
    assert not any(name.startswith("_teacher") for name, _ in objective.named_modules())


def test_what_cannot_be_is_refused() -> None:
    setting = objective_settings.convolutional()
    with pytest.raises(ValueError, match="away from their class mean"):
        Objective(setting.model, setting, weight=-1.0)
    with pytest.raises(ValueError, match="no teacher"):
        Objective(setting.model, objective_settings.without_teacher())
