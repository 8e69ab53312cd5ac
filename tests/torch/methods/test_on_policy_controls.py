"""The controls of distillation on own samples can be built, and what the negative one leaves out is the teacher."""

import copy

import torch
from contract_cases import tiny
from window_settings import Windows

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms, functions_of


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("on-policy-controls")
    assert method.verb is None
    roles = {check.role for check in method.card.checks}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in method.card.checks:
        check_arms(check, check.task)


def test_without_weight_the_teacher_decides_nothing() -> None:
    checks = {check.claim: check for check in find_method("on-policy-controls").card.checks}
    arm = checks["no-weight-on-the-teacher"].method
    (recipe,) = functions_of(arm).values()
    made = []
    for teacher in (tiny("Llama"), copy.deepcopy(tiny("Llama"))):
        if made:
            with torch.no_grad():
                teacher.get_parameter("lm_head.weight").mul_(3)
        made.append(recipe(copy.deepcopy(tiny("Llama")), Windows(teacher), 0, 1e-2, **arm.params).model.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    other = recipe(copy.deepcopy(tiny("Llama")), Windows(teacher), 0, 1e-2, weight=1.0).model.state_dict()
    assert any(not torch.equal(made[0][name], other[name]) for name in other)
