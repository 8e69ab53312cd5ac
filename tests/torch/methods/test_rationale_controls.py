"""The controls of rationale distillation can be built, and the negative one is taught other questions' reasons."""

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("rationale-controls")
    assert method.verb is None
    roles = {check.role for check in method.card.checks}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in method.card.checks:
        check_arms(check, check.task)


def test_the_negative_control_differs_from_its_baseline_in_whose_reasons_are_taught() -> None:
    (check,) = [one for one in find_method("rationale-controls").card.checks if one.role == "negative control"]
    assert check.method.params == {**check.baseline.params, "rationales": "shuffled"}
