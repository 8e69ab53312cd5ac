"""SVD-LLM: by hand, and no other factors leave less error in the output than those after whitening."""

import torch

from paperlab.methods.low_rank import asvd, svd, svd_llm


def test_by_hand() -> None:
    # moments 25 and 1: the first weight, 1, counts 5 times, against 4
    weight = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    made = svd_llm.factor(weight, torch.diag(torch.tensor([25.0, 1.0])), rank=1)
    torch.testing.assert_close(made.dense(), torch.tensor([[1.0, 0], [0, 0]]))


def test_it_leaves_least_in_the_output() -> None:
    draw = torch.Generator().manual_seed(0)
    x = (
        torch.randn(300, 24, generator=draw)
        @ torch.randn(24, 24, generator=draw)
        * torch.randn(24, generator=draw).exp()
    )
    weight = torch.randn(16, 24, generator=draw)

    def left(dense: torch.Tensor) -> float:
        return float(((weight - dense) @ x.T).square().sum())

    best = left(svd_llm.factor(weight, 2 / 300 * x.T @ x, rank=4).dense())
    assert best < 0.95 * left(asvd.factor(weight, x.abs().mean(0), rank=4).dense())
    assert best < 0.95 * left(svd.factor(weight, rank=4).dense())
    for seed in range(20):  # nor do factors that differ a little
        made = svd_llm.factor(weight, 2 / 300 * x.T @ x, rank=4)
        noise = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)) * 0.05
        assert left((made.left.float() + noise) @ made.right.float()) > best
