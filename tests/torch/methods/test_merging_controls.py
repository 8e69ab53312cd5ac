"""The controls do what they say on models that differ from their base in known ways: no task."""

import torch
from torch import Tensor

from paperlab.core.card import Arm
from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms, functions_of
from paperlab.lab.drivers.merge import use


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("merging-controls")
    assert method.verb is None
    roles = {check.role for check in method.card.checks}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in method.card.checks:
        check_arms(check, "merge")


def test_gates_and_controls_on_five_models() -> None:
    draw = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(200, generator=draw)}
    goal = base["w"] + torch.randn(200, generator=draw)
    models = [{"w": base["w"] + (goal - base["w"]) * (torch.arange(200) % 5 == n)} for n in range(5)]

    def merged(arm: Arm) -> Tensor:
        return use(find_method(arm.method), functions_of(arm), arm.params)(base, models)["w"]

    def distance(arm: Arm) -> float:
        return (merged(arm) - goal).norm().item()

    by = {check.claim: check for check in find_method("merging-controls").card.checks}
    gates = [gate for check in by.values() for gate in check.gates]
    assert len(gates) == 2
    for gate in gates:
        torch.testing.assert_close(merged(gate.method), merged(gate.baseline))
    better, worse = by["average-better-than-the-base"], by["subtracting-what-was-learnt"]
    assert distance(better.method) < 0.9 * distance(better.baseline)
    assert distance(worse.method) > 1.1 * distance(worse.baseline)
    assert distance(Arm("task-arithmetic", scale=1.0)) < 1e-5  # the tasks do not touch each other's weights
