"""SVD of the error: by hand; at full rank nothing is missing; LoRC is the same but for its 8 bits."""

import torch

from paperlab.methods.low_rank.svd_error import factor
from paperlab.methods.quantization.round_to_nearest import quantize
from paperlab.methods.quantization.zeroquant_v2_lorc import quantize as lorc


def test_by_hand() -> None:
    error = torch.tensor([[0.0, 0.25], [1.0, 0.0]])
    assert factor(error, rank=1).dense().tolist() == [[0, 0], [1, 0]]
    assert torch.equal(factor(error, rank=2).dense(), error)


def test_over_rounding_it_is_lorc_with_16_bit_factors() -> None:
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)) * 0.05
    rounded = quantize(weight, bits=3).dense()
    wanted = lorc(weight, bits=3, rank=4, factor_bits=16).dense()
    torch.testing.assert_close(rounded + factor(weight - rounded, rank=4).dense(), wanted, rtol=1e-3, atol=1e-5)
