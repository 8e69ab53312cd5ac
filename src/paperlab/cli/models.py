"""What the engine's commands do: find a model, pack, export or serve it, with a progress bar on a terminal."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.cli.verbosity import note
from paperlab.core.log import quiet

if TYPE_CHECKING:
    from paperlab.engine.packing.layout import Codes, Recipe

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


def apply_method(model: str, slug: str, settings: list[str], data: str | None) -> "tuple[Any, Path]":
    """The model with a method applied, and the folder it was loaded from."""
    import paperlab
    from paperlab.assets.loading import load_causal_lm, load_encoder
    from paperlab.assets.texts import load_text
    from paperlab.core.methods import find_method, parse

    method = find_method(slug)
    apply = paperlab.load(method.slug, **dict(parse(method, setting) for setting in settings))
    source = place(model)
    kind = json.loads((source / "config.json").read_text(encoding="utf-8")).get("model_type")
    loaded, tokenizer, _ = (load_encoder if kind == "bert" else load_causal_lm)(str(source))
    texts = load_text(data).documents[:CALIBRATION] if data else None
    return apply(loaded, calibration=texts, tokenizer=tokenizer), source


def _apply(model: str, slug: str, settings: list[str], data: str | None, into: Path) -> "dict[str, Codes]":
    """Apply a method and keep the result in a folder; what was quantized, by name."""
    from paperlab.engine.packing.container import MODEL_FILES
    from paperlab.lab.ship import codes_of

    small, source = apply_method(model, slug, settings, data)
    small.save_pretrained(into)
    for file in MODEL_FILES:
        if (source / file).is_file() and not (into / file).exists():
            (into / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, into / file)
    return {name: codes_of(name, layer) for name, layer in small.compressed.layers.items()}


def pack_by_method(model: str, out: Path, slug: str, settings: list[str], data: str | None) -> dict[str, Any]:
    """Apply a method and pack what it made, straight from memory."""
    from dataclasses import replace

    if (out / "config.json").exists() or (out / "model.safetensors").exists():  # before any work
        raise ValueError(f"{out} already holds a model; name another folder, or remove it first")
    small, source = apply_method(model, slug, settings, data)
    with _bar("M weights") as progress:
        return replace(small.compressed, files=source).pack(out, progress=progress)


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

    def draw(name: str, done: int, total: int) -> None:
        filled = 20 * done // max(total, 1)
        line = f"[{'=' * filled}{' ' * (20 - filled)}] {done / 1e6:.0f} of {total / 1e6:.0f} {unit}  {name}"
        print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)

    if not sys.stderr.isatty() or quiet():
        yield lambda name, done, total: None
        return
    try:
        yield draw
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def serve(model: str, loading: dict[str, Any], options: dict[str, Any], where: dict[str, Any]) -> None:
    """Find a model and serve it until a signal comes; what happens is noted on standard error."""
    import prometheus_client  # noqa: F401  first: a missing extra is reported before the model is looked for

    from paperlab.engine import load
    from paperlab.engine.serve.run import serve as run
    from paperlab.engine.serve.service import Options

    path = place(model)
    name = options["name"] or (Path(model).name or path.resolve().name).removesuffix(".gguf")
    if sys.stderr.isatty():
        note(f"loading {name} …")
    run(lambda: load(path, **loading), Options(**{**options, "name": name}), **where, say=note)
