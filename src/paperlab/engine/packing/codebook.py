"""Codebooks: one table of a few vectors for a whole matrix, a scale for each of its groups."""

import numpy as np

from paperlab.engine.native import EngineError

_SAMPLE = 1 << 15  # points that the entries are fitted to
_STRIP = 1 << 16


def nearest(points: np.ndarray, book: np.ndarray) -> np.ndarray:
    """(n, dim) points, (k, dim) entries -> (n,) uint8: which entry is nearest."""
    if book.shape[1] == 1:
        order = np.argsort(book[:, 0], kind="stable")
        levels = book[order, 0]
        return order[np.searchsorted((levels[1:] + levels[:-1]) / 2, points[:, 0])].astype(np.uint8)
    half = (book * book).sum(1) / 2
    parts = [points[i : i + _STRIP] @ book.T - half for i in range(0, len(points), _STRIP)]
    return np.concatenate([part.argmax(1) for part in parts]).astype(np.uint8)


def kmeans(points: np.ndarray, count: int, steps: int = 20) -> np.ndarray:
    """(count, dim) float32: k-means centres of a sample of the points (n, dim), the same at every call."""
    random = np.random.default_rng(0)
    if len(points) > _SAMPLE:
        points = points[random.choice(len(points), _SAMPLE, replace=False)]
    if points.shape[1] == 1:
        book = np.quantile(points, (np.arange(count) + 0.5) / count, axis=0).astype(np.float32)
    else:
        book = points[random.choice(len(points), count, replace=len(points) < count)].copy()
    for _ in range(steps):
        code = nearest(points, book)
        members = np.bincount(code, minlength=count)
        sums = np.stack([np.bincount(code, column, count) for column in points.T], 1)
        used = members > 0
        book[used] = (sums[used] / members[used, None]).astype(np.float32)
        if (empty := np.flatnonzero(~used)).size:  # moved to where the fit is worst
            error = ((points - book[code]) ** 2).sum(1)
            book[empty] = points[np.argsort(error)[-empty.size :]] if empty.size <= len(points) else 0
    return book


def padded(book: np.ndarray, bits: int) -> np.ndarray:
    """(2^bits, dim) float32: a book of fewer entries, padded with zeros."""
    out = np.zeros((1 << bits, book.shape[1]), np.float32)
    out[: len(book)] = book
    return out


def in_bytes(book: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries as int8, and the scales (rows, groups) with what was divided out: float16. Raises EngineError."""
    step = float(np.abs(book).max()) / 127 or 1.0
    with np.errstate(over="ignore"):
        scaled = (scales.astype(np.float32) * step).astype(np.float16)
    if not (np.isfinite(scaled).all() and np.isfinite(step)):
        raise EngineError("the codebook or its scales are too large for float16")
    return np.rint(book / step).astype(np.int8), scaled


def cluster(weight: np.ndarray, bits: int, dim: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, columns) float32 -> codes (rows, columns / dim) uint8, scales float16, book (2^bits, dim) int8.

    Each group of `group` columns (0: the row) is divided by its largest weight before weights are compared, by its root
    mean square before vectors are.
    """
    rows, columns = weight.shape
    if columns % dim:
        raise EngineError(f"{columns} columns are no whole number of vectors of {dim}")
    if not np.isfinite(weight).all():
        raise EngineError("a weight is NaN or infinite")
    step = group or columns
    filled = np.zeros((rows, columns + -columns % step), np.float32)
    filled[:, :columns] = weight
    parts = filled.reshape(rows, -1, step)
    size = np.minimum(columns - np.arange(parts.shape[1]) * step, step)
    scales = np.abs(parts).max(2) if dim == 1 else np.sqrt((parts * parts).sum(2) / size)
    points = (parts / np.where(scales, scales, 1)[..., None]).reshape(rows, -1)[:, :columns].reshape(-1, dim)
    book, scaled = in_bytes(kmeans(points, 1 << bits), scales)
    # the codes are chosen by what is stored
    divisor = np.where(scaled, scaled, 1).astype(np.float32)
    points = (parts / divisor[..., None]).reshape(rows, -1)[:, :columns].reshape(-1, dim)
    return nearest(points, book.astype(np.float32)).reshape(rows, -1), scaled, book
