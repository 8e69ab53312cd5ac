"""Whether the engine can run a model, asked of the engine itself before any work."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paperlab.engine.native import EngineError, call, library
from paperlab.engine.packing.container import Planned, config_json, write_outline


def check_runs(config: Mapping[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...]]], origin: str) -> None:
    """Raise EngineError for a model that the engine cannot run: an architecture, a setting, a tensor that is missing or
    misshapen. config: of config.json; tensors: type and shape by name; origin: what the error calls the model.

    The compiled part opens a file that has these tensors but none of their bytes, so that nothing here repeats what it
    knows.
    """
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(config_json(config), encoding="utf-8")
        plan = [Planned(name, kind, shape, lambda: np.empty(0)) for name, (kind, shape) in tensors.items()]
        write_outline(Path(place) / "model.safetensors", plan)
        try:
            library().pl_free(call("load", place.encode(), 0, -1, 1, 16, 1, None))
        except EngineError as error:
            raise EngineError(f"the engine cannot run {origin}: {str(error).replace(place, origin)}") from None
