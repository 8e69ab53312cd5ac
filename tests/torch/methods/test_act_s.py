"""Act-S: by hand, and between the plain SVD and EoRA in what it leaves."""

import torch

from paperlab.methods.low_rank import svd_error
from paperlab.methods.low_rank.act_s import factor


def test_by_hand() -> None:
    error = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    torch.testing.assert_close(
        factor(error, torch.tensor([8.0, 1.0]), rank=1).dense(), torch.tensor([[1.0, 0], [0, 0]])
    )
    torch.testing.assert_close(
        factor(error, torch.tensor([2.0, 1.0]), rank=1).dense(), torch.tensor([[0.0, 0], [0, 4]])
    )


def test_equal_inputs_leave_the_svd_and_silent_ones_do_no_harm() -> None:
    error = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    plain = svd_error.factor(error, rank=3).dense()
    torch.testing.assert_close(factor(error, torch.full((24,), 7.0), rank=3).dense(), plain, rtol=1e-3, atol=1e-3)
    assert factor(error, torch.zeros(24), rank=3).dense().isfinite().all()
