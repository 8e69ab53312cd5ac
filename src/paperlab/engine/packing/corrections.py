"""What is added to a quantized matrix: outliers that are kept exactly, and a low-rank term."""

import numpy as np

from paperlab.engine.native import EngineError


def farthest(weight: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the `fraction` of a matrix that lies farthest from its mean, in row-major order."""
    count = round(weight.size * fraction)
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance = (weight - weight.mean()).ravel()
    np.abs(distance, out=distance)
    least = np.partition(distance, distance.size - count)[distance.size - count]
    beyond, tied = np.flatnonzero(distance > least), np.flatnonzero(distance == least)
    return np.divmod(np.sort(np.concatenate([beyond, tied[: count - len(beyond)]])), weight.shape[1])


def outliers(shape: tuple[int, int], row: np.ndarray, column: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of weights kept exactly, in float16 where that changes none of them. Raises EngineError."""
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


def best_factors(error: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank) and (rank, columns) whose product is nearest to `error` in squares. Raises EngineError."""
    if rank > min(error.shape):
        raise EngineError(f"rank {rank} is more than a matrix of {error.shape[0]} x {error.shape[1]} has")
    if error.shape[0] < error.shape[1]:
        a, b = best_factors(error.T, rank)
        return b.T, a.T
    error = error.astype(np.float64)
    _, vectors = np.linalg.eigh(error.T @ error)
    right = vectors[:, : -rank - 1 : -1].T
    left = error @ right.T
    size = np.sqrt(np.linalg.norm(left, axis=0) + 1e-30)  # factors of equal size lose least in float16
    return left / size, right * size[:, None]


def low_rank(left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a low-rank term left @ right. Raises EngineError where an entry is too large for float16."""
    with np.errstate(over="ignore"):
        a, b = right.astype(np.float16), left.astype(np.float16)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EngineError("a low-rank part has entries too large for float16")
    rows, rank = b.shape
    padded = np.zeros((rows + -rows % 16, rank), np.float16)
    padded[:rows] = b
    tiled = np.ascontiguousarray(padded.reshape(-1, 16, rank).transpose(0, 2, 1)).ravel()
    return {"low_rank.a": a, "low_rank.b": tiled}
