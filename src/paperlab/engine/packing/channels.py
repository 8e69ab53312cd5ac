"""Structured pruning: which rows and columns a matrix keeps."""

from collections.abc import Callable, Mapping

import numpy as np

from paperlab.engine.native import EngineError
from paperlab.engine.packing.layout import Layout

Kept = tuple[np.ndarray | None, np.ndarray | None]
"""Ascending indices of the rows and of the columns that are kept, int32; None for all."""

_STRIP = 1 << 22  # weights whose squares are taken together


def norms(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Norms of a matrix's rows and of its columns, float64. Raises EngineError where a weight is not finite."""
    rows, columns = np.empty(len(weight)), np.zeros(weight.shape[1])
    step = max(1, _STRIP // weight.shape[1])
    for first in range(0, len(weight), step):
        squares = np.square(weight[first : first + step], dtype=np.float64)
        rows[first : first + step] = squares.sum(1)
        columns += squares.sum(0)
    if not np.isfinite(rows).all():
        raise EngineError("a weight is NaN or infinite")
    return np.sqrt(rows), np.sqrt(columns)


def largest(size: np.ndarray, keep: float) -> np.ndarray | None:
    """Indices of the fraction `keep` of channels that is largest, without those of size 0; at least one. None: all."""
    count = min(max(1, round(len(size) * keep)), max(1, np.count_nonzero(size)))
    if count == len(size):
        return None
    return np.sort(np.argsort(-size, kind="stable")[:count]).astype(np.int32)


def chosen(weight: np.ndarray, layout: Layout) -> Kept:
    """What a matrix keeps by its own norms: the fraction `keep` of its rows or columns, and none that is all zero.

    "channels" removes here what is all zero, and nothing else.
    """
    rows, columns = norms(weight)
    keep = layout.keep if layout.pattern in ("rows", "columns") else 1.0
    return (
        largest(rows, keep) if layout.pattern != "columns" else None,
        largest(columns, keep) if layout.pattern != "rows" else None,
    )


def of_mlps(layouts: Mapping[str, Layout | None], floats: Callable[[str], np.ndarray], biased: bool) -> dict[str, Kept]:
    """The inner channels that each gated MLP keeps, the same in its three matrices, by the name of each matrix.

    Those with the largest product of norms stay: of a row in gate and in up, and a column in down; where one of the
    three is zero, the channel adds nothing. biased: rows have biases, so that the column's norm counts alone. Raises
    EngineError where channels are to be removed and there is no such MLP.
    """
    out: dict[str, Kept] = {}
    wanted = any(layout and layout.pattern == "channels" and layout.keep < 1 for layout in layouts.values())
    for down, layout in layouts.items():
        gate, up = (down.replace(".down_proj.", f".{part}_proj.") for part in ("gate", "up"))
        if layout is None or layout.pattern != "channels" or down == gate:
            continue
        if any((other := layouts.get(name)) is None or other.pattern != "channels" for name in (gate, up)):
            continue
        wanted = False
        size = norms(floats(down))[1]
        for name in () if biased else (gate, up):
            size = size * norms(floats(name))[0]
        if (inner := largest(size, layout.keep)) is not None:
            out |= {gate: (inner, None), up: (inner, None), down: (None, inner)}
    if wanted:
        raise EngineError(
            "no gated MLP (gate_proj, up_proj, down_proj) has all three matrices in the pattern channels; "
            'the patterns "rows" and "columns" take channels out of any matrix'
        )
    return out
