"""The checks on one layer instead of a model: each comparison is fair, and comes out as on any layer it must."""

import pytest
import torch
from torch import Tensor

from paperlab.core.card import Arm
from paperlab.core.methods import find_method
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
    """Error of the layer's output, relative to the output."""
    weight, x = layer
    return float((x @ (stored(arm, layer).dense() - weight).T).square().sum() / (x @ weight.T).square().sum())


def test_it_has_no_verb_and_covers_the_widths_of_the_paper() -> None:
    assert STUDY.verb is None
    assert {check.method.params["bits"] for check in CHECKS.values()} == {2, 3, 4, 8}


@pytest.mark.parametrize("claim", [claim for claim, check in CHECKS.items() if check.equal])
def test_what_is_compared_at_equal_bits_has_equal_bits(claim: str, layer: tuple[Tensor, Tensor]) -> None:
    method, baseline = CHECKS[claim].method, CHECKS[claim].baseline
    assert method.params == baseline.params
    if method.method == "awq":  # on a whole model: test_awq.py
        assert method.params == CHECKS["gptq-better-than-rtn-at-3-bits"].method.params
        return
    assert stored(method, layer).stored_bits() == stored(baseline, layer).stored_bits()


def test_the_directions_hold_on_one_layer(layer: tuple[Tensor, Tensor]) -> None:
    assert loss(CHECKS["eight-bits-are-lossless"].method, layer) < 1e-4
    for claim in ("gptq-better-than-rtn-at-3-bits", "gptq-better-than-rtn-at-4-bits"):
        assert loss(CHECKS[claim].method, layer) < 0.8 * loss(CHECKS[claim].baseline, layer)
    broken = CHECKS["two-bits-break"]
    assert (broken.expect, broken.margin) == ("higher", 1.0)
    assert loss(broken.method, layer) > 2 * loss(broken.baseline, layer)
