"""The controls do what they say, on one matrix: no model, no task."""

import torch

from paperlab.core.methods import check_parameters, find_method
from paperlab.core.verdict import margin_of
from paperlab.methods.quantization import gptq, round_to_nearest


def checks():
    return {check.claim: check for check in find_method("quantization-controls").card.checks}


def arm(which, weight, hessian):
    if which.method == "gptq":
        return gptq.quantize(weight, hessian, **which.params)
    return round_to_nearest.quantize(weight, **which.params)


def test_each_role_is_there_and_every_arm_can_be_built():
    assert find_method("quantization-controls").verb is None
    roles = [check.role for check in checks().values()]
    assert {"positive control", "negative control", "a/a control"} == set(roles)
    for check in checks().values():
        for one in check.arms:
            check_parameters(find_method(one.method), one.params)


def test_negative_controls_ask_for_no_gain_at_all():
    negative = [check for check in checks().values() if check.role == "negative control"]
    assert len(negative) == 2
    assert all(check.margin == 0 and margin_of(check) == 0 and not check.rivals for check in negative)


def test_positive_and_negative_controls_on_correlated_inputs():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 128, generator=draw)
    x = torch.randn(400, 8, generator=draw) @ torch.randn(8, 128, generator=draw) + 0.3 * torch.randn(
        400, 128, generator=draw
    )
    hessian = 2 / 400 * x.T @ x

    def error(one) -> float:
        return ((arm(one, weight, hessian).dense() - weight) @ x.T).square().sum().item()

    by = checks()
    for claim in ("eight-bits-better-than-two", "gptq-better-than-rtn"):
        assert error(by[claim].method) < 0.8 * error(by[claim].baseline)
    broken, plain = by["gptq-without-a-hessian"].method, by["gptq-without-a-hessian"].baseline
    loud = x.clone()
    loud[:, 0] *= 1000  # one input that is nearly all of the mean diagonal, as language models have them
    for heard in (hessian, 2 / 400 * loud.T @ loud):
        assert torch.equal(arm(broken, weight, heard).codes, arm(plain, weight, heard).codes)
    for claim in ("rtn-against-itself", "gptq-against-itself"):
        assert by[claim].method == by[claim].baseline


def test_another_order_of_calibration_gives_the_same_codes_nearly_everywhere():
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 64, generator=draw), torch.randn(512, 64, generator=draw)
    codes = []
    for rows in (x, x[torch.randperm(512, generator=draw)]):
        hessian = torch.zeros(64, 64)
        for batch in rows.split(32):  # summed as a walk sums it
            hessian += 2 / 512 * batch.T @ batch
        codes.append(gptq.quantize(weight, hessian).codes)
    assert (codes[0] != codes[1]).float().mean() < 0.01
