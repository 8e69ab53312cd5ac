"""Write the pack-quantized format of compressed-tensors, as vLLM and transformers load it.

For a matrix NAME: NAME.weight_packed, codes of 4 or 8 bits in 32-bit words along the columns, the first in the lowest
bits; NAME.weight_scale, one per row and group; NAME.weight_shape; and where groups have a zero point,
NAME.weight_zero_point, whole numbers in words along the rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from paperlab.engine.formats.source import Grid, Grouped, Item
from paperlab.engine.native import EngineError
from paperlab.engine.packing.container import Planned


def is_table(stem: str) -> bool:
    """Whether a matrix is an embedding table, which the format does not hold: it has linear layers alone."""
    return stem.endswith(("embed_tokens", "_embeddings"))


def plan(
    items: list[Item], dtype: str | None, floating: Callable[[Item, str | None], Planned]
) -> tuple[list[Planned], list[str], dict[str, Any]]:
    """Tensors to write, notes, and the quantization_config. Raises EngineError for what the format cannot hold."""
    out: list[Planned] = []
    schemes: dict[Grid, list[str]] = {}
    plain, sparse, wide, tables = [], 0, 0, 0
    for item in items:
        table = is_table(item.stem)
        if item.grid is None or table:
            out.append(floating(item, dtype))
            tables += item.grid is not None
            if len(item.shape) == 2 and not table:
                plain.append(item.stem)
            continue
        _check(item)
        bits = 8 if item.grid.bits == 8 else 4
        sparse, wide = sparse + item.grid.sparse, wide + (item.grid.bits < 4)
        schemes.setdefault(Grid(bits, item.grid.group, item.grid.symmetric), []).append(item.stem)
        shape = np.array(item.shape, np.int64)
        out.insert(0, Planned(f"{item.stem}.weight_shape", "I64", (2,), lambda shape=shape: shape))  # type: ignore[misc]
        out += _parts(item, bits)
    if not schemes:
        raise EngineError(
            "no matrix is in few bits: give --bits, --recipe or --method, or a packed model; --to hf writes floats"
        )
    notes = []
    if wide:
        notes.append(f"{wide} matrices of fewer than 4 bits take 4 bits each: the same values in a larger file")
    if sparse:
        notes.append(f"{sparse} matrices are sparse: their zeros are stored like any weight here")
    if tables:
        notes.append("the table of embeddings is written as floats: the format holds linear layers alone")
    groups = {
        f"group_{i}": {
            "targets": ["Linear"] if len(schemes) == 1 else names,
            "weights": {
                "num_bits": grid.bits,
                "type": "int",
                "symmetric": grid.symmetric,
                "strategy": "group" if grid.group else "channel",
                "group_size": grid.group or None,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }
        for i, (grid, names) in enumerate(schemes.items())
    }
    return (
        out,
        notes,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": plain if any(item.stem == "lm_head" for item in items) else [*plain, "lm_head"],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        },
    )


def _check(item: Item) -> None:
    grid = item.grid
    assert grid is not None
    if grid.bits > 8:
        raise EngineError(f"{item.name} has codes of {grid.bits} bits; pack-quantized holds 4 and 8")
    if grid.corrected:
        raise EngineError(
            f"{item.name} has a low-rank part, exact weights or absent channels in addition to its codes, "
            "and pack-quantized holds none of them; --to hf writes the dequantized weights"
        )
    if grid.group and item.shape[1] % grid.group:
        raise EngineError(
            f"{item.name}: groups of {grid.group} do not divide {item.shape[1]} columns, as pack-quantized asks; "
            "pack it in groups that do, or in whole rows"
        )


def _parts(item: Item, bits: int) -> list[Planned]:
    """The tensors of one matrix; its codes are made once, and freed with the last."""
    made: list[Grouped] = []
    rows, columns = item.shape
    grid = item.grid
    assert grid is not None
    groups = columns // grid.group if grid.group else 1
    each = 32 // bits

    def once() -> Grouped:
        if not made:
            made.append(item.grouped())
        return made[0]

    def codes() -> np.ndarray:
        low = 0 if once().mins is not None else (1 << (bits - 1)) - (1 << (grid.bits - 1))
        return words(once().codes + np.uint8(low), bits)

    def scales() -> np.ndarray:
        return made.pop().scales

    out = [
        Planned(f"{item.stem}.weight_packed", "I32", (rows, -(-columns // each)), codes),
        Planned(f"{item.stem}.weight_scale", "F16", (rows, groups), scales),
    ]
    if not grid.symmetric:
        zeros = lambda: np.ascontiguousarray(words(zero_points(once(), item.name).T, bits).T)  # noqa: E731
        out.insert(1, Planned(f"{item.stem}.weight_zero_point", "I32", (-(-rows // each), groups), zeros))
    return out


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) uint8 below 2^bits -> (rows, n * bits / 32 rounded up) int32, the first in the lowest bits."""
    each = 32 // bits
    whole = np.zeros((len(codes), -(-codes.shape[1] // each) * each), np.uint8)
    whole[:, : codes.shape[1]] = codes
    if bits == 4:
        whole = whole[:, 0::2] | whole[:, 1::2] << 4
    return np.ascontiguousarray(whole).view("<i4")


def zero_points(matrix: Grouped, name: str) -> np.ndarray:
    """(rows, groups) uint8: the code of the weight 0. Raises EngineError where that is no code."""
    assert matrix.mins is not None
    scales, mins = matrix.scales.astype(np.float32), matrix.mins.astype(np.float32)
    zeros = np.rint(-mins / np.where(scales == 0, np.inf, scales))
    # A minimum kept as float16 is a multiple of its scale up to half a unit in its last place.
    off = np.abs(zeros * scales + mins) > np.abs(mins) * 2.0**-10
    if off.any() or (zeros < 0).any() or (zeros >= 1 << matrix.grid.bits).any():
        raise EngineError(
            f"{name} has minima that are no whole number of steps, and pack-quantized keeps whole zero points; "
            "export it to gguf (Q4_1 holds any minimum), or quantize symmetrically"
        )
    return zeros.astype(np.uint8)
