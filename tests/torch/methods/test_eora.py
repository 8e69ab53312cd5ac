"""EoRA: the authors' steps in float64, the least error of its rank, and the corrections it is compared with."""

import numpy as np
import pytest
import torch

from paperlab.core.card import Arm
from paperlab.core.methods import check_parameters, find_method
from paperlab.kit.matrix import Factors
from paperlab.methods.low_rank import act_s, eora, svd_error


def problem(rows: int = 24, columns: int = 40, directions: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """error (out, in), inputs (tokens, in) that are correlated and of very different sizes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(500, directions, generator=draw) @ torch.randn(directions, columns, generator=draw)
    x = x * torch.randn(columns, generator=draw).exp()
    return torch.randn(rows, columns, generator=draw) * 0.05, x


def hessian(x: torch.Tensor) -> torch.Tensor:
    return 2 / len(x) * x.T @ x


def left(error: torch.Tensor, made: Factors, x: torch.Tensor) -> float:
    return float(((error - made.dense()).double() @ x.double().T).square().sum())


def numpy_eora(error: np.ndarray, moments: np.ndarray, rank: int) -> np.ndarray:
    """`llama_sequential_eigen` of the authors' code, in float64."""
    values, q = np.linalg.eigh(moments)
    if (values < 0).any():
        values[values < 0] = values[values > 0].min()
    u, s, vt = np.linalg.svd(error @ q @ np.diag(np.sqrt(values)), full_matrices=False)
    a = np.diag(np.sqrt(s[:rank])) @ vt[:rank] @ np.diag(1 / np.sqrt(values)) @ q.T
    return u[:, :rank] @ np.diag(np.sqrt(s[:rank])) @ a


@pytest.mark.parametrize("rank", [1, 4, 24])
def test_it_is_the_authors_steps_in_double_precision(rank: int) -> None:
    error, x = problem()
    wanted = numpy_eora(error.double().numpy(), (x.double().T @ x.double()).numpy(), rank)
    made = eora.factor(error, hessian(x), rank=rank)
    np.testing.assert_allclose(made.dense().numpy(), wanted, atol=3e-4)  # stored as float16
    assert made.stored_bits() == {"factors": rank * 64 * 16}


def test_no_other_matrices_of_the_rank_leave_less_error() -> None:
    error, x = problem()
    tail = np.linalg.svd((error.double() @ x.double().T).numpy(), compute_uv=False)[4:]
    least = float((tail**2).sum())
    assert left(error, eora.factor(error, hessian(x), rank=4), x) == pytest.approx(least, rel=1e-3)
    by_size = left(error, act_s.factor(error, x.abs().mean(0), rank=4), x)
    plain = left(error, svd_error.factor(error, rank=4), x)
    assert 1.05 * least < by_size < plain


def test_by_hand() -> None:
    # inputs of sizes 10 and 1: the error of the loud one goes first, though the other is larger
    error = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    loud = torch.diag(torch.tensor([100.0, 1.0]))
    torch.testing.assert_close(eora.factor(error, loud, rank=1).dense(), torch.tensor([[1.0, 0], [0, 0]]))
    torch.testing.assert_close(svd_error.factor(error, rank=1).dense(), torch.tensor([[0.0, 0], [0, 4]]))
    by_size = act_s.factor(error, torch.tensor([2.0, 1.0]), rank=1)
    torch.testing.assert_close(by_size.dense(), torch.tensor([[0.0, 0], [0, 4]]))  # 1 * 2 < 4 * 1


def test_inputs_that_say_nothing_leave_the_svd_of_the_error() -> None:
    error, x = problem()
    plain = svd_error.factor(error, rank=4).dense()
    torch.testing.assert_close(eora.factor(error, torch.eye(40), rank=4).dense(), plain, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(eora.factor(error, hessian(x), rank=4, damping=1e6).dense(), plain, atol=3e-4, rtol=1e-2)
    torch.testing.assert_close(act_s.factor(error, torch.ones(40), rank=4).dense(), plain)


def test_dead_inputs_few_tokens_and_no_error_do_no_harm() -> None:
    error, x = problem(directions=6)  # 6 directions of 40: most eigenvalues are zero
    made = eora.factor(error, hessian(x), rank=6)
    assert made.dense().isfinite().all()
    assert left(error, made, x) < 1e-3 * float((error @ x.T).square().sum())
    for given in (torch.zeros(24, 40), error):
        assert eora.factor(given, torch.zeros(40, 40), rank=3).dense().isfinite().all()
    assert not eora.factor(torch.zeros(24, 40), hessian(x), rank=3).dense().any()


def test_bad_values_and_the_card() -> None:
    error, x = problem()
    with pytest.raises(ValueError, match="rank=25"):
        eora.factor(error, hessian(x), rank=25)
    card = find_method("eora").card
    first = card.checks[0]
    assert (first.method.after, first.baseline.method) == (first.baseline.after, "svd-error")
    assert first.gates[0].baseline == first.baseline
    assert [check.role for check in card.checks] == ["claim"] * 4 + ["question"]
    for check in card.checks:
        for one in (part for arm in check.arms for part in arm.chain):
            check_parameters(find_method(one.method), one.params)
    assert Arm("original") in first.arms
