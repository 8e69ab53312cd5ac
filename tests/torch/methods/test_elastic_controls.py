"""The controls name what they should; on a few pairs the first holds."""

import torch

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms, functions_of


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("elastic-controls")
    assert method.verb is None
    roles = {"positive control", "negative control", "a/a control"}
    for task in ("embed", "image_multitask", "image_segmentation"):
        checks = [check for check in method.card.checks if check.task == task]
        assert {check.role for check in checks} == roles
        for check in checks:
            check_arms(check, task)


def test_the_negative_control_trains_another_layer() -> None:
    check = {check.claim: check for check in find_method("elastic-controls").card.checks}["trained-for-another-layer"]
    x = torch.randn(6, 4, 32, requires_grad=True)
    functions_of(check.method)["loss"](x, torch.randn(6, 4, 32), **check.method.params).backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum() > 0
    assert x.grad[1:].abs().sum() == 0
