"""Feature distillation and plain fine-tuning: by hand and against autograd in double precision."""

import pytest
import torch
import torch.nn.functional as F

from paperlab.methods.distillation import feature_distillation, fine_tuning


def test_the_distance_is_a_sum_over_layers_of_means_over_tokens_and_width() -> None:
    student = (torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.tensor([[[0.0, 3.0], [9.0, 9.0]]]))
    teacher = (torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    mask = torch.tensor([[1, 0]])
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 1])
    given = (logits, labels, student, teacher, mask)
    assert feature_distillation.loss(*given).item() == pytest.approx(2.5 + 4.5)
    both = feature_distillation.loss(*given, label_weight=2.0)
    assert both.item() == pytest.approx(7.0 + 2 * torch.log(torch.tensor(4.0)).item())


def test_its_gradient_is_that_of_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    student = tuple(torch.randn(2, 3, 4, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(3))
    teacher = tuple(torch.randn(2, 3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    logits = torch.randn(6, 5, generator=draw, dtype=torch.float64)
    value = feature_distillation.loss(logits, torch.zeros(6).long(), student, teacher, torch.ones(2, 3))
    for own, other, gradient in zip(student[1:], teacher[1:], torch.autograd.grad(value, student[1:]), strict=True):
        torch.testing.assert_close(gradient, 2 * (own - other).detach() / own.numel(), rtol=1e-12, atol=1e-15)


def test_another_shape_is_refused() -> None:
    states = (torch.zeros(1, 2, 2),) * 3
    narrow = (torch.zeros(1, 2, 1),) * 3
    with pytest.raises(ValueError, match="equally wide"):
        feature_distillation.loss(torch.zeros(2, 4), torch.zeros(2).long(), narrow, states, torch.ones(1, 2))


def test_fine_tuning_is_cross_entropy() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    expected = -logits.softmax(-1)[torch.arange(6), labels].log().mean()
    torch.testing.assert_close(fine_tuning.loss(logits, labels), expected)
    torch.testing.assert_close(fine_tuning.loss(logits, labels), F.cross_entropy(logits, labels))
