"""The controls of tiny students name arms that can be built, and the planted bad one is a method's own parameter."""

from paperlab.core.methods import check_parameters, find_method


def test_each_role_is_there_and_every_arm_can_be_built() -> None:
    card = find_method("tiny-student-controls").card
    assert {check.role for check in card.checks} == {"positive control", "negative control", "a/a control"}
    for check in card.checks:
        for arm in check.arms:
            check_parameters(find_method(arm.method), arm.params)
    positive, negative, same = card.checks
    assert positive.baseline == negative.method
    assert positive.baseline.params == {"targets": "mismatched"}
    assert same.method == same.baseline == positive.method
