"""The controls of fronts do what they say, on a small network: importance turned round costs what it should."""

from typing import Any

from front_settings import Setting, classifier

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.lab.arms import functions_of


def front(arm: Arm) -> Any:
    setting = Setting(steps=40)
    return functions_of(arm)["recipe"](classifier(), setting, 0, 5e-3, **arm.params).model


def test_each_role_is_there_and_every_arm_can_be_built() -> None:
    card = find_method("subnetwork-controls").card
    assert {check.role for check in card.checks} == {"positive control", "negative control", "a/a control"}
    for check in card.checks:
        assert check.equal == {"compute": 0.1}
        for arm in check.arms:
            check_parameters(find_method(arm.method), arm.params)


def test_the_positive_control_holds_and_arms_of_the_last_are_one_and_the_same() -> None:
    positive, _, same = find_method("subnetwork-controls").card.checks
    volumes = []
    for arm in (positive.method, positive.baseline):
        made = front(arm)
        volumes.append(made.hypervolume([member.validation for member in made.members], 0.1))
    assert volumes[0] > volumes[1] * 1.02
    assert same.method == same.baseline
