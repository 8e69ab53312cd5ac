"""GPTQ with low-rank compensation: GPTQ's own codes, and the best correction of its rank."""

import numpy as np
import pytest
import torch
from torch import Tensor

from paperlab.kit.matrix import Factors, Sum
from paperlab.methods.quantization.gptq import quantize as gptq
from paperlab.methods.quantization.gptq_lorc import quantize


def layer() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(512, 64, generator=draw)
    return torch.randn(48, 64, generator=draw) * 0.05, 2 / 512 * x.T @ x


def test_by_hand() -> None:
    # On the integers 0 .. 3 and with inputs that are independent, GPTQ rounds to nearest: the error of rank one,
    # (1, -1)^T (0, 0.1, -0.1, 0), is all that is left, and rank 1 gives the weights back.
    grid = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    weight = grid + torch.tensor([[1.0], [-1.0]]) @ torch.tensor([[0.0, 0.1, -0.1, 0.0]])
    assert gptq(weight, torch.eye(4), bits=2, damping=0.0).dense().tolist() == grid.tolist()
    back = quantize(weight, torch.eye(4), bits=2, rank=1, factor_bits=16, damping=0.0)
    torch.testing.assert_close(back.dense(), weight, atol=1e-4, rtol=0)
    assert back.stored_bits()["factors"] == (2 + 4) * 16


@pytest.mark.parametrize("act_order", [False, True])
def test_the_codes_are_gptq_s_and_the_correction_is_eckart_young_s(act_order: bool) -> None:
    weight, hessian = layer()
    plain = gptq(weight, hessian, bits=3, act_order=act_order)
    repaired = quantize(weight, hessian, bits=3, rank=4, factor_bits=16, act_order=act_order)
    assert isinstance(repaired, Sum)
    assert isinstance(repaired.parts[1], Factors)
    assert torch.equal(repaired.parts[0].codes, plain.codes)
    tail = np.linalg.svd((weight - plain.dense()).double().numpy(), compute_uv=False)[4:]
    assert float((weight - repaired.dense()).square().sum()) == pytest.approx((tail**2).sum(), rel=1e-3)


def test_what_the_factors_cost() -> None:
    weight, hessian = layer()
    plain, repaired = gptq(weight, hessian, bits=3), quantize(weight, hessian, bits=3, rank=4)
    added = sum(repaired.stored_bits().values()) - sum(plain.stored_bits().values())
    assert added == 4 * (48 + 64) * 8 + 2 * 4 * 16  # 8-bit factors, a float16 scale for each component of both
    assert torch.equal(quantize(weight, hessian, bits=3, rank=0).dense(), plain.dense())
    with pytest.raises(ValueError, match="rank=49"):
        quantize(weight, hessian, rank=49)
