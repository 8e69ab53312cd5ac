"""Descending over orthogonal matrices: Adam on the Stiefel manifold with its canonical metric, by Cayley transforms.

    u  = -rate * m / (sqrt(v) + eps)         m, v: means of gradients G - Q G^T Q and of their squared norms |.|^2 / 2
    A  = u Q^T - Q u^T
    Q <- (I - A/2)^-1 (I + A/2) Q            and m alike, which carries it along

Becigneul and Ganea, Riemannian Adaptive Optimization Methods, arXiv 1810.00760; as geoopt's RiemannianAdam does it on
its Stiefel manifold (github.com/geoopt/geoopt, 0.5.1), stabilize=10.
"""

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8
STABILIZE = 10  # steps after which rounding errors are taken out


class RiemannAdam:
    """Adam for one tensor of square orthogonal matrices (…, d, d), which it moves in place.

    The second moment is the gradient's squared norm, one per matrix.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.first, self.step_number = matrix, torch.zeros_like(matrix), 0
        self.second = torch.zeros_like(matrix[..., :1, :1])

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """Move the matrix in place against the gradient, at first by 2 sqrt(2) `rate` (Frobenius norm)."""
        self.step_number += 1
        gradient = canonical(self.matrix, gradient)
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        square = gradient.square().sum((-2, -1), keepdim=True) / 2  # the canonical norm of a tangent vector
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * square
        first = self.first / (1 - BETAS[0] ** self.step_number)
        second = self.second / (1 - BETAS[1] ** self.step_number)
        half = -rate * first / (second.sqrt() + EPSILON) @ self.matrix.mT / 2
        half = half - half.mT
        eye = torch.eye(half.shape[-1], dtype=half.dtype, device=half.device)
        both = torch.cat((self.matrix, self.first), -1)
        moved, self.first = torch.linalg.solve(eye - half, both + half @ both).chunk(2, -1)
        if self.step_number % STABILIZE == 0:
            left, _, right = torch.linalg.svd(moved)
            moved = left @ right
            self.first = canonical(moved, self.first)  # doubles it, as in geoopt
        self.matrix.copy_(moved)


def canonical(matrix: Tensor, gradient: Tensor) -> Tensor:
    """Riemannian gradient (…, d, d) at an orthogonal matrix in the canonical metric: G - Q G^T Q, a tangent vector."""
    return gradient - matrix @ gradient.mT @ matrix
