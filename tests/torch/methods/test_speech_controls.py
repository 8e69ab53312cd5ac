"""The controls name what they should."""

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("speech-controls")
    assert method.verb is None
    assert {check.role for check in method.card.checks} == {"positive control", "negative control", "a/a control"}
    for check in method.card.checks:
        check_arms(check, "asr")
