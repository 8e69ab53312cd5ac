"""Convert float32 to the 16-bit types of files."""

import numpy as np

from paperlab.engine.native import EngineError


def from_float32(values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """float32 as "F16", or "BF16" (its bits as uint16), rounded to nearest even; any other kind leaves it as it is.

    name: of the tensor, for errors. Raises EngineError where a value is too large for float16.
    """
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isinf(half).any() and not np.isinf(values).any():
            raise EngineError(f"{name} has values beyond 65504, too large for float16; take BF16 or F32")
        return half
    if kind != "BF16":
        return values
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
