"""The levels that a matrix can be stored at, and a matrix rounded to one so that its outputs change least.

A grid (a scale for each group of columns, 4 bits also a minimum) is fitted to the weights by the engine; GPTQ's solver
(`kit.gptq`, arXiv 2210.17323) then chooses the codes on it, column by column. Sparse levels leave out half of each
row, the weights with the least w^2 / (U_jj)^2 as in SparseGPT (arXiv 2301.00774), and the same solver answers for
them. Where plain rounding changes the outputs less, it is taken instead. Levels with a rank add two thin matrices
that give back as much of the outputs' change as any of that rank can (as EoRA does, arXiv 2410.21271).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from paperlab.engine import Codes, Layout
from paperlab.engine import quantize as nearest
from paperlab.engine.packing.pack import pack_codes
from paperlab.kit.factoring import project
from paperlab.kit.gptq import factor, solve

VERSION = 2  # of what is stored; another one makes stored levels useless

MEASURED = "3"  # the level at which each matrix's sensitivity is measured
LEVELS: Mapping[str, Layout] = {
    "2": Layout(2, 32, True),
    "2-rank": Layout(2, 32, True),
    "3": Layout(3, 32, True),
    "3-rank": Layout(3, 32, True),
    "4-sparse": Layout(4, 64, True, keep=0.5),
    "4": Layout(4, 64, True),
    "4-min": Layout(4, 32, False),
    "8": Layout(8, 64, True),
}
"""Of the linear layers inside the blocks, by the name that recipes use."""

RANKS: Mapping[str, tuple[str, int]] = {"2-rank": ("2", 4), "3-rank": ("3", 4)}
"""Levels that are another one with two thin matrices added: that one, and their rank."""

DROPPED = "dropped"  # of all matrices of a block that is left out of the model

TABLES: Mapping[str, Layout] = {name: LEVELS[name] for name in ("4", "4-min", "8")}
"""Of embeddings and output head, which are rounded to the nearest code: rows are looked up one by one."""

SAYS = {
    "2": "2 bits, groups of 32",
    "2-rank": "2 bits, groups of 32, and rank 4",
    "3": "3 bits, groups of 32",
    "3-rank": "3 bits, groups of 32, and rank 4",
    "4-sparse": "4 bits, half of each row left out",
    "4": "4 bits, groups of 64",
    "4-min": "4 bits, groups of 32 with minima",
    "8": "8 bits, groups of 64",
    DROPPED: "left out with its block",
}


@dataclass(frozen=True)
class Solver:
    """What is known of a layer's inputs. hessian: (in, in), any positive multiple of sum_t x_t x_t^T."""

    hessian: Tensor
    upper: Tensor

    @classmethod
    def of(cls, hessian: Tensor) -> "Solver":
        """Factor the Hessian once for all levels. Inputs that were never active count as independent ones."""
        hessian = hessian.float()
        alive = hessian.clone()
        alive.diagonal()[hessian.diagonal() == 0] = 1
        return cls(hessian, factor(alive))

    def error(self, weight: Tensor, codes: Codes) -> float:
        """Squared change of the layer's outputs, tr(D H D^T) with D = W - Q, over that of leaving the layer out."""
        change = weight - dense(codes)
        whole = float(((weight @ self.hessian) * weight).sum())
        return float(((change @ self.hessian) * change).sum()) / max(whole, 1e-30)

    def codes(self, weight: Tensor, layouts: Mapping[str, Layout]) -> dict[str, tuple[Codes, float]]:
        """A matrix (out, in) float32 at several levels, with the `error` of each.

        All levels are solved at once, as rows of one tall matrix: rows do not depend on each other.
        """
        plain = {RANKS.get(level, (level,))[0]: layout for level, layout in layouts.items()}
        starts = []
        for layout in plain.values():
            mask = self._mask(weight, layout.keep) if layout.sparse else None
            starts.append(nearest(weight.numpy(), layout, None if mask is None else mask.numpy()))
        found = {}
        for level, start, solved in zip(plain, starts, _solved(weight, self, starts), strict=True):
            errors = [self.error(weight, one) for one in (start, solved)]
            found[level] = (start, errors[0]) if errors[0] <= errors[1] else (solved, errors[1])
        for level in RANKS.keys() & layouts.keys():
            base, rank = RANKS[level]
            found[level] = self._with_rank(weight, found[base][0], rank)
        return {level: found[level] for level in layouts}

    def _with_rank(self, weight: Tensor, codes: Codes, rank: int) -> tuple[Codes, float]:
        """Codes with the thin matrices that leave the least change of the outputs: E H E^T has the left singular
        vectors of E S for every S S^T = H."""
        change = weight - dense(codes)
        thin = project(change, change @ self.hessian @ change.T, min(rank, *weight.shape))
        made = replace(codes, low_rank=(thin.left.float().numpy(), thin.right.float().numpy()))
        return made, self.error(weight, made)

    def _mask(self, weight: Tensor, keep: float) -> Tensor:
        worth = (weight / self.upper.diagonal()).square()
        kept = max(1, round(weight.shape[1] * keep))
        return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, worth.topk(kept, dim=1).indices, True)


def _solved(weight: Tensor, solver: Solver, starts: Sequence[Codes]) -> list[Codes]:
    """`starts` with the codes that GPTQ's solver chooses on their grids; masks stay."""
    rows, columns = weight.shape

    def by_column(part: np.ndarray, group: int) -> Tensor:
        """(out, groups) -> (in, out)."""
        return torch.from_numpy(np.repeat(part.astype(np.float32), group, axis=1)[:, :columns].T.copy())

    scales, lows, tops, kept = [], [], [], []
    for start in starts:
        group = start.group or columns // start.scales.shape[1]
        scale = by_column(start.scales, group)
        scales.append(scale)
        lows.append(-scale * (1 << (start.bits - 1)) if start.mins is None else by_column(start.mins, group))
        tops.append(torch.full((rows,), float((1 << start.bits) - 1)))
        kept.append(
            torch.ones(columns, rows) if start.mask is None else torch.from_numpy(start.mask.T.astype(np.float32))
        )
    scale, low, keep = torch.cat(scales, 1), torch.cat(lows, 1), torch.cat(kept, 1)
    masked = any(start.mask is not None for start in starts)
    top, safe = torch.cat(tops), torch.where(scale == 0, torch.ones_like(scale), scale)
    chosen = torch.empty(columns, rows * len(starts))

    def round_column(column: Tensor, index: int) -> Tensor:
        code = torch.sub(column, low[index], out=chosen[index]).div_(safe[index]).round_().clamp_(min=0)
        torch.minimum(code, top, out=code)
        value = torch.addcmul(low[index], code, scale[index])
        return value.mul_(keep[index]) if masked else value

    solve(weight.repeat(len(starts), 1), solver.hessian, round_column, upper=solver.upper)
    out = []
    for start, part in zip(starts, chosen.split(rows, dim=1), strict=True):
        codes = np.ascontiguousarray(part.T.numpy().astype(np.uint8))
        out.append(Codes(start.bits, codes, start.scales, start.mins, mask=start.mask, group=start.group))
    return out


def dense(codes: Codes) -> Tensor:
    """(out, in) float32: what codes without a book stand for."""
    columns = codes.shape[1]
    group = codes.group or columns // codes.scales.shape[1]
    spread = lambda part: np.repeat(part.astype(np.float32), group, axis=1)[:, :columns]  # noqa: E731
    weight = codes.codes.astype(np.float32)
    if codes.mins is None:
        weight -= 1 << (codes.bits - 1)
        weight *= spread(codes.scales)
    else:
        weight *= spread(codes.scales)
        weight += spread(codes.mins)
    if codes.mask is not None:
        weight *= codes.mask
    if codes.low_rank is not None:
        weight += codes.low_rank[0] @ codes.low_rank[1]
    return torch.from_numpy(weight)


def stored_bytes(codes: Codes) -> int:
    """Bytes of the arrays that the engine's file has for a matrix."""
    return sum(array.nbytes for array in pack_codes(codes).values())


def to_tensors(prefix: str, codes: Codes) -> dict[str, Tensor]:
    """Codes as tensors for safetensors, up to four of them in a byte."""
    per, count = {2: 4, 3: 2, 4: 2, 8: 1}[codes.bits], codes.codes.size
    wide = np.concatenate([codes.codes.reshape(-1), np.zeros(-count % per, np.uint8)]).reshape(-1, per)
    packed = np.zeros(len(wide), np.uint8)
    for place in range(per):
        packed |= wide[:, place] << np.uint8(place * 8 // per)
    out = {"codes": torch.from_numpy(packed), "scales": torch.tensor(codes.scales)}  # copied: levels may share them
    if codes.mins is not None:
        out["mins"] = torch.from_numpy(np.ascontiguousarray(codes.mins))
    if codes.mask is not None:
        out["mask"] = torch.from_numpy(np.packbits(codes.mask.reshape(-1)))
    if codes.low_rank is not None:
        for name, thin in zip(("left", "right"), codes.low_rank, strict=True):
            out[name] = torch.from_numpy(np.ascontiguousarray(thin)).half()
    rows, columns = codes.shape
    out["about"] = torch.tensor([codes.bits, rows, columns, codes.group or 0])
    return {f"{prefix}.{name}": tensor for name, tensor in out.items()}


def from_tensors(prefix: str, tensors: Mapping[str, Tensor]) -> Codes:
    """The inverse of `to_tensors`."""
    bits, rows, columns, group = (int(number) for number in tensors[f"{prefix}.about"])
    packed, per = tensors[f"{prefix}.codes"].numpy(), {2: 4, 3: 2, 4: 2, 8: 1}[bits]
    width = 8 // per
    parts = [(packed >> np.uint8(place * width)) & np.uint8((1 << width) - 1) for place in range(per)]
    codes = np.ascontiguousarray(np.stack(parts, 1).reshape(-1)[: rows * columns].reshape(rows, columns))
    mins, mask = tensors.get(f"{prefix}.mins"), tensors.get(f"{prefix}.mask")
    thin = [tensors[f"{prefix}.{name}"].float().numpy() for name in ("left", "right") if f"{prefix}.{name}" in tensors]
    return Codes(
        bits,
        codes,
        tensors[f"{prefix}.scales"].numpy(),
        None if mins is None else mins.numpy(),
        mask=None
        if mask is None
        else np.unpackbits(mask.numpy(), count=rows * columns).reshape(rows, columns).astype(bool),
        low_rank=(thin[0], thin[1]) if thin else None,
        group=group or None,
    )
