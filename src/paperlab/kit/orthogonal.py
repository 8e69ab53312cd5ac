"""Orthogonal matrices: random ones, Hadamard's, and products of Hadamard matrices that are cheap to apply."""

import math

import torch
from torch import Tensor, nn


def random_orthogonal(width: int, generator: torch.Generator) -> Tensor:
    """(width, width) float64 from the Haar measure: the Q of a Gaussian matrix, columns' signs from R."""
    q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()


def random_hadamard(width: int, generator: torch.Generator) -> Tensor:
    """(width, width) float64: diag(random signs) H / sqrt(width). Raises ValueError where no H is known."""
    signs = torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1
    return signs[:, None] * hadamard(width) / math.sqrt(width)


def random_rotation(width: int, generator: torch.Generator) -> Tensor:
    """(width, width) float32: a random Hadamard matrix, or a random orthogonal one where none is known."""
    try:
        return random_hadamard(width, generator).float()
    except ValueError:
        return random_orthogonal(width, generator).float()


def hadamard(order: int) -> Tensor:
    """A matrix of +-1 with H H^T = order * I, float64 (order, order), or ValueError.

    Built from Paley's matrices of prime q (order q + 1 for q = 3 mod 4, 2 q + 2 for q = 1 mod 4), Sylvester's
    of order 2, and Kronecker products: 256, 384, 576 = 12 * 12 * 4, 768, 1536 = 12 * 128, 4096 …
    """
    found = _hadamard(order) if order > 0 else None
    if found is None:
        raise ValueError(f"no Hadamard matrix of order {order} is known here; use a random orthogonal one")
    return found


def _hadamard(order: int) -> Tensor | None:
    if order in (1, 2):
        return _two()[:order, :order]
    if order % 4:
        return None
    half = _hadamard(order // 2)  # the product with order 2 keeps a fast transform
    if half is not None:
        return torch.kron(_two(), half)
    paley = _paley(order)
    if paley is not None:
        return paley
    for factor in (f for f in range(12, math.isqrt(order) + 1, 4) if order % f == 0):
        left, right = _hadamard(factor), _hadamard(order // factor)
        if left is not None and right is not None:
            return torch.kron(left, right)
    return None


def _two() -> Tensor:
    return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)


def _paley(order: int) -> Tensor | None:
    """Paley's constructions (1933) over the integers modulo a prime q, or None."""
    for q, kind in ((order - 1, 3), (order // 2 - 1, 1)):
        if q % 4 != kind or any(q % d == 0 for d in range(2, math.isqrt(q) + 1)):
            continue
        squares = {i * i % q for i in range(1, q)}
        character = torch.tensor([0.0, *(1.0 if i in squares else -1.0 for i in range(1, q))], dtype=torch.float64)
        at = torch.arange(q)
        jacobsthal = character[(at[:, None] - at) % q]
        border = torch.zeros(q + 1, q + 1, dtype=torch.float64)
        border[0, 1:], border[1:, 1:] = 1, jacobsthal
        eye = torch.eye(q + 1, dtype=torch.float64)
        if kind == 3:
            border[1:, 0] = -1
            return eye + border
        border[1:, 0] = 1
        return torch.kron(border, _two()) + torch.kron(eye, torch.tensor([[1.0, -1.0], [-1.0, -1.0]]).double())
    return None


class KroneckerHadamard:
    """x -> x (A kron B) for (…, a b): Hadamard matrices as near in size as there are, so that it costs a + b per value.

    The identity where no such pair is known.
    """

    def __init__(self, width: int) -> None:
        self.factors: tuple[Tensor, Tensor] | None = None
        for left in range(math.isqrt(width), 0, -1):
            try:
                a, b = hadamard(left), hadamard(width // left) if width % left == 0 else None
            except ValueError:
                continue
            if b is not None:
                self.factors = (a.float() / math.sqrt(left), b.float() / math.sqrt(width // left))
                return

    def __call__(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width), by an orthogonal matrix."""
        if self.factors is None:
            return x
        a, b = (factor.to(x) for factor in self.factors)
        return (a.T @ x.reshape(*x.shape[:-1], len(a), len(b)) @ b).reshape(x.shape)

    def before(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """As a forward pre-hook."""
        return (self(args[0]), *args[1:])
