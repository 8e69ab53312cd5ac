"""ASVD: by hand, plain SVD without scales, and inputs that are never active."""

import torch

from paperlab.methods.low_rank import asvd, svd


def test_by_hand() -> None:
    # the first input is 81 times as loud: at alpha = 1/2 its weight of 1 counts 9 times, against 4
    weight = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    made = asvd.factor(weight, torch.tensor([81.0, 1.0]), rank=1)
    torch.testing.assert_close(made.dense(), torch.tensor([[1.0, 0], [0, 0]]))
    quiet = asvd.factor(weight, torch.tensor([81.0, 1.0]), rank=1, alpha=0.0)
    torch.testing.assert_close(quiet.dense(), torch.tensor([[0.0, 0], [0, 4]]))


def test_without_scales_it_is_plain_svd_and_silent_inputs_do_no_harm() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, size = torch.randn(16, 24, generator=draw), torch.rand(24, generator=draw)
    plain = svd.factor(weight, rank=5).dense()
    torch.testing.assert_close(asvd.factor(weight, size, rank=5, alpha=0.0).dense(), plain, rtol=1e-3, atol=1e-3)
    size[::2] = 0
    assert asvd.factor(weight, size, rank=5).dense().isfinite().all()
