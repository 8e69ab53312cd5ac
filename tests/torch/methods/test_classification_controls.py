"""The controls do what they say on one batch: no network, no task."""

import torch

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms
from paperlab.methods.distillation.divergence import loss as distilled
from paperlab.methods.distillation.fine_tuning import loss as labels_alone


def test_each_role_is_there_and_every_arm_can_be_built() -> None:
    checks = find_method("classification-controls").card.checks
    assert {check.role for check in checks} == {"positive control", "negative control", "a/a control"}
    for check in checks:
        check_arms(check, "cls_distill")


def test_a_teacher_that_is_not_listened_to_changes_nothing() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(distilled(student, teacher, labels, hard=1.0), labels_alone(student, labels))
