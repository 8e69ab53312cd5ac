"""How matrices of a packed model are stored, and matrices that were quantized elsewhere."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from paperlab.engine.native import EngineError, round_to_nearest

_LLAMA = frozenset(
    (
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"),
        *("qkv_proj", "gate_up_proj", "out_proj", "fc1", "fc2", "dense", "query_key_value", "dense_h_to_4h"),
        *("dense_4h_to_h", "embed_in", "embed_out", "c_attn", "c_proj", "c_fc", "wte", "w1", "w2", "w3"),
    )
)
_BERT = (
    *("query", "key", "value", "dense", "q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    *("attn.q", "attn.k", "attn.v", "attn.o"),
)
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet")  # of config.json's model_type
HEADS = ("lm_head", "embed_out")
_TABLES = ("embed_tokens", "embed_in", "wte", *HEADS)
_DEFAULTS: dict[int, tuple[int, bool]] = {16: (64, True), 8: (64, True), 4: (32, False), 3: (32, True), 2: (32, True)}
_STRIP = 1 << 20  # weights whose largest are selected together


@dataclass(frozen=True)
class Layout:
    """How a matrix is stored. bits 16 leaves it as it is.

    group: input columns that share a scale, a multiple of 16, or "row" for whole rows. symmetric: whether a group has a
    scale alone, or a minimum beside it. What is not given is what keeps the model at that width for its bytes, as
    measured on three models (benchmarks/engine/layouts.md): groups of 64 in 8 bits, of 32 below, with minima in 4 bits
    alone; 64 and symmetric, whatever the width, where weights are left out or a codebook is used, which take no minima.
    keep: the fraction of weights
    that stays, 1.0 for all; the largest of each row stay. pattern "2:4" keeps the two largest of every four instead.
    The other patterns remove whole channels, and the matrix becomes a smaller dense one: "rows" and "columns" those of
    the smallest norms in each matrix; "channels" the inner channels of each gated MLP, the same in its three matrices,
    and nothing else. Rows or columns that are all zero are removed in any case ("channels": both); keep=1 removes
    these alone.
    codebook: 1, 2 or 4 neighbouring weights to a code of `bits` bits, an index into a table that k-means fits to the
    matrix: Layout(8, codebook=4) takes 2 bits per weight. 0: evenly spaced values instead.
    outliers: the fraction of weights, those farthest from the mean, that is kept exactly. rank: of a low-rank term in
    float16 that is added to the quantized matrix, fitted to the quantization error.
    """

    bits: int = 8
    group: int | Literal["row"] = None  # type: ignore[assignment]  # by the width, see above
    symmetric: bool = None  # type: ignore[assignment]
    keep: float = 1.0
    pattern: Literal["unstructured", "2:4", "rows", "columns", "channels"] = "unstructured"
    outliers: float = 0.0
    rank: int = 0
    codebook: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (16, 8, 4, 3, 2):
            raise EngineError(
                f"{self.bits} bits per weight; known are 8, 4, 3 and 2, and 16 to leave a matrix as it is"
            )
        plain = not (self.codebook or self.sparse)
        group, symmetric = _DEFAULTS[self.bits if plain else 8]
        if self.group is None:
            object.__setattr__(self, "group", group)
        if self.symmetric is None:
            object.__setattr__(self, "symmetric", symmetric)
        if self.pattern not in ("unstructured", "2:4", "rows", "columns", "channels"):
            raise EngineError(f"no pattern {self.pattern}; unstructured, 2:4, rows, columns and channels are known")
        if not 0 < self.keep <= 1:
            raise EngineError(f"keep={self.keep}; a part above 0 and up to 1 is needed")
        if not 0 <= self.outliers <= 0.5:
            raise EngineError(f"outliers={self.outliers}; a part from 0 to 0.5 is possible")
        if self.rank < 0:
            raise EngineError(f"rank={self.rank}; it cannot be negative")
        if self.codebook not in (0, 1, 2, 4):
            raise EngineError(f"codebook={self.codebook}; 1, 2 and 4 weights to a code are possible, 0 takes none")
        if self.codebook and (self.sparse or not self.symmetric):
            raise EngineError("a codebook leaves no weights out and takes no minima")
        if self.sparse and (self.bits not in (8, 4) or not self.symmetric):
            raise EngineError("sparse matrices take 8 or 4 bits and are symmetric")

    @property
    def group_size(self) -> int:
        """The group as the compiled part takes it: a number of columns, 0 for whole rows."""
        return 0 if self.group == "row" else self.group

    @property
    def sparse(self) -> bool:
        """Whether single weights are pruned: the matrix is stored as a bitmask and the codes of the others."""
        return self.pattern == "2:4" or (self.keep < 1 and not self.structured)

    @property
    def structured(self) -> bool:
        """Whether whole rows or columns are pruned."""
        return self.pattern in ("rows", "columns", "channels")

    def mask(self, weight: np.ndarray) -> np.ndarray | None:
        """(rows, columns) uint8, 1 where a weight is kept; None where all are."""
        if not self.sparse:
            return None
        out = np.zeros(weight.shape, np.uint8)
        step = max(1, _STRIP // weight.shape[1])
        with ThreadPoolExecutor() as pool:  # NumPy works on several strips at once
            strips = [slice(first, first + step) for first in range(0, len(weight), step)]
            list(pool.map(lambda strip: self._mark(weight[strip], out[strip]), strips))
        return out

    def _mark(self, weight: np.ndarray, out: np.ndarray) -> None:
        """Write a 1 into `out` where a weight of these rows is kept."""
        rows, columns = weight.shape
        size = np.abs(weight)
        if self.pattern == "2:4":
            padded = np.zeros((rows, columns + -columns % 4), np.float32)
            padded[:, :columns] = size
            rank = padded.reshape(rows, -1, 4).argsort(-1, kind="stable").argsort(-1, kind="stable")
            out[:] = (rank >= 2).reshape(rows, -1)[:, :columns]
            return
        kept = max(1, round(columns * self.keep))
        np.put_along_axis(out, np.argpartition(size, columns - kept, axis=1)[:, columns - kept :], 1, axis=1)


@dataclass(frozen=True)
class Codes:
    """A matrix that was quantized elsewhere, pruned or not.

    With a book, (2^bits or fewer, dim) floats: codes (rows, columns / dim), W = scales * book[codes]; its entries are
    rounded to 8 bits of the largest. Without one:

    codes: (rows, columns) uint8; scales, mins: (rows, groups) float16. W = scales * (codes - 2^(bits - 1)) where mins
    is None, else scales * codes + mins. group: columns that share a scale, a multiple of 16, the last group may be
    shorter; None where the groups divide the columns. mask: (rows, columns) bool, True where a weight is kept, any
    number in each row; the others are 0 whatever their codes (8 or 4 bits, without mins or book).

    low_rank: (rows, rank) and (rank, columns), whose product is added; outliers: row, column and value of weights that
    are kept exactly, whatever all else says.
    """

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    mins: np.ndarray | None = None
    low_rank: tuple[np.ndarray, np.ndarray] | None = None
    outliers: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    book: np.ndarray | None = None
    mask: np.ndarray | None = None
    group: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.codes), self.codes.shape[1] * (1 if self.book is None else self.book.shape[1])

    @property
    def layout(self) -> Layout:
        """How `pack` stores it. Raises EngineError where groups or mask do not fit the codes, or each other."""
        dim = 0 if self.book is None else self.book.shape[1]
        columns, groups = self.shape[1], self.scales.shape[1]
        if self.group is None and columns % groups:
            raise EngineError(f"{groups} groups do not divide {columns} columns")
        group = self.group or columns // groups
        if -(-columns // group) != groups:
            raise EngineError(f"{columns} columns in groups of {group} have not {groups} scales")
        keep = 1.0
        if self.mask is not None:
            if self.mask.shape != self.shape:
                raise EngineError(f"a mask of {self.mask.shape} for a matrix of {self.shape}")
            keep = max(1, int(np.count_nonzero(self.mask))) / self.mask.size
        return Layout(self.bits, "row" if groups == 1 else group, self.mins is None, keep, codebook=dim)


def quantize(weight: np.ndarray, layout: Layout, mask: np.ndarray | None = None) -> Codes:
    """Round a matrix to the nearest codes, scales fitted to the weights that `mask` keeps.

    weight: (rows, columns) floats. layout: its bits, group and symmetry count. mask: (rows, columns), nonzero where a
    weight is kept; None keeps what `layout` keeps. Raises EngineError.
    """
    if layout.codebook or layout.rank or layout.outliers or layout.structured:
        raise EngineError("codebook, rank, outliers and channels are for `pack`, not for codes alone")
    weight = np.ascontiguousarray(weight, np.float32)
    if mask is not None and mask.shape != weight.shape:
        raise EngineError(f"a mask of {mask.shape} for a matrix of {weight.shape}")
    kept = layout.mask(weight) if mask is None else np.ascontiguousarray(mask != 0, np.uint8)
    if kept is not None and kept.all():
        kept = None
    size = layout.group_size
    codes, scales, mins = round_to_nearest(weight, layout.bits, size, symmetric=layout.symmetric, keep=kept)
    return Codes(layout.bits, codes, scales, mins, mask=None if kept is None else kept.astype(bool), group=size or None)


Recipe = Sequence[tuple[str, Layout]]


def layout_of(name: str, recipe: Recipe) -> Layout:
    """The layout of the last pattern that matches a matrix's name; 16 bits where none does."""
    return next((layout for pattern, layout in reversed(recipe) if fnmatch.fnmatchcase(name, pattern)), Layout(bits=16))


def tables(bits: int) -> Recipe:
    """A recipe for embeddings and output head alone, which a method for linear layers leaves as they are."""
    return [(f"*{name}", Layout(bits)) for name in _TABLES]


def is_packable(name: str, shape: Sequence[int], bert: bool) -> bool:
    """Whether a tensor is one of the matrices that recipes apply to."""
    stem = name.removesuffix(".weight")
    known = ".layer." in stem and stem.endswith(_BERT) if bert else stem.rsplit(".", 1)[-1] in _LLAMA
    return known and stem != name and len(shape) == 2


def ends_of(names: Iterable[str]) -> tuple[str, str]:
    """Names of the output head and of the embeddings among a language model's tensors; "" for what is not there."""
    last = {name.removesuffix(".weight").rsplit(".", 1)[-1]: name for name in names if name.endswith(".weight")}
    heads = [last[head] for head in HEADS if head in last]
    tables = [last[table] for table in _TABLES if table in last and table not in HEADS]
    return "".join(heads[:1]), "".join(tables[:1])


def is_turned(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a model's files have this matrix as (columns, rows): GPT-2's blocks. Packed, it is as all others."""
    return config.get("model_type") == "gpt2" and ".h." in f".{name}"
