"""The controls do what they say on one batch: no network, no task."""

import torch

from paperlab.core.methods import find_method
from paperlab.lab.arms import check_arms, functions_of


def test_every_role_is_there_and_every_arm_can_be_built() -> None:
    method = find_method("loss-controls")
    assert method.verb is None
    roles = {check.role for check in method.card.checks}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in method.card.checks:
        check_arms(check, "lm_train")


def test_gates_hold_and_the_spoilt_loss_is_another() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(64, 9, generator=draw), torch.randint(9, (64,), generator=draw)

    def value(arm) -> float:
        return functions_of(arm)["loss"](logits, labels, **arm.params).item()

    by = {check.claim: check for check in find_method("loss-controls").card.checks}
    gates = [gate for check in by.values() for gate in check.gates]
    assert len(gates) == 2
    for gate in gates:
        assert abs(value(gate.method) - value(gate.baseline)) < 1e-6
    spoilt = by["cross-entropy-better-than-smeared-targets"]
    assert value(spoilt.baseline) > 1.05 * value(spoilt.method)
