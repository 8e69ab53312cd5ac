"""Single kernels, called through the C interface; used by the tests in this folder."""

import ctypes

import numpy as np

from paperlab.engine.native import call, library, pointer


def quantize(isa, x, group, planes=1):
    """(tokens, columns) float32 -> codes (tokens * planes, padded), scales and sums (tokens * planes, groups)."""
    tokens, columns = x.shape
    step = group or 64
    padded = -(-columns // step) * step
    groups = padded // (group or padded)
    q = np.empty((tokens * planes, padded), np.int8)
    scales = np.empty((tokens * planes, groups), np.float32)
    sums = np.empty((tokens * planes, groups), np.int32)
    out = pointer(q), pointer(scales), pointer(sums)
    call("kernel_quantize", isa.encode(), pointer(x), tokens, columns, group, planes, *out)
    return q, scales, sums


class Laid:
    """A packed matrix in memory, from codes and scales in plain order."""

    def __init__(self, codes, scales, mins, keep, bits, group, book=None):
        rows, columns = codes.shape
        self.shape = rows, columns * (1 if book is None else book.shape[1])
        if book is None:
            parts = pointer(codes), pointer(scales), pointer(mins), pointer(keep)
            self.handle = call("lay", rows, columns, bits, group, *parts)
        else:
            parts = pointer(codes), pointer(scales), pointer(book)
            self.handle = call("lay_codebook", *self.shape, bits, book.shape[1], group, *parts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        library().pl_tiles_free(self.handle)

    def read(self):
        out = np.empty(self.shape, np.float32)
        call("tiles_read", self.handle, pointer(out))
        return out

    def multiply(self, isa, q, scales, sums, planes=1):
        tokens = len(q) // planes
        y = np.empty((tokens, self.shape[0]), np.float32)
        words = pointer(q), pointer(scales), pointer(sums), tokens, planes, pointer(y)
        call("kernel_matmul_q", isa.encode(), self.handle, *words)
        return y


def matmul_f(isa, weight, x):
    """weight: float32, float16, or uint16 holding bfloat16."""
    kind = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint16): 2}[weight.dtype]
    y = np.empty((len(x), len(weight)), np.float32)
    data = weight.ctypes.data_as(ctypes.c_void_p)
    call("kernel_matmul_f", isa.encode(), kind, data, *weight.shape, pointer(x), len(x), pointer(y))
    return y


def attend(isa, q, keys, values, *, causal, bits=32):
    """q: (queries, head); keys, values: (positions, head), float32 -> (queries, head), and keys and values as kept."""
    out, kept = np.empty_like(q), (np.empty_like(keys), np.empty_like(values))
    shape = len(q), q.shape[1], q.shape[1] ** -0.5, bits
    texts = pointer(keys), pointer(values), len(keys), int(causal)
    call("kernel_attend", isa.encode(), pointer(q), *shape, *texts, *map(pointer, kept), pointer(out))
    return out, *kept


def corrections(isa, left, outliers, z, x, y):
    """y (tokens, rows) += z left^T + x E^T; left: (rows, rank) float16, E: the rows x columns given by `outliers`."""
    rows, rank = left.shape
    whole = np.zeros((rows + -rows % 16, rank), np.float16)
    whole[:rows] = left
    b = np.ascontiguousarray(whole.reshape(len(whole) // 16, 16, rank).transpose(0, 2, 1))
    row, column = outliers.nonzero()
    starts = np.searchsorted(row, np.arange(rows + 1)).astype(np.uint32)
    out, column, value = y.copy(), column.astype(np.uint16), outliers[row, column]
    exact = (pointer(starts), pointer(column), pointer(value)) if len(row) else (None, None, None)
    words = rows, rank, pointer(b) if rank else None, *exact, pointer(z), pointer(x), x.shape[1], len(x), pointer(out)
    call("kernel_beside", isa.encode(), *words)
    return out


def row(isa, name, x, a=None, b=None, epsilon=0.0):
    y = np.empty_like(x)
    call("kernel_row", isa.encode(), name.encode(), pointer(x), pointer(a), pointer(b), epsilon, len(x), pointer(y))
    return y


def to_bf16(x):
    """float32 -> the bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)
