"""The family's controls do what they say, on one matrix: no model, no task."""

import torch

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.masks import keep_highest
from paperlab.methods.pruning import sparsegpt, wanda


def checks():
    return {check.claim: check for check in find_method("pruning-controls").card.checks}


def error(arm: Arm, weight: torch.Tensor, x: torch.Tensor) -> float:
    params = dict(arm.params)
    if arm.method == "sparsegpt":
        pruned = sparsegpt.keep(weight, 2 / len(x) * x.T @ x, **params).dense()
    elif arm.method == "wanda":
        pruned = weight * wanda.keep(weight, x.square().sum(0).sqrt(), **params)
    else:
        alone = params.pop("scope", "layer") == "row" or "pattern" in params  # each row for itself
        score = weight.abs() if alone else weight.abs().reshape(1, -1)
        pruned = weight * keep_highest(score, **params).reshape(weight.shape)
    return float(((pruned - weight) @ x.T).square().sum())


def test_each_role_is_there_and_every_arm_can_be_built():
    assert find_method("pruning-controls").verb is None
    roles = {check.role for check in checks().values()}
    assert roles == {"positive control", "negative control", "a/a control", "question"}
    for check in checks().values():
        for one in (part for arm in check.arms for part in arm.chain):
            check_parameters(find_method(one.method), one.params)


def test_controls_and_questions_on_loud_and_silent_inputs():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 48, generator=draw)
    x = torch.randn(400, 8, generator=draw) @ torch.randn(8, 48, generator=draw)
    x = (x + torch.randn(400, 48, generator=draw)) * torch.randn(48, generator=draw).exp()
    by = checks()
    better = ("a-tenth-better-than-four-fifths", "wanda-better-than-magnitude", "wanda-2-4-better-than-magnitude",
              "sparsegpt-better-than-magnitude", "sparsegpt-2-4-better-than-magnitude")  # fmt: skip
    for claim in better:
        assert error(by[claim].method, weight, x) < 0.9 * error(by[claim].baseline, weight, x), claim
    shuffled = by["wanda-with-norms-of-other-inputs"]
    assert error(shuffled.method, weight, x) > error(shuffled.baseline, weight, x)
    gate = by["wanda-better-than-magnitude"].gates[0]
    assert error(gate.method, weight, x) == error(gate.baseline, weight, x)
    same = by["wanda-against-itself"]
    assert same.method == same.baseline
