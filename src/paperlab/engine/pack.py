"""Write a model folder with its matrices in few bits, or sparse, as the engine reads them fastest."""

import fnmatch
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paperlab.engine import beside, channels
from paperlab.engine.codebook import cluster, in_bytes, whole
from paperlab.engine.container import Weights, named, write
from paperlab.engine.native import EngineError, Parts, read, round_to_nearest, tiles
from paperlab.engine.place import placed, room

Progress = Callable[[str, int, int], None]

_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head")
_BERT = ("query", "key", "value", "dense")
_AT_ONCE = 1 << 20  # weights among which the largest are looked for together
BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


@dataclass(frozen=True)
class Layout:
    """How a matrix is stored. bits 16 leaves it as it is.

    group: input columns to a scale, a multiple of 16, or "row" for whole rows. keep: the part of the weights that is
    kept, 1.0 for all; the largest of each row stay. pattern "2:4" keeps the two largest of every four instead. The
    other patterns leave whole channels out, and the matrix becomes a smaller dense one: "rows" and "columns" those of
    the smallest norms in each matrix; "channels" the inner channels of each gated MLP, alike in its matrices, and no
    other. Rows or columns that are all zero are left out in any case ("channels": both), with keep=1 these alone.
    codebook: 1, 2 or 4 neighbouring weights to a code of `bits` bits, into a table that is fitted to the matrix by
    k-means: Layout(8, codebook=4) takes 2 bits per weight. 0: evenly spaced values instead.
    outliers: the part of the weights, those farthest from the mean, that is kept exactly beside the codes. rank: of
    a low-rank part, in float16, that is added to what the codes stand for, nearest to what they lose.
    """

    bits: int = 8
    group: int | Literal["row"] = 64
    symmetric: bool = True
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
    def columns(self) -> int:
        """The group as the compiled part takes it: 0 for whole rows."""
        return 0 if self.group == "row" else self.group

    @property
    def sparse(self) -> bool:
        """Whether single weights are left out."""
        return self.pattern == "2:4" or (self.keep < 1 and not self.whole)

    @property
    def whole(self) -> bool:
        """Whether whole rows or columns may be left out."""
        return self.pattern in ("rows", "columns", "channels")

    def mask(self, weight: np.ndarray) -> np.ndarray | None:
        """(rows, columns) uint8, 1 where a weight is kept; None where all are."""
        if not self.sparse:
            return None
        out = np.zeros(weight.shape, np.uint8)
        step = max(1, _AT_ONCE // weight.shape[1])
        with ThreadPoolExecutor() as pool:  # NumPy works on several strips at once
            strips = [slice(first, first + step) for first in range(0, len(weight), step)]
            list(pool.map(lambda strip: self._mark(weight[strip], out[strip]), strips))
        return out

    def _mark(self, weight: np.ndarray, out: np.ndarray) -> None:
        """Put a 1 where a weight of these rows is kept."""
        rows, columns = weight.shape
        size = np.abs(weight)
        if self.pattern == "2:4":
            whole = np.zeros((rows, columns + -columns % 4), np.float32)
            whole[:, :columns] = size
            rank = whole.reshape(rows, -1, 4).argsort(-1, kind="stable").argsort(-1, kind="stable")
            out[:] = (rank >= 2).reshape(rows, -1)[:, :columns]
            return
        kept = max(1, round(columns * self.keep))
        np.put_along_axis(out, np.argpartition(size, columns - kept, axis=1)[:, columns - kept :], 1, axis=1)


@dataclass(frozen=True)
class Codes:
    """A matrix that was quantized elsewhere.

    With a book (2^bits or fewer, dim) of floats: codes (rows, columns / dim), W = scales * book[codes], its entries
    rounded to 8 bits of the largest. Without one:

    codes: (rows, columns) uint8; scales, mins: (rows, groups) float16, groups of a multiple of 16 columns or one.
    W = scales * (codes - 2^(bits - 1)) where mins is None, else scales * codes + mins. low_rank: (rows, rank) and
    (rank, columns), whose product is added; outliers: row, column and value of weights that are kept exactly.
    """

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    mins: np.ndarray | None = None
    low_rank: tuple[np.ndarray, np.ndarray] | None = None
    outliers: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    book: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.codes), self.codes.shape[1] * (1 if self.book is None else self.book.shape[1])

    @property
    def layout(self) -> Layout:
        """What `pack` writes for it. Raises EngineError where its groups are no whole number of columns."""
        dim = 0 if self.book is None else self.book.shape[1]
        columns, groups = self.shape[1], self.scales.shape[1]
        if columns % groups:
            raise EngineError(f"{groups} groups do not divide {columns} columns")
        return Layout(self.bits, "row" if groups == 1 else columns // groups, self.mins is None, codebook=dim)


Recipe = Sequence[tuple[str, Layout]]


def layout_of(name: str, recipe: Recipe) -> Layout:
    """The layout of the last pattern that matches a matrix's name; 16 bits where none does."""
    return next((layout for pattern, layout in reversed(recipe) if fnmatch.fnmatchcase(name, pattern)), Layout(bits=16))


def fits(name: str, shape: Sequence[int], bert: bool) -> bool:
    """Whether a tensor is one of the matrices that recipes are about."""
    stem = name.removesuffix(".weight")
    inside = not bert or ".layer." in stem
    return stem != name and len(shape) == 2 and inside and stem.endswith(_BERT if bert else _LLAMA)


def pack(
    source: str | Path,
    out: str | Path,
    recipe: Layout | Recipe,
    given: Mapping[str, Codes] | None = None,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, float]:
    """Pack the model folder `source` into the folder `out`, which must not hold a model yet.

    recipe: one layout for all matrices, or (pattern, layout) pairs over their names, the last match counting:
    [("*", Layout(4)), ("lm_head", Layout(8))]. Codes are the nearest ones, except for the
    matrices in `given`, by name, whose codes are another's work and whose weights in `source` are not looked at.
    progress: told the matrix, the weights packed before it, and of how many. Gives bytes, weights, and bits per weight
    over the packed matrices. Raises EngineError; what ends it early leaves nothing behind.
    """
    source, out = Path(source), Path(out)
    if isinstance(recipe, Layout):
        recipe = [("*", recipe)]
    if not (source / "config.json").is_file():
        raise EngineError(f"no config.json in {source}; give the folder of a model")
    if (out / "config.json").exists() or (out / "model.safetensors").exists():
        raise EngineError(f"{out} already holds a model; name another folder, or remove it first")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    weights = Weights(source)
    if any(name.endswith(".codes") for name in weights.names()):
        raise EngineError(f"{source} is packed already; give the original weights")
    layouts = _chosen(weights, recipe, given or {}, config)
    total = sum(math.prod(weights.shape(name)) for name, layout in layouts.items() if layout)
    if not total:
        raise EngineError(f"no matrix of {source} matches the recipe")
    alike = channels.of_mlps(layouts, weights.floats, bool(config.get("mlp_bias")))
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    metadata = {"format": "paperlab", "paperlab": "2"}
    bits = count = 0
    with placed(out) as place:
        for name, layout in layouts.items():
            if layout is None:
                tensors[name] = weights.kind(name), weights.raw(name)
                continue
            stem = name.removesuffix(".weight")
            progress(stem, count, total)
            try:
                ready = (given or {}).get(stem)
                arrays = laid(ready) if ready else packed(weights.floats(name), layout, alike.get(name))
            except EngineError as error:
                raise EngineError(f"{name}: {error}") from None
            tensors |= {f"{stem}.{part}": named(array) for part, array in arrays.items()}
            metadata[f"paperlab.{stem}"] = json.dumps(_about(weights.shape(name), layout, arrays))
            bits += 8 * sum(array.nbytes for array in arrays.values())
            count += math.prod(weights.shape(name))
        room(out)(sum(array.nbytes for _, array in tensors.values()))
        for file in BESIDE:
            if (source / file).is_file():
                (place / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / file, place / file)
        write(place / "model.safetensors", tensors, metadata)
        size = (place / "model.safetensors").stat().st_size
    return {"bytes": size, "weights": count, "bits_per_weight": bits / count}


def _chosen(
    weights: Weights, recipe: Recipe, given: Mapping[str, Codes], config: Mapping[str, Any]
) -> dict[str, Layout | None]:
    """The layout of each tensor to write, None for those that stay as they are."""
    bert = config.get("model_type") == "bert"
    out: dict[str, Layout | None] = {}
    for name in weights.names():
        stem = name.removesuffix(".weight")
        if stem == "lm_head" and config.get("tie_word_embeddings"):
            continue
        if stem in given:
            out[name] = given[stem].layout
        else:
            layout = layout_of(stem, recipe) if fits(name, weights.shape(name), bert) else None
            out[name] = None if layout is None or layout.bits == 16 else layout
    return out


def _about(shape: tuple[int, ...], layout: Layout, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the file says of a packed matrix."""
    rows, columns = shape
    held = len(arrays["columns"]) if "columns" in arrays else columns
    about = {"rows": rows, "columns": columns, "bits": layout.bits, "group": layout.columns or held + -held % 64}
    about |= {f"kept_{side}": len(arrays[side]) for side in ("rows", "columns") if side in arrays}
    if layout.codebook:
        about["codebook"] = layout.codebook
    if "low_rank.a" in arrays:
        about["rank"] = len(arrays["low_rank.a"])
    if "outliers.columns" in arrays:
        about["outliers"] = len(arrays["outliers.columns"])
    return about | {"symmetric": layout.symmetric, "sparse": layout.sparse}


def laid(ready: Codes) -> dict[str, np.ndarray]:
    """The arrays of a matrix that was quantized elsewhere. Raises EngineError."""
    group = ready.layout.columns
    if ready.book is None:
        arrays = tiles(Parts(ready.codes, ready.scales, ready.mins, None, ready.bits, group))
    else:
        book, scales = in_bytes(whole(ready.book, ready.bits), ready.scales)
        arrays = tiles(Parts(ready.codes, scales, None, None, ready.bits, group, book)) | {"book": book}
    if ready.low_rank:
        arrays |= beside.low_rank(*ready.low_rank)
    if ready.outliers and len(ready.outliers[0]):
        arrays |= beside.exact(ready.shape, *ready.outliers)
    return arrays


def packed(weight: np.ndarray, layout: Layout, kept: channels.Kept | None = None) -> dict[str, np.ndarray]:
    """The arrays of one packed matrix, from (rows, columns) float32. Raises EngineError.

    kept: the rows and columns that it keeps, for patterns that leave out whole ones; None: by its own norms.
    """
    if layout.whole:
        sides = dict(zip(("rows", "columns"), kept or channels.chosen(weight, layout), strict=True))
        lists = {side: indices for side, indices in sides.items() if indices is not None}
        for axis, side in enumerate(("rows", "columns")):
            weight = weight.take(lists[side], axis) if side in lists else weight
        return packed(weight, replace(layout, pattern="unstructured", keep=1.0)) | lists
    row, column = beside.largest(weight, layout.outliers)
    rest = weight
    if len(row):
        rest = weight.copy()
        rest[row, column] = 0  # they are not to widen the range of the others
    keep, group, mins, book = layout.mask(rest), layout.columns, None, None
    if layout.codebook:
        codes, scales, book = cluster(rest, layout.bits, layout.codebook, group)
    else:
        codes, scales, mins = round_to_nearest(rest, layout.bits, group, symmetric=layout.symmetric, keep=keep)
    parts = Parts(codes, scales, mins, keep, layout.bits, group, book)
    arrays = tiles(parts)
    if book is not None:
        arrays["book"] = book
    if layout.rank:
        error = rest - read(parts)
        error[row, column] = 0
        arrays |= beside.low_rank(*beside.leading(error, layout.rank))
    if len(row):
        arrays |= beside.exact((weight.shape[0], weight.shape[1]), row, column, weight[row, column])
    return arrays
