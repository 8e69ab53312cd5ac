"""A model in memory, as a source for `pack`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paperlab.engine.packing.container import kind_of, to_float32


@dataclass(frozen=True)
class Tensors:
    """A model's configuration and tensors, without a folder of weights.

    config: what config.json has (`model.config.to_dict()`). arrays: by the names of the state dict, float32, float16,
    float64, or uint16 for the bits of bfloat16. Any mapping will do: an array is looked up once for its shape and once
    when its turn comes, and let go after it unless it is stored as it is. files: a folder from which the tokenizer and
    its settings are copied; None: there are none.
    """

    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    files: str | Path | None = None

    @cached_property
    def _headers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {name: (array.shape, kind_of(name, array)) for name, array in self.arrays.items()}

    def names(self) -> list[str]:
        """Every tensor's name, in order."""
        return sorted(self._headers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._headers[name][0]

    def kind(self, name: str) -> str:
        """The type as safetensors spells it; uint16 is bfloat16."""
        return self._headers[name][1]

    def raw(self, name: str) -> np.ndarray:
        """The tensor as it was given."""
        return self.arrays[name]

    def floats(self, name: str) -> np.ndarray:
        """The tensor as float32. Raises EngineError where it has no floats."""
        return to_float32(self.arrays[name], self.kind(name), name)
