"""The controls name what they should."""

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("switching-controls")
    assert method.verb is None
    assert {check.role for check in method.card.checks} == {"positive control", "negative control", "a/a control"}
    for check in method.card.checks:
        check_arms(check, "lm_switch")


def test_the_negative_control_is_the_positive_one_on_the_measure_without_the_share() -> None:
    checks = {check.role: check for check in find_method("switching-controls").card.checks}
    positive, negative = checks["positive control"], checks["negative control"]
    assert (positive.method, positive.baseline) == (negative.method, negative.baseline)
    assert (positive.metric, negative.metric) == ("perplexity", "perplexity_at_share")
