"""The controls name what they should."""

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("nested-controls")
    assert method.verb is None
    assert {check.role for check in method.card.checks} == {"positive control", "negative control", "a/a control"}
    for check in method.card.checks:
        check_arms(check, "lm_nested")


def test_the_negative_control_is_the_positive_one_at_the_other_width() -> None:
    checks = {check.role: check for check in find_method("nested-controls").card.checks}
    positive, negative = checks["positive control"], checks["negative control"]
    assert (positive.method, positive.baseline) == (negative.method, negative.baseline)
    assert (positive.metric, negative.metric) == ("bits_eighth", "bits_full")
