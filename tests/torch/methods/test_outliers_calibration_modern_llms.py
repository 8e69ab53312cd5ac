"""The study's question on one layer: where no input channel stands out, other calibration data change little; where
one does, and the calibration data do not show it, they change much. That contrast is the paper's."""

import pytest
import torch
from torch import Tensor

from paperlab.assets.texts import TEXTS
from paperlab.core.methods import find_method
from paperlab.kit.weight_activation import span
from paperlab.methods.quantization.gptq import quantize

STUDY = find_method("outliers-calibration-modern-llms")
CHECKS = {check.claim: check for check in STUDY.card.checks}
WIDTH = 64


def inputs(seed: int, outlier: float = 1.0) -> Tensor:
    """(512, WIDTH) inputs with one covariance for all seeds; channel 7 is `outlier` times as strong."""
    mix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99)) / WIDTH**0.5
    x = torch.randn(512, WIDTH, generator=torch.Generator().manual_seed(seed)) @ mix
    x[:, 7] *= outlier
    return x


def loss(calibration: Tensor, test: Tensor) -> float:
    """Output error on `test` of a layer that GPTQ rounded on `calibration`, at the study's bits and group."""
    weight = torch.randn(48, WIDTH, generator=torch.Generator().manual_seed(5))
    params = {name: value for name, value in CHECKS["gptq-robust-to-content"].method.params.items()
              if name != "calibration"}  # fmt: skip
    error = quantize(weight, calibration.T @ calibration, **params).dense() - weight
    return float((test @ error.T).square().mean())


def test_the_arms_differ_in_their_calibration_and_in_nothing_else() -> None:
    assert STUDY.verb is None
    named = set()
    for check in CHECKS.values():
        other = dict(check.method.params)
        named.add(other.pop("calibration"))
        assert (check.method.method, other) == (check.baseline.method, dict(check.baseline.params))
        assert check.expect == "no worse"
        assert check.trivial is not None  # a check that it passes too tells nothing
    assert named == {"code", "random"}
    assert named - {"random"} <= set(TEXTS)


def test_other_data_of_the_same_kind_change_little() -> None:
    test = inputs(0)
    own, other = loss(inputs(1), test), loss(inputs(2), test)
    assert other == pytest.approx(own, rel=0.15)
    # only the directions count, not how loud a text is: powers of two leave every bit
    assert loss(4 * inputs(1), test) == own


def test_an_outlier_that_the_calibration_does_not_show_costs_much() -> None:
    test = inputs(0, outlier=50.0)
    assert loss(inputs(1), test) > 1.8 * loss(inputs(1, outlier=50.0), test)  # 2.4; of the same kind, 1.0


def test_a_static_range_of_other_data_holds_unless_an_outlier_comes() -> None:
    def reach(x: Tensor) -> float:
        return span(x.amin(0), x.amax(0), bits=8, symmetric=False)[1]

    assert reach(inputs(1)) == pytest.approx(reach(inputs(2)), rel=0.5)
    assert reach(inputs(1, outlier=50.0)) > 10 * reach(inputs(1))
