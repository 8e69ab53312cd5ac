"""`pack` for every source: folders and models in memory, and GGUF files."""

from collections.abc import Mapping
from pathlib import Path

from paperlab.engine.formats.source import GgufWeights, Source
from paperlab.engine.packing import pack as packing
from paperlab.engine.packing.layout import Codes, Layout, Recipe
from paperlab.engine.packing.pack import Progress
from paperlab.engine.packing.tensors import Tensors


def pack(
    source: str | Path | Tensors,
    out: str | Path,
    recipe: Layout | Recipe,
    given: Mapping[str, Codes] | None = None,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, float]:
    """Pack a model into the folder `out`, which must not contain a model yet.

    source: a model folder, a GGUF file, or `Tensors` in memory; the same weights give the same bytes. Of a GGUF file,
    floats and K types are packed; matrices with codes of their own (Q8_0, Q4_0, Q4_1) are not rounded a second time.
    All else is as `paperlab.engine.packing.pack.pack` has it. Raises EngineError.
    """
    return packing.pack(_opened(source), out, recipe, given, progress)


def check(source: str | Path, out: str | Path, recipe: Layout | Recipe) -> None:
    """Refuse at once what `pack` would refuse. Raises EngineError."""
    packing.check(_opened(source), out, recipe)


def _opened(source: str | Path | Tensors) -> str | Path | Tensors | GgufWeights:
    if isinstance(source, Tensors) or not Path(source).is_file() or Path(source).suffix != ".gguf":
        return source
    return GgufWeights(Source(Path(source)))
