"""SVD, ASVD, SVD-LLM and the family's controls, on one matrix: no model, no task."""

from typing import Any

import numpy as np
import pytest
import torch

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.matrix import Factors
from paperlab.methods.low_rank import asvd, svd, svd_llm


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """weight (out, in), inputs (tokens, in) that are correlated and of very different sizes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(500, 48, generator=draw) @ torch.randn(48, 48, generator=draw)
    return torch.randn(32, 48, generator=draw) * 0.1, x * torch.randn(48, generator=draw).exp()


def made(arm: Arm, weight: torch.Tensor, x: torch.Tensor) -> Factors:
    params: dict[str, Any] = dict(arm.params)
    if arm.method == "svd":
        return svd.factor(weight, **params)
    if arm.method == "asvd":
        return asvd.factor(weight, x.abs().mean(0), **params)
    return svd_llm.factor(weight, 2 / len(x) * x.T @ x, **params)


def error(arm: Arm, weight: torch.Tensor, x: torch.Tensor) -> float:
    return float(((made(arm, weight, x).dense() - weight).double() @ x.double().T).square().sum())


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_each_is_the_decomposition_of_its_paper_in_double_precision(rank: int) -> None:
    weight, x = problem()
    w = weight.double().numpy()
    absmean = x.abs().mean(0).double().numpy()
    root = np.linalg.cholesky((x.double().T @ x.double()).numpy())
    for arm, scale in (
        (Arm("svd", rank=rank), np.eye(48)),
        (Arm("asvd", rank=rank), np.diag(absmean**0.5)),
        (Arm("svd-llm", rank=rank), root),
    ):
        u, s, vt = np.linalg.svd(w @ scale, full_matrices=False)
        wanted = u[:, :rank] @ np.diag(s[:rank]) @ vt[:rank] @ np.linalg.inv(scale)
        np.testing.assert_allclose(made(arm, weight, x).dense().numpy(), wanted, atol=1e-3)


def test_what_svd_llm_loses_are_the_squared_singular_values_left_out() -> None:
    weight, x = problem()
    tail = np.linalg.svd((weight.double() @ x.double().T).numpy(), compute_uv=False)[5:]
    assert error(Arm("svd-llm", rank=5), weight, x) == pytest.approx(float((tail**2).sum()), rel=1e-3)


def test_a_ratio_is_the_share_of_numbers_and_ranks_are_checked() -> None:
    weight, _ = problem()
    for ratio in (0.1, 0.5, 0.9):
        numbers = svd.factor(weight, ratio=ratio).stored_bits()["factors"] / 16
        assert ratio - 80 / (32 * 48) <= numbers / (32 * 48) <= ratio
    assert svd.factor(weight, ratio=0.001).rank == 1
    assert svd.factor(weight, rank=7).rank == 7
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"ratio={bad}"):
            svd.factor(weight, ratio=bad)


def test_inputs_that_never_vary_do_no_harm() -> None:
    weight, x = problem()
    x[:, ::3] = 0
    low = svd_llm.factor(weight, 2 / len(x) * x.T @ x, rank=8)
    assert low.dense().isfinite().all()
    tail = np.linalg.svd((weight.double() @ x.double().T).numpy(), compute_uv=False)[8:]
    assert error(Arm("svd-llm", rank=8), weight, x) == pytest.approx(float((tail**2).sum()), rel=2e-3)
    assert svd_llm.factor(weight, torch.zeros(48, 48), rank=8).dense().isfinite().all()


def test_the_controls() -> None:
    weight, x = problem()
    card = find_method("low-rank-controls").card
    assert find_method("low-rank-controls").verb is None
    by = {check.claim: check for check in card.checks}
    assert {check.role for check in card.checks} == {
        "positive control", "negative control", "a/a control", "question",
    }  # fmt: skip
    for check in card.checks:
        for one in check.arms:
            check_parameters(find_method(one.method), one.params)
    for claim in ("nine-tenths-better-than-a-tenth", "asvd-better-than-svd", "svd-llm-better-than-asvd"):
        assert error(by[claim].method, weight, x) < 0.95 * error(by[claim].baseline, weight, x), claim
    nothing = by["asvd-without-its-scales"]
    same = [made(arm, weight, x).dense() for arm in (nothing.method, nothing.baseline)]
    torch.testing.assert_close(same[0], same[1], atol=1e-4, rtol=1e-3)
    assert by["svd-llm-against-itself"].method == by["svd-llm-against-itself"].baseline
