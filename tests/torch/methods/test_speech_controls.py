"""The controls name what they should; a recogniser without an early exit says nothing there."""

import objective_settings

from paperlab.core.methods import find_method
from paperlab.kit.tuning import Tuned
from paperlab.lab.arms import check_arms, functions_of
from paperlab.tasks import asr


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("speech-controls")
    assert method.verb is None
    assert {check.role for check in method.card.checks} == {"positive control", "negative control", "a/a control"}
    for check in method.card.checks:
        check_arms(check, "asr")


def test_the_negative_controls_arm_has_no_exit_within_two_blocks() -> None:
    (check,) = (c for c in find_method("speech-controls").card.checks if c.role == "negative control")
    setting = objective_settings.recogniser()
    network = functions_of(check.method)["objective"](setting.model, setting, **check.method.params).result()
    assert next(asr.score(Tuned(network, 1.0), setting))["wrong_2"] == 1
