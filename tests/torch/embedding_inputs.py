"""Embeddings that do not depend on a random generator, for comparisons with losses that others wrote.

The figures were made once with float64 from these very inputs: value, then of its slopes: their magnitudes summed for
queries and for documents, one of each, and the first layer's magnitudes summed. Each test names what made its own.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor


def inputs(layers: int = 3, rows: int = 4, width: int = 16) -> tuple[Tensor, Tensor]:
    """Queries and documents, (layers, rows, width) each."""
    axes = torch.meshgrid(torch.arange(layers), torch.arange(rows), torch.arange(width), indexing="ij")
    n, i, j = (axis.double() for axis in axes)
    queries = torch.sin(1 + 2.3 * n + 1.7 * i + 0.9 * j + 0.37 * i * j)
    documents = torch.cos(0.5 + 1.1 * n + 1.7 * i + 0.6 * j + 0.41 * i * j)
    return queries.requires_grad_(), documents.requires_grad_()


def compare(loss: Callable[[Tensor, Tensor], Tensor], value: float, slopes: Sequence[float]) -> None:
    """The loss of `inputs()` and its slopes are those figures."""
    queries, documents = inputs()
    found = loss(queries, documents)
    assert found.shape == ()
    assert found.item() == pytest.approx(value, rel=1e-12)
    a, b = torch.autograd.grad(found, (queries, documents))
    mine = (a.abs().sum(), b.abs().sum(), a[-1, 1, 3], b[-1, 2, 5], a[0].abs().sum())
    assert [one.item() for one in mine] == pytest.approx(list(slopes), rel=1e-8, abs=1e-12)
