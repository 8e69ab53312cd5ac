"""The controls of rationale distillation can be built, and the negative one reads reasons in vain."""

import copy

import torch
from contract_cases import tiny
from window_settings import Windows

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms, functions_of


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("rationale-controls")
    assert method.verb is None
    roles = {check.role for check in method.card.checks}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in method.card.checks:
        check_arms(check, check.task)


def test_reasons_without_weight_change_nothing() -> None:
    checks = {check.claim: check for check in find_method("rationale-controls").card.checks}
    check, made = checks["reasons-without-weight"], []
    for params in (check.method.params, check.baseline.params, {"rationales": "first"}):
        (recipe,) = functions_of(check.method).values()
        model = recipe(copy.deepcopy(tiny("Llama")), Windows(tiny("Llama")), 0, 1e-2, **params).model
        made.append(model.state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name])
    assert any(not torch.allclose(made[0][name], made[2][name]) for name in made[0])
