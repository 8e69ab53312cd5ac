"""Adam on orthogonal matrices: they stay orthogonal, and it finds an optimum that is known."""

import pytest
import torch

from paperlab.kit.orthogonal import random_orthogonal
from paperlab.kit.stiefel import RiemannAdam, canonical


def test_learned_matrices_stay_orthogonal() -> None:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.stack([random_orthogonal(6, generator) for _ in range(2)])
    target = torch.stack([random_orthogonal(6, generator) for _ in range(2)])
    target *= (matrix.det() * target.det()).view(2, 1, 1) ** (torch.arange(6) == 0)  # the same component of O(6)
    rider = RiemannAdam(matrix)
    for step in range(400):
        rider.step(-target, 0.1 * 0.985**step)  # maximise <Q, target>, whose optimum is the target
    eye = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    torch.testing.assert_close(matrix @ matrix.mT, eye)
    assert (matrix - target).norm() < 0.05


def test_tangent_vectors_are_skew() -> None:
    q = random_orthogonal(5, torch.Generator().manual_seed(4))
    inner = q.T @ canonical(q, torch.randn(5, 5, dtype=torch.float64))
    torch.testing.assert_close(inner, -inner.T)


def test_the_first_step_is_as_long_as_in_the_canonical_metric() -> None:
    q = random_orthogonal(8, torch.Generator().manual_seed(5))
    before = q.clone()
    RiemannAdam(q).step(torch.randn(8, 8, dtype=torch.float64), 1e-4)
    assert (q - before).norm().item() == pytest.approx(1e-4 * 8**0.5, rel=1e-3)
