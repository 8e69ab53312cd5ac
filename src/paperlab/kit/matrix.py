"""Weight matrices in fewer bits: what compressing methods return, how they add up, and what they take on disk.

    Dense(weight)              as it is, so many bits a weight
    Quantized                  codes and scales (`paperlab.kit.quantized`)
    Sparse(mask, values)       any other matrix, without the weights that the mask leaves out
    Factors(left, right)       a product of two thin matrices
    Sum(parts)                 any of these added up: a rounded matrix and the low-rank repair of its error

A layer that was pruned, then rounded, then corrected is Sum((Sparse(mask, Quantized(...)), Factors(...))), and
counts each of its bits once.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from paperlab.kit.quantized import Quantized


@runtime_checkable
class Matrix(Protocol):
    """(out, in) weights as they are stored."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def density(self) -> float:
        """Share of the weights that may differ from zero, 0 to 1."""

    def dense(self) -> Tensor:
        """(out, in) float32: what a kernel would multiply with."""

    def stored_bits(self) -> dict[str, int]:
        """Bits by part; their sum is the size of the matrix on disk."""


@dataclass
class Dense:
    """weight (out, in), stored in `bits` bits each; the tensor holds the values as stored."""

    weight: Tensor
    bits: float = 16

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.weight.shape[0], self.weight.shape[1]

    density = 1.0

    def dense(self) -> Tensor:
        """(out, in) float32."""
        return self.weight.float()

    def stored_bits(self) -> dict[str, int]:
        """The weights."""
        return {"values": round(self.weight.numel() * self.bits)}


@dataclass
class Factors:
    """left @ right. left: (out, r), right: (r, in); the tensors hold the values as stored.

    bits: bits that each entry takes. overhead: bits of its scales.
    """

    left: Tensor
    right: Tensor
    bits: float = 16
    overhead: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """r."""
        return self.left.shape[1]

    density = 1.0

    def dense(self) -> Tensor:
        """(out, in) float32."""
        return self.left.float() @ self.right.float()

    def stored_bits(self) -> dict[str, int]:
        """Both factors and their scales."""
        return {"factors": round((self.left.numel() + self.right.numel()) * self.bits) + self.overhead}


@dataclass
class Sparse:
    """`values` where the mask is true, 0 elsewhere. mask: (out, in) bool. Raises ValueError for shapes that differ."""

    mask: Tensor
    values: "Matrix"

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or tuple(self.mask.shape) != tuple(self.values.shape):
            raise ValueError(
                f"a mask is bool of shape {tuple(self.values.shape)}, not {self.mask.dtype} of {tuple(self.mask.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.values.shape

    @property
    def density(self) -> float:
        """Share of the weights that the mask keeps."""
        return float(self.mask.double().mean())

    def dense(self) -> Tensor:
        """(out, in) float32."""
        return torch.where(self.mask, self.values.dense(), 0.0)

    def stored_bits(self) -> dict[str, int]:
        """The kept values, and where they are, in the cheapest of three forms: one bit a weight; one bit a row and a
        column, where what is kept are whole rows and columns; or a 16-bit column for each kept weight and 32 bits a
        row."""
        rows, columns = self.shape
        kept = int(self.mask.sum())
        positions = [rows * columns, kept * 16 + (rows + 1) * 32]
        whole = self.mask.any(1)[:, None] & self.mask.any(0)[None]
        if torch.equal(whole, self.mask):
            positions.append(rows + columns)
        return {**_kept(self.values, self.mask), "positions": min(positions)}


def _kept(values: Matrix, mask: Tensor) -> dict[str, int]:
    """Bits of `values` where only the weights under the mask are stored."""
    kept, total = int(mask.sum()), mask.numel()
    parts = dict(values.stored_bits())
    if isinstance(values, Dense):
        parts["values"] = round(kept * values.bits)
    elif isinstance(values, Quantized) and values.codes.shape == mask.shape:
        if isinstance(values.bits, Tensor):
            parts["codes"] = round(float(values.bits.double().expand(values.codes.shape)[mask].sum()))
        else:
            parts["codes"] = round(kept * values.bits)
    elif isinstance(values, Quantized):  # a code stands for several neighbours: it goes only where all of them go
        width = total // mask.shape[0] // values.codes.shape[1]
        used = mask.reshape(mask.shape[0], -1, width).any(-1)
        parts["codes"] = round(
            int(used.sum()) * values.codes.shape[2] * float(torch.as_tensor(values.bits).double().mean())
        )
    return parts


@dataclass
class Sum:
    """The sum of matrices of one shape, e.g. a rounded matrix and the low-rank repair of its error."""

    parts: tuple["Matrix", ...]

    def __post_init__(self) -> None:
        if len({tuple(part.shape) for part in self.parts}) != 1:
            raise ValueError(f"a sum has parts of one shape, not {', '.join(str(tuple(p.shape)) for p in self.parts)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.parts[0].shape

    @property
    def density(self) -> float:
        """1, unless all parts are sparse: then the share of weights that one of them keeps."""
        masks = [part.mask for part in self.parts if isinstance(part, Sparse)]
        if len(masks) < len(self.parts):
            return 1.0
        return float(torch.stack(masks).any(0).double().mean())

    def dense(self) -> Tensor:
        """(out, in) float32."""
        return torch.stack([part.dense() for part in self.parts]).sum(0)

    def stored_bits(self) -> dict[str, int]:
        """The bits of all parts; where two have a part of one name, they are added."""
        total: dict[str, int] = {}
        for part in self.parts:
            for name, bits in part.stored_bits().items():
                total[name] = total.get(name, 0) + bits
        return total
