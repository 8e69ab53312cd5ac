"""The controls can be built, and the negative one is the same arm under another name: no task."""

import torch

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms, functions_of


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("distillation-controls")
    assert method.verb is None
    roles = {check.role for check in method.card.checks}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in method.card.checks:
        check_arms(check, check.task)


def test_a_teacher_that_only_repeats_the_labels_says_nothing_new() -> None:
    checks = {check.claim: check for check in find_method("distillation-controls").card.checks}
    check = checks["a-teacher-that-only-repeats-the-labels"]
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    (spoilt,), (plain,) = (functions_of(arm).values() for arm in (check.method, check.baseline))
    value = spoilt(student, teacher, labels, **check.method.params)
    torch.testing.assert_close(value, plain(student, labels))
