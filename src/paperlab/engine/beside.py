"""What a packed matrix has beside its codes: weights kept exactly, and a low-rank part."""

import numpy as np

from paperlab.engine.native import EngineError


def largest(weight: np.ndarray, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the `part` of a matrix (0 to 1) that lies farthest from its mean, row by row."""
    count = round(weight.size * part)
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    far = (weight - weight.mean()).ravel()
    np.abs(far, out=far)
    least = np.partition(far, far.size - count)[far.size - count]
    beyond, even = np.flatnonzero(far > least), np.flatnonzero(far == least)
    return np.divmod(np.sort(np.concatenate([beyond, even[: count - len(beyond)]])), weight.shape[1])


def exact(shape: tuple[int, int], row: np.ndarray, column: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of exact weights, in float16 where that changes none of them. Raises EngineError."""
    rows, columns = shape
    if columns > 1 << 16:
        raise EngineError(f"exact weights are possible in up to 65536 columns; this matrix has {columns}")
    place = row.astype(np.int64) * columns + column
    order = np.argsort(place, kind="stable")
    if len(place) and (len(np.unique(place)) < len(place) or place.min() < 0 or place.max() >= rows * columns):
        raise EngineError("exact weights lie outside the matrix, or twice in one place")
    value = value.astype(np.float32)[order]
    half = value.astype(np.float16)
    starts = np.searchsorted(place[order], np.arange(rows + 1) * columns).astype(np.uint32)
    return {
        "outliers.starts": starts,
        "outliers.columns": column[order].astype(np.uint16),
        "outliers.values": half if (half == value).all() else value,
    }


def leading(error: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank) and (rank, columns), whose product is nearest to `error` in squares. Raises EngineError."""
    if rank > min(error.shape):
        raise EngineError(f"rank {rank} is more than a matrix of {error.shape[0]} x {error.shape[1]} has")
    if error.shape[0] < error.shape[1]:
        right, left = leading(error.T, rank)
        return left.T, right.T
    error = error.astype(np.float64)
    _, vectors = np.linalg.eigh(error.T @ error)
    right = vectors[:, : -rank - 1 : -1].T
    left = error @ right.T
    size = np.sqrt(np.linalg.norm(left, axis=0) + 1e-30)  # both factors alike in size: float16 holds them best
    return left / size, right * size[:, None]


def low_rank(left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a low-rank part left @ right. Raises EngineError where float16 does not hold it."""
    with np.errstate(over="ignore"):
        a, b = right.astype(np.float16), left.astype(np.float16)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EngineError("a low-rank part has entries too large for float16")
    rows, rank = b.shape
    whole = np.zeros((rows + -rows % 16, rank), np.float16)
    whole[:rows] = b
    return {"low_rank.a": a, "low_rank.b": np.ascontiguousarray(whole.reshape(-1, 16, rank).transpose(0, 2, 1)).ravel()}
