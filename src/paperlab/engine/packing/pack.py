"""Write a model folder with its matrices in few bits, or sparse, as the engine reads them fastest."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from paperlab.engine.native import EngineError, Parts, read, round_to_nearest, tiles
from paperlab.engine.packing import channels, corrections
from paperlab.engine.packing.codebook import cluster, in_bytes, padded
from paperlab.engine.packing.container import KINDS, PACKED, Weights, config_json, copy_model_files, named, write
from paperlab.engine.packing.layout import (
    ENCODERS,
    HEADS,
    Codes,
    Layout,
    Recipe,
    ends_of,
    is_packable,
    is_turned,
    layout_of,
    quantize,
)
from paperlab.engine.packing.outline import check_runs
from paperlab.engine.packing.output import check_place, check_space, staged
from paperlab.engine.packing.tensors import Tensors

PRUNED = 1 / 3  # share of zeros from which a bitmask and the other weights take fewer bytes, in 8 and in 4 bits
Progress = Callable[[str, int, int], None]
_Choice = Layout | Literal["given"] | None  # to be rounded; quantized elsewhere; stored as it is


class Opened(Protocol):
    """An opened model of another format. config: as config.json has it; path: what errors call it."""

    config: Mapping[str, Any]
    path: Path

    def names(self) -> list[str]:
        """Every tensor's name, in order."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""

    def kind(self, name: str) -> str:
        """The type as safetensors spells it."""

    def raw(self, name: str) -> np.ndarray:
        """The tensor in that type."""

    def floats(self, name: str) -> np.ndarray:
        """The tensor as float32."""

    def check(self, name: str) -> None:
        """Refuse to round a matrix that is in few bits already. Raises EngineError."""

    def write_files(self, place: Path) -> None:
        """Write the tokenizer and its settings into a folder."""


_Opened = Weights | Tensors | Opened


def pack(
    source: str | Path | Tensors | Opened,
    out: str | Path,
    recipe: Layout | Recipe,
    given: Mapping[str, Codes] | None = None,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, float]:
    """Pack a model into the folder `out`, which must not contain a model yet.

    source: a model folder, `Tensors` in memory, or a model of another format that is opened already (`engine.pack`
    opens GGUF files); the same weights give the same bytes.
    recipe: one layout for all matrices, or (pattern, layout) pairs over their names, the last match counting:
    [("*", Layout(4)), ("lm_head", Layout(8))]. Weights are rounded to the nearest codes, except for the matrices in
    `given`, by name (without ".weight"), whose codes are stored and whose weights in `source` are not read; any mapping
    will do, it is asked for each matrix once. A matrix that is pruned already, a third of it zeros, is stored sparse
    with these zeros, where its layout is 8 or 4 bits and nothing else.
    progress: called with the matrix, the weights packed before it, and of how many.

    Returns bytes, weights, and bits per weight over the packed matrices; left: how many matrices a recipe could have
    packed and are as they were. Raises EngineError; nothing is left in `out`
    where packing ends early.
    """
    out, given = Path(out), given or {}
    weights, config, files, choices = _planned(source, out, recipe, given)
    total = sum(math.prod(weights.shape(name)) for name, choice in choices.items() if choice)
    rounded = {name: choice for name, choice in choices.items() if isinstance(choice, Layout)}
    shared = channels.of_mlps(rounded, weights.floats, bool(config.get("mlp_bias")))
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    metadata = {"format": "paperlab", "paperlab": "2"}
    bits = count = 0
    with staged(out) as place:
        for name, choice in choices.items():
            if choice is None:
                tensors[name] = weights.kind(name), weights.raw(name)
                continue
            stem, turned = name.removesuffix(".weight"), is_turned(name, config)
            shape = weights.shape(name)[::-1] if turned else weights.shape(name)
            progress(stem, count, total)
            try:
                if choice == "given":
                    codes = given[stem]
                    if codes.shape != shape:
                        raise EngineError(f"it is {shape}, the codes given for it are {codes.shape}")
                    layout, arrays = codes.layout, pack_codes(codes)
                else:
                    weight = np.ascontiguousarray(weights.floats(name).T) if turned else weights.floats(name)
                    sparse = of_pruned(weight, choice)
                    layout = choice if sparse is None else sparse.layout
                    arrays = pack_matrix(weight, choice, shared.get(name)) if sparse is None else pack_codes(sparse)
                    del weight
            except EngineError as error:
                raise EngineError(f"{name}: {error}") from None
            tensors |= {f"{stem}.{part}": named(array) for part, array in arrays.items()}
            metadata[f"paperlab.{stem}"] = json.dumps(_describe(shape, layout, arrays))
            bits += 8 * sum(array.nbytes for array in arrays.values())
            count += math.prod(shape)
        check_space(out, sum(array.nbytes for _, array in tensors.values()))
        if isinstance(files, Path):
            copy_model_files(files, place)
        elif files:
            files.write_files(place)
        (place / "config.json").write_text(config_json(dict(config) | PACKED), encoding="utf-8")
        write(place / "model.safetensors", tensors, metadata)
        size = (place / "model.safetensors").stat().st_size
    bert = config.get("model_type") in ENCODERS
    left = sum(choice is None and is_packable(name, weights.shape(name), bert) for name, choice in choices.items())
    return {"bytes": size, "weights": count, "bits_per_weight": bits / count, "left": left}


def check(source: str | Path | Tensors | Opened, out: str | Path, recipe: Layout | Recipe) -> None:
    """Refuse at once what `pack` would refuse: raise EngineError for a model that the engine cannot run, a recipe that
    matches nothing, an `out` that cannot be written, a disk too small. Nothing of the weights is read."""
    _planned(source, Path(out), recipe, {})


def _planned(
    source: str | Path | Tensors | Opened, out: Path, recipe: Layout | Recipe, given: Mapping[str, Codes]
) -> tuple[_Opened, Mapping[str, Any], Path | Opened | None, dict[str, _Choice]]:
    """Tensors, configuration, where the other files come from, how each tensor is stored. Raises EngineError."""
    check_place(out)
    weights, config, files, origin = _opened(source)
    if config.get("tie_word_embeddings") and ends_of(weights.names())[0] and not repeats_table(weights):
        config = {**config, "tie_word_embeddings": False}  # a head that is there is the head
    if any(name.endswith(".codes") for name in weights.names()):
        raise EngineError(f"{origin} is packed already; give the original weights")
    choices = _choices(weights, [("*", recipe)] if isinstance(recipe, Layout) else recipe, given, config, origin)
    # To be rounded, a matrix may be of any float type; what stays as it is has to be one that the engine reads.
    outline = {
        name: ("BF16" if choice else weights.kind(name), weights.shape(name)) for name, choice in choices.items()
    }
    check_runs(config, outline, origin)
    absent = {stem for stem in given if f"{stem}.weight" not in choices}
    absent -= set(HEADS) if config.get("tie_word_embeddings") else set()
    if absent:
        raise EngineError(f"{origin} has no matrix {min(absent)}, for which codes are given")
    if not any(choices.values()):
        raise EngineError(f"no matrix of {origin} matches the recipe")
    if not isinstance(weights, Weights | Tensors):
        for name in (name for name, choice in choices.items() if isinstance(choice, Layout)):
            weights.check(name)
    check_space(out, sum(_at_least(weights, name, choice) for name, choice in choices.items()))
    return weights, config, files, choices


def repeats_table(weights: _Opened) -> bool:
    """Whether the output head is there and is the embeddings once more."""
    head, table = ends_of(weights.names())
    if not (head and table):
        return False
    return (
        weights.kind(head) == weights.kind(table)
        and weights.shape(head) == weights.shape(table)
        and bool(np.array_equal(weights.raw(head), weights.raw(table)))
    )


def _at_least(weights: _Opened, name: str, choice: _Choice) -> int:
    """Bytes that a tensor takes at the least; of codes made elsewhere those of 2 bits."""
    count = math.prod(weights.shape(name))
    if choice is None:
        return count * np.dtype(KINDS[weights.kind(name)]).itemsize
    if choice == "given":
        return count // 4
    kept = (0.5 if choice.pattern == "2:4" else choice.keep) * choice.bits / max(choice.codebook, 1)
    return int(count * (kept + choice.sparse) / 8)


def _opened(source: str | Path | Tensors | Opened) -> tuple[_Opened, Mapping[str, Any], Path | Opened | None, str]:
    """Tensors, configuration, where the other files come from, and what errors call the model."""
    if isinstance(source, Tensors):
        return source, source.config, Path(source.files) if source.files else None, "the model"
    if not isinstance(source, str | Path):
        return source, source.config, source, str(source.path)
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise EngineError(f"no config.json in {folder}; give the folder of a model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Weights(folder), config, folder, str(folder)


def _choices(
    weights: _Opened, recipe: Recipe, given: Mapping[str, Codes], config: Mapping[str, Any], origin: str
) -> dict[str, _Choice]:
    """How each tensor of the packed model is stored. Raises EngineError for matrices of `given` that are not there."""
    bert, tied = config.get("model_type") in ENCODERS, bool(config.get("tie_word_embeddings"))
    out: dict[str, _Choice] = {}
    for name in weights.names():
        stem = name.removesuffix(".weight")
        if stem in HEADS and tied:
            continue
        if stem in given and stem != name:
            out[name] = "given"
        else:
            layout = layout_of(stem, recipe) if is_packable(name, weights.shape(name), bert) else None
            out[name] = None if layout is None or layout.bits == 16 else layout
    return out


def _describe(shape: tuple[int, ...], layout: Layout, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the file's metadata says of a packed matrix."""
    rows, columns = shape
    kept = len(arrays["columns"]) if "columns" in arrays else columns
    about = {"rows": rows, "columns": columns, "bits": layout.bits, "group": layout.group_size or kept + -kept % 64}
    about |= {f"kept_{side}": len(arrays[side]) for side in ("rows", "columns") if side in arrays}
    if layout.codebook:
        about["codebook"] = layout.codebook
    if "low_rank.a" in arrays:
        about["rank"] = len(arrays["low_rank.a"])
    if "outliers.columns" in arrays:
        about["outliers"] = len(arrays["outliers.columns"])
    return about | {"symmetric": layout.symmetric, "sparse": layout.sparse}


def pack_codes(given: Codes) -> dict[str, np.ndarray]:
    """The arrays of a matrix that was quantized elsewhere, by name. Raises EngineError."""
    layout = given.layout
    group = layout.group_size
    if given.book is None:
        keep = np.ascontiguousarray(given.mask != 0, np.uint8) if given.mask is not None and layout.sparse else None
        arrays = tiles(Parts(given.codes, given.scales, given.mins, keep, given.bits, group))
    else:
        book, scales = in_bytes(padded(given.book, given.bits), given.scales)
        arrays = tiles(Parts(given.codes, scales, None, None, given.bits, group, book)) | {"book": book}
    if given.low_rank:
        arrays |= corrections.low_rank(*given.low_rank)
    if given.outliers and len(given.outliers[0]):
        arrays |= corrections.outliers(given.shape, *given.outliers)
    return arrays


def of_pruned(weight: np.ndarray, layout: Layout) -> Codes | None:
    """The codes of a matrix whose zeros are worth a mask, which then are its own; None for another one."""
    plain = (
        layout.keep == 1
        and layout.pattern == "unstructured"
        and not (layout.outliers or layout.rank or layout.codebook)
    )
    if not plain or layout.bits not in (8, 4) or np.count_nonzero(weight) > (1 - PRUNED) * weight.size:
        return None
    sparse = Layout(layout.bits, layout.group if layout.symmetric else None, keep=0.5)  # type: ignore[arg-type]
    return quantize(weight, sparse, weight != 0)


def pack_matrix(weight: np.ndarray, layout: Layout, kept: channels.Kept | None = None) -> dict[str, np.ndarray]:
    """The arrays of a packed matrix by name, from (rows, columns) float32. Raises EngineError.

    kept: the rows and columns that stay, for the patterns that remove whole ones; None: chosen by its own norms.
    """
    if layout.structured:
        sides = dict(zip(("rows", "columns"), kept or channels.chosen(weight, layout), strict=True))
        lists = {side: indices for side, indices in sides.items() if indices is not None}
        for axis, side in enumerate(("rows", "columns")):
            weight = weight.take(lists[side], axis) if side in lists else weight
        return pack_matrix(weight, replace(layout, pattern="unstructured", keep=1.0)) | lists
    row, column = corrections.farthest(weight, layout.outliers)
    rest = weight
    if len(row):
        rest = weight.copy()
        rest[row, column] = 0  # they are not to widen the range of the others
    keep, group, mins, book = layout.mask(rest), layout.group_size, None, None
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
        arrays |= corrections.low_rank(*corrections.best_factors(error, layout.rank))
    if len(row):
        arrays |= corrections.outliers((weight.shape[0], weight.shape[1]), row, column, weight[row, column])
    return arrays
