"""Call the compiled part through its C interface (native/include/paperlab.h). Nothing else uses ctypes."""

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paperlab.core.install import engine_hint

_ABI = 5


class EngineError(RuntimeError):
    """The engine could not do what was asked. The message is one line and says what was wrong."""


class Sampling(ctypes.Structure):
    """pl_sampling: how the next token is drawn."""

    _fields_ = (
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("seed", c_uint64),
    )


_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}


def sampling(
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
) -> Sampling:
    """How tokens are drawn; every number of its range can be computed with. Raises EngineError for any other."""
    numbers = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
    for name, value in numbers.items():
        least, most = _RANGES[name]
        if not isinstance(value, Real) or isinstance(value, bool) or not least <= value <= most:
            raise EngineError(f"{name} is {value!r}; a number from {least:g} to {most:g} is possible")
    top = whole("top_k", top_k, 0, 2**31 - 1)
    drawn = whole("seed", seed)
    return Sampling(temperature, top, top_p, min_p, repetition_penalty, drawn % 2**64)


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number of a range, for the compiled part, which would read another one as something else.

    Raises EngineError.
    """
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or (least is not None and value < least) or (most is not None and value > most):
        ends = "" if least is None else f" from {least}" + ("" if most is None else f" to {most}")
        raise EngineError(f"{name} is {value!r}; a whole number{ends} is possible")
    return int(value)


_F = POINTER(c_float)
_I = POINTER(c_int32)
_H = POINTER(c_uint16)
_U = POINTER(c_uint8)
_W = POINTER(c_uint32)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "abi": (c_int, ()),
    "error": (c_char_p, ()),
    "isas": (c_char_p, ()),
    "load": (c_void_p, (c_char_p, c_int, c_int64, c_int, c_int, c_int, c_char_p)),
    "free": (None, (c_void_p,)),
    "info": (c_char_p, (c_void_p,)),
    "session_new": (c_void_p, (c_void_p, c_int64, c_int)),
    "session_free": (None, (c_void_p,)),
    "session_length": (c_int64, (c_void_p,)),
    "session_bytes": (c_int64, (c_void_p,)),
    "session_truncate": (c_int, (c_void_p, c_int64)),
    "forward": (c_int, (POINTER(c_void_p), _I, c_int, _I, c_int, _F)),
    "score": (c_int, (c_void_p, _I, c_int, _F)),
    "next": (c_int, (c_void_p, _I, c_int, POINTER(Sampling), c_uint64, _I, c_int64)),
    "sample": (c_int, (_F, c_int64, POINTER(Sampling), c_uint64, _I, c_int64)),
    "embed": (c_int, (c_void_p, _I, _I, c_int, c_int, c_int, _F)),
    "round": (c_int, (_F, c_int64, c_int64, c_int, c_int64, _U, _U, _H, _H)),
    "lay": (c_void_p, (c_int64, c_int64, c_int, c_int64, _U, _H, _H, _U)),
    "lay_codebook": (c_void_p, (c_int64, c_int64, c_int, c_int, c_int64, _U, _H, POINTER(c_int8))),
    "tiles_free": (None, (c_void_p,)),
    "tiles_part": (c_int64, (c_void_p, c_int, POINTER(c_void_p))),
    "tiles_read": (c_int, (c_void_p, _F)),
    "files_open": (c_void_p, (c_char_p,)),
    "files_free": (None, (c_void_p,)),
    "files_list": (c_char_p, (c_void_p,)),
    "files_read": (c_int, (c_void_p, c_char_p, c_int64, c_int64, _F)),
    "files_scales": (c_int, (c_void_p, c_char_p, _H, _H)),
    "kernel_quantize": (c_int, (c_char_p, _F, c_int, c_int64, c_int64, c_int, POINTER(c_int8), _F, _I)),
    "kernel_matmul_q": (c_int, (c_char_p, c_void_p, POINTER(c_int8), _F, _I, c_int, c_int, _F)),
    "kernel_matmul_f": (c_int, (c_char_p, c_int, c_void_p, c_int64, c_int64, _F, c_int, _F)),
    "kernel_beside": (c_int, (c_char_p, c_int64, c_int64, _H, _W, _H, _F, _F, _F, c_int64, c_int, _F)),
    "kernel_attend": (c_int, (c_char_p, _F, c_int, c_int, c_float, c_int, _F, _F, c_int, c_int, _F, _F, _F)),
    "kernel_row": (c_int, (c_char_p, c_char_p, _F, _F, _F, c_float, c_int64, _F)),
    "test_pool": (c_int, (c_int, c_int, _I, c_int)),
    "test_read": (c_double, (c_int, c_int64, c_int)),
}
_POINTERS: dict[Any, Any] = {
    np.dtype(np.float32): _F,
    np.dtype(np.int32): _I,
    np.dtype(np.uint16): _H,
    np.dtype(np.uint8): _U,
}
_POINTERS[np.dtype(np.uint32)] = _W
_POINTERS[np.dtype(np.int8)] = POINTER(c_int8)
_POINTERS[np.dtype(np.float16)] = _H


def _path() -> Path | None:
    """The path of the shared library: PAPERLAB_LIBRARY, else in the installed distribution; None if nowhere."""
    if named := os.environ.get("PAPERLAB_LIBRARY"):
        return Path(named)
    spec = importlib.util.find_spec("paperlab_engine")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "libpaperlab.so"


def available() -> bool:
    """Whether the compiled part is installed. Loads nothing."""
    path = _path()
    return path is not None and path.is_file()


@cache
def library() -> ctypes.CDLL:
    """The shared library with its signatures. Raises EngineError where it is missing or of another version."""
    path = _path()
    if path is None:
        raise EngineError(f"the engine's compiled part is not installed: {engine_hint()}")
    try:
        opened = ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"the engine's compiled part cannot be loaded from {path}: {error}") from None
    if not hasattr(opened, "pl_abi") or opened.pl_abi() != _ABI:
        raise EngineError(f"{path} is of another version than this paperlab; install it again: {engine_hint()}")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(opened, f"pl_{name}")
        function.restype, function.argtypes = result, arguments
    return opened


def instruction_sets() -> list[str]:
    """Instruction sets that this machine runs, the most portable first; PAPERLAB_ISA takes one of them."""
    return library().pl_isas().decode().split()


def call(name: str, *arguments: Any) -> Any:
    """Call pl_NAME(arguments). Raises EngineError where it returns NULL or a negative number."""
    result = getattr(library(), f"pl_{name}")(*arguments)
    if (result is None and _SIGNATURES[name][0] is c_void_p) or (isinstance(result, int) and result < 0):
        raise EngineError(library().pl_error().decode(errors="replace"))
    return result


def pointer(array: np.ndarray | None) -> Any:
    """A typed pointer to a C-contiguous array; None stays None. The caller keeps the array alive."""
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the engine takes contiguous arrays")
    return array.ctypes.data_as(_POINTERS[array.dtype])


class Parts(NamedTuple):
    """A matrix in few bits, in the order of its rows.

    codes, keep: (rows, columns) uint8; scales, mins: (rows, groups) float16; group 0: whole rows.
    book: (2^bits, dim) int8 entries, with codes (rows, columns / dim).
    """

    codes: np.ndarray
    scales: np.ndarray
    mins: np.ndarray | None
    keep: np.ndarray | None
    bits: int
    group: int
    book: np.ndarray | None = None


@contextmanager
def _laid(matrix: Parts) -> Iterator[int]:
    codes, scales, mins, keep, bits, group, book = matrix
    rows, columns = codes.shape
    if book is None:
        handle = call("lay", rows, columns, bits, group, pointer(codes), pointer(scales), pointer(mins), pointer(keep))
    else:
        dim, parts = book.shape[1], (pointer(codes), pointer(scales), pointer(book))
        handle = call("lay_codebook", rows, columns * dim, bits, dim, group, *parts)
    try:
        yield handle
    finally:
        library().pl_tiles_free(handle)


def tiles(matrix: Parts) -> dict[str, np.ndarray]:
    """Codes and scales in the order that kernels read: the arrays of a packed matrix by name.

    Returns codes uint8, scales and mins float16, masks and starts uint64, each flat; those that the kind has. A book is
    stored as it is, and not returned.
    """
    kinds = (
        ("codes", np.uint8),
        ("scales", np.float16),
        ("mins", np.float16),
        ("masks", np.uint64),
        ("starts", np.uint64),
    )
    out = {}
    with _laid(matrix) as handle:
        for part, (name, dtype) in enumerate(kinds):
            where = c_void_p()
            size = call("tiles_part", handle, part, byref(where))
            if size:
                out[name] = np.frombuffer(ctypes.string_at(where.value or 0, size), dtype)
    return out


def read(matrix: Parts) -> np.ndarray:
    """(rows, columns) float32: the dequantized weights."""
    rows, columns = matrix.codes.shape
    out = np.empty((rows, columns * (1 if matrix.book is None else matrix.book.shape[1])), np.float32)
    with _laid(matrix) as handle:
        call("tiles_read", handle, pointer(out))
    return out


def round_to_nearest(
    weight: np.ndarray, bits: int, group: int, *, symmetric: bool = True, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(rows, columns) float32 -> codes uint8 of that shape, scales and (asymmetric) minima (rows, groups) float16."""
    rows, columns = weight.shape
    padded = -(-columns // (group or 64)) * (group or 64)
    groups = padded // group if group else 1
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, groups), np.float16)
    mins = None if symmetric else np.empty((rows, groups), np.float16)
    call(
        "round",
        pointer(weight),
        rows,
        columns,
        bits,
        group,
        pointer(keep),
        pointer(codes),
        pointer(scales),
        pointer(mins),
    )
    return codes, scales, mins
