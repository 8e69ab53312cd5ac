"""The face of the engine: packing, exporting and serving a model."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paperlab.engine.pack import Codes, Recipe
    from paperlab.kit.matrix import Matrix

CALIBRATION = 32  # texts that a method which looks at data is shown


def place(name: str) -> Path:
    """The folder or .gguf file that a word on the command line means: a path, a registered name, a Hugging Face id."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    from paperlab.assets.models import model_folder

    return model_folder(name)[0]


def read_recipe(file: Path) -> "Recipe":
    """[{"match": "*.down_proj", "bits": 8, …}, …] with the fields of `Layout`; the last match counts."""
    from paperlab.engine import EngineError, Layout

    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [(row.pop("match"), Layout(**row)) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fields = ", ".join(Layout.__dataclass_fields__)
        raise EngineError(
            f'{file}: a recipe is a list of {{"match": PATTERN}} with any of {fields} ({error})'
        ) from None


@contextmanager
def by_method(
    model: str, slug: str | None, settings: list[str], data: str | None
) -> "Iterator[tuple[str, dict[str, Codes] | None]]":
    """Apply a method to a model: its folder, which lasts as long as the context, and what was quantized by name.

    Without a method the model as it is, and None. Raises ValueError for settings or data that have no method.
    """
    if slug:
        with tempfile.TemporaryDirectory() as between:
            yield between, _apply(model, slug, settings, data, Path(between))
    elif settings or data:
        raise ValueError("--set and --data are for a --method; give one, or leave them out")
    else:
        yield model, None


def _apply(model: str, slug: str, settings: list[str], data: str | None, into: Path) -> "dict[str, Codes]":

    import paperlab
    from paperlab.assets.models import load_causal_lm, load_encoder
    from paperlab.assets.texts import load_text
    from paperlab.core.methods import find_method, parse
    from paperlab.engine.pack import BESIDE

    method = find_method(slug)
    apply = paperlab.load(method.slug, **dict(parse(method, setting) for setting in settings))
    source = place(model)
    kind = json.loads((source / "config.json").read_text(encoding="utf-8")).get("model_type")
    loaded, tokenizer, _ = (load_encoder if kind == "bert" else load_causal_lm)(str(source))
    texts = load_text(data).documents[:CALIBRATION] if data else None
    small = apply(loaded, calibration=texts, tokenizer=tokenizer)
    small.save_pretrained(into)
    for file in BESIDE:
        if (source / file).is_file() and not (into / file).exists():
            (into / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, into / file)
    return {name: codes_of(name, layer) for name, layer in small.compressed.layers.items()}


def codes_of(name: str, matrix: "Matrix") -> "Codes":
    """A method's matrix as the engine stores it: codes, or codes and the low-rank repair of their error. Raises
    EngineError for what the engine has no kernel for."""
    import numpy as np

    from paperlab.engine import Codes, EngineError
    from paperlab.kit.matrix import Factors, Matrix, Sum
    from paperlab.kit.quantized import Quantized

    layer: Matrix = matrix
    low: Factors | None = None
    if isinstance(matrix, Sum) and len(matrix.parts) == 2 and isinstance(matrix.parts[1], Factors):
        layer, low = matrix.parts[0], matrix.parts[1]
    if not isinstance(layer, Quantized):
        raise EngineError(
            f"{name} is stored as {type(matrix).__name__}: the engine packs codes, with or without factors"
        )
    book, most = layer.codebook, float(layer.bits if isinstance(layer.bits, int | float) else layer.bits.max())
    width = next((width for width in (2, 3, 4, 8) if most <= width), 0)
    held = [
        what
        for what, has in (
            ("codes of several widths", not isinstance(layer.bits, int | float)),
            (f"{most:g} bits to a code", width != most if book is None else not width),
            ("a sum of codebooks", book is not None and len(book) > 1),
            (
                f"vectors of {book.shape[2] if book is not None else 1}",
                book is not None and book.shape[2] not in (1, 2, 4),
            ),
        )
        if has
    ]
    if held:
        raise EngineError(
            f"{name} has {', '.join(held)}: the engine packs codes of 8, 4, 3 and 2 bits, one codebook to a matrix, "
            "and 1, 2 or 4 weights to a code"
        )
    rows = layer.shape[0]
    spread = lambda part: np.repeat(part.numpy().astype(np.float32), rows // part.shape[0], axis=0)  # noqa: E731
    scales, codes = spread(layer.scale), layer.codes.numpy().astype(np.int32)
    out = layer.outliers
    factors = (low.left.numpy(), low.right.numpy()) if low else None
    exact = (out.row.numpy(), out.column.numpy(), out.value.numpy()) if out else None
    if book is not None:
        unsigned = np.ascontiguousarray(codes[..., 0], np.uint8)
        return Codes(width, unsigned, scales, None, factors, exact, book[0].float().numpy())
    mins = None if layer.zero is None else (-spread(layer.zero) * scales).astype(np.float16)
    unsigned = (codes + (1 << (width - 1)) if layer.zero is None else codes).astype(np.uint8)
    return Codes(width, unsigned, scales.astype(np.float16), mins, factors, exact)


def pack(model: str, out: Path, recipe: "Recipe", given: "dict[str, Codes] | None" = None) -> dict[str, Any]:
    """Pack with a bar of progress on standard error where a terminal watches."""
    from paperlab.engine import pack as work

    with _bar("M weights") as progress:
        return work(place(model), out, recipe, given, progress)


def export(model: str, out: Path, to: str, **options: Any) -> dict[str, Any]:
    """Export with a bar of progress on standard error where a terminal watches."""
    from paperlab.engine import export as work

    with _bar("MB") as progress:
        return work(place(model), out, to, progress=progress, **options)  # type: ignore[arg-type]


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A callable that draws what is at work, how many are done, and of how many; units are a million of these."""

    def tell(name: str, done: int, total: int) -> None:
        filled = 20 * done // max(total, 1)
        line = f"[{'=' * filled}{' ' * (20 - filled)}] {done / 1e6:.0f} of {total / 1e6:.0f} {unit}  {name}"
        print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    try:
        yield tell
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def serve(model: str, loading: dict[str, Any], options: dict[str, Any], where: dict[str, Any]) -> None:
    """Find a model and serve it until a signal comes; news on standard error."""
    import prometheus_client  # noqa: F401  first: its absence names the extra that is missing

    from paperlab.engine import load
    from paperlab.engine.serve.run import serve as run
    from paperlab.engine.serve.service import Options

    path = place(model)
    name = options["name"] or (Path(model).name or path.resolve().name).removesuffix(".gguf")
    say = lambda said: print(said, file=sys.stderr, flush=True)  # noqa: E731
    if sys.stderr.isatty():
        say(f"loading {name} …")
    run(lambda: load(path, **loading), Options(**{**options, "name": name}), **where, say=say)
