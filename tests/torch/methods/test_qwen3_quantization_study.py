"""The checks on one layer instead of a model: each comparison is fair, and comes out as on any layer it must."""

import pytest
import torch
from torch import Tensor

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.matrix import Matrix
from paperlab.methods.quantization import gptq, round_to_nearest

STUDY = find_method("qwen3-quantization-study")
CHECKS = {check.claim: check for check in STUDY.card.checks}


@pytest.fixture(scope="module")
def layer() -> tuple[Tensor, Tensor]:
    """Weights (32, 128) and inputs (400, 128) that go together, as inputs of layers do."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 16, generator=draw) @ torch.randn(16, 128, generator=draw)
    return torch.randn(32, 128, generator=draw), x + 0.3 * torch.randn(400, 128, generator=draw)


def stored(arm: Arm, layer: tuple[Tensor, Tensor]) -> Matrix:
    weight, x = layer
    if arm.method == "gptq":
        return gptq.quantize(weight, 2 / len(x) * x.T @ x, **arm.params)
    assert arm.method == "round-to-nearest"
    return round_to_nearest.quantize(weight, **arm.params)


def loss(arm: Arm, layer: tuple[Tensor, Tensor]) -> float:
    """Error of the layer's output, relative to the output; of the original none."""
    weight, x = layer
    if arm.method == "original":
        return 0.0
    return float((x @ (stored(arm, layer).dense() - weight).T).square().sum() / (x @ weight.T).square().sum())


def test_it_has_no_verb_and_compares_what_the_paper_s_tables_do() -> None:
    assert STUDY.verb is None
    assert STUDY.card.sources == ("paper", "code")
    for followed in ("GPTQ-for-Qwen/README.md", "RTN/README.md", "llm-awq/awq/entry.py"):
        assert followed in STUDY.card.configuration
    assert {check.method.params["bits"] for check in CHECKS.values()} == {2, 4, 8}  # its tables have no RTN at 3 bits
    for check in CHECKS.values():
        assert Arm("original") in check.arms
        for arm in check.arms:
            check_parameters(find_method(arm.method), arm.params)
            assert arm.params.get("group") is None  # one range per channel, as in its tables 1 and 2


def test_what_is_compared_at_equal_bits_has_equal_bits(layer: tuple[Tensor, Tensor]) -> None:
    check = CHECKS["gptq-better-than-rtn-at-4-bits"]
    assert check.method.params["act_order"] is True  # the released command
    ours, plain, symmetric = (
        sum(stored(arm, layer).stored_bits().values()) for arm in (check.method, check.baseline, *check.rivals)
    )
    assert ours == plain
    assert abs(ours - symmetric) <= check.equal["layer_bits"] * ours
    awq = CHECKS["awq-better-than-rtn-at-4-bits"]  # on a whole model: test_awq.py
    assert (awq.baseline, awq.rivals, awq.equal) == (check.baseline, check.rivals, check.equal)


def test_the_directions_hold_on_one_layer(layer: tuple[Tensor, Tensor]) -> None:
    eight = CHECKS["eight-bits-near-lossless"]
    assert eight.trivial is not None
    assert loss(eight.method, layer) < 1e-4 < loss(eight.trivial, layer)  # a check that 4 bits must not pass
    better = CHECKS["gptq-better-than-rtn-at-4-bits"]
    assert loss(better.method, layer) < 0.8 * min(loss(arm, layer) for arm in (better.baseline, *better.rivals))
    broken = CHECKS["two-bits-break"]
    assert (broken.expect, broken.margin, broken.baseline) == ("higher", 1.0, Arm("original"))
    assert loss(broken.method, layer) > 10 * loss(better.method, layer)
    (gate,) = broken.gates
    assert (gate.method, gate.baseline, gate.expect) == (better.method, better.baseline, "better")
    assert loss(gate.method, layer) < loss(gate.baseline, layer)
