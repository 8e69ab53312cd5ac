"""A weight matrix as codes: what every quantizer returns, and how its size is counted."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Outliers:
    """Weights kept exactly. row, column: (n,) int; value: (n,) float16. Stored as compressed sparse rows."""

    row: Tensor
    column: Tensor
    value: Tensor

    def stored_bits(self, rows: int) -> int:
        """Values, column indices, and where each of the matrix's `rows` begins."""
        return self.value.numel() * (16 + 16) + (rows + 1) * 32


@dataclass
class Quantized:
    """(out, in) weights as codes; `dense` gives back what a kernel would multiply with.

    Without a codebook:  W = (codes - zero) * scale
    With one:            W = sum_m codebook[m, codes[..., m]] * scale     codebook (m, levels, d)

    codes: (out, in) integers, or (out, in / d, m) with a codebook of d-vectors (d = 1: scalar levels).
    bits: bits per code, one number or a tensor that broadcasts over codes (mixed precision).
    scale: (runs, groups): `groups` divides `in`, `runs` divides `out` (runs of rows that share a scale; `out` is
    one per row, 1 one for all). Its dtype is its stored width.
    zero: like scale, in code units, or None; zero_bits: its stored width.
    codebook_bits: width of a codebook entry; 0 for a level set that the format fixes (NF4, FP4).
    extra: any further stored bits by name (bit maps, permutations).
    """

    codes: Tensor
    bits: float | Tensor
    scale: Tensor
    zero: Tensor | None = None
    zero_bits: float = 0
    codebook: Tensor | None = None
    codebook_bits: float = 16
    outliers: Outliers | None = None
    extra: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the matrix."""
        width = self.codes.shape[1] * (self.codebook.shape[2] if self.codebook is not None else 1)
        return self.codes.shape[0], width

    density = 1.0

    def dense(self) -> Tensor:
        """(out, in) float32."""
        rows, columns = self.shape
        if self.codebook is None:
            weight = self.codes.float()
            if self.zero is not None:
                weight = weight - spread(self.zero.float(), columns, rows)
        else:
            book = self.codebook.float()
            parts = [book[m][self.codes[..., m].long()] for m in range(book.shape[0])]  # each (out, in / d, d)
            weight = torch.stack(parts).sum(0).reshape(rows, columns)
        weight = weight * spread(self.scale.float(), columns, rows)
        if self.outliers is not None:
            weight[self.outliers.row.long(), self.outliers.column.long()] = self.outliers.value.float()
        return weight

    def stored_bits(self) -> dict[str, int]:
        """Bits by part; their sum is the size of the matrix on disk."""
        if isinstance(self.bits, Tensor):
            codes = round(float(self.bits.double().expand(self.codes.shape).sum()))
        else:
            codes = round(self.codes.numel() * self.bits)
        parts = {"codes": codes, "scale": self.scale.numel() * self.scale.element_size() * 8}
        if self.zero is not None:
            parts["zero"] = round(self.zero.numel() * self.zero_bits)
        if self.codebook is not None and self.codebook_bits:
            parts["codebook"] = round(self.codebook.numel() * self.codebook_bits)
        if self.outliers is not None:
            parts["outliers"] = self.outliers.stored_bits(self.shape[0])
        return parts | self.extra


def spread(per_group: Tensor, columns: int, rows: int | None = None) -> Tensor:
    """(runs, groups) -> (runs or rows, columns): each group's value over its columns, each run's over its `rows`.

    `groups` must divide `columns` and `runs`, where `rows` is given, must divide it. Single ones broadcast.
    """
    runs, groups = per_group.shape
    if columns % groups:
        raise ValueError(f"{columns} input columns cannot be cut into {groups} equal groups")
    if rows is not None and rows % runs:
        raise ValueError(f"{rows} rows cannot be cut into {runs} equal runs")
    if groups not in (1, columns):
        per_group = per_group.repeat_interleave(columns // groups, dim=1)
    return per_group if rows is None or runs in (1, rows) else per_group.repeat_interleave(rows // runs, dim=0)


def grouped(weight: Tensor, group: int | None) -> Tensor:
    """(out, in) -> (out, groups, group); None takes the whole row as one group. Raises ValueError."""
    rows, columns = weight.shape
    size = group or columns
    if columns % size:
        raise ValueError(f"group={group} does not divide the {columns} input columns; use a divisor such as 64 or 32")
    return weight.reshape(rows, columns // size, size)
