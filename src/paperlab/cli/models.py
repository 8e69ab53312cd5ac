"""What the engine's commands do: find a model, pack, export or serve it, with a progress bar on a terminal."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.cli.progress import progress
from paperlab.cli.verbosity import note

if TYPE_CHECKING:
    from paperlab.engine.formats.export import Format
    from paperlab.engine.packing.layout import Codes, Recipe

COSTS = 1_024  # tokens on which it is measured what packing cost; an encoder reads twenty texts and more
MOST = 4_000_000_000  # bytes of a source that is run for it; larger ones take minutes, and `paperlab eval`
WORSE = 0.02  # of perplexity, beyond which there is a warning
TEXT = "abstracts"  # bundled, so it works offline: its calibration part for methods, its held-out part to measure on
CALIBRATION = 32  # documents that a method is shown


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


@dataclass(frozen=True)
class Applied:
    """A method to apply before packing or exporting. settings: "bits=3"; data: a text; documents: how many of it."""

    slug: str
    settings: list[str]
    data: str | None = None
    documents: int = CALIBRATION


def check_method(applied: Applied, source: Path) -> None:
    """Refuse, before the model is loaded, a method whose result a file of weights cannot hold. Raises ValueError for a
    method of another kind, or what `paperlab.lab.ship.rehearse` raises."""
    from paperlab.core.methods import act_of, find_method, parse

    method = find_method(applied.slug)
    act = act_of(method)
    if act is None or act.name != "compress":
        says = f"one that {act.says}" if act else "a study, which has no method of its own"
        raise ValueError(f"{method.slug} is {says}; --method takes a method that makes a finished model smaller")
    params = dict(parse(method, setting) for setting in applied.settings)
    from paperlab.lab.ship import rehearse

    rehearse(method.slug, params, source)


def apply_method(applied: Applied, source: Path) -> Any:
    """The model in a folder with a method applied. What it is calibrated on is said before, and how far it is."""
    import paperlab
    from paperlab.assets.loading import load_causal_lm, load_encoder
    from paperlab.core.methods import find_method, parse

    method = find_method(applied.slug)
    apply = paperlab.load(method.slug, **dict(parse(method, setting) for setting in applied.settings))
    loaded, tokenizer, _ = (load_encoder if _is_encoder(source) else load_causal_lm)(str(source))
    texts = None
    if method.needs_data:
        texts = _calibration(method.slug, applied, tokenizer)
    elif applied.data:
        note(f"{method.slug} looks at no data: --data is left aside")
    with progress(method.slug, "steps") as report:
        return apply(loaded, calibration=texts, tokenizer=tokenizer, progress=report)


def _calibration(slug: str, applied: Applied, tokenizer: Any) -> list[str]:
    """The texts that a method is shown, said on standard error."""
    from paperlab.assets.texts import load_text, split_documents
    from paperlab.lab.models import LENGTH

    text = load_text(applied.data or TEXT)
    documents = text.documents if applied.data else split_documents(text, "calibration")
    shown = list(documents[: applied.documents])
    ids = tokenizer(shown, truncation=True, max_length=LENGTH, verbose=False)["input_ids"]
    chosen = "" if applied.data else "; --data and --documents choose others"
    note(
        f"{slug} is calibrated on {len(shown):,} of {len(documents):,} documents of {text.id}: "
        f"{sum(map(len, ids)):,} tokens, at most {LENGTH} of each{chosen}"
    )
    return shown


def _is_encoder(folder: Path) -> bool:
    """Whether a folder's config.json names an encoder that the engine runs."""
    from paperlab.engine.packing.layout import ENCODERS

    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") in ENCODERS


@contextmanager
def _codes_by(applied: Applied, source: Path, *, floats: bool = False) -> "Iterator[tuple[Path, dict[str, Codes]]]":
    """Apply a method: a folder with its result, which lasts as long as the context, and what was quantized by name.

    floats: what is written holds floats, so that pruned matrices stay as the method left them.
    """
    from paperlab.engine.packing.container import copy_model_files
    from paperlab.kit.matrix import Dense, Sparse
    from paperlab.lab.ship import codes_of

    with tempfile.TemporaryDirectory() as between:
        small, into = apply_method(applied, source), Path(between)
        small.save_pretrained(into)
        copy_model_files(source, into)
        coded = {
            name: layer
            for name, layer in small.compressed.layers.items()
            if not (floats and isinstance(layer, Sparse) and isinstance(layer.values, Dense))
        }
        yield into, {name: codes_of(name, layer) for name, layer in coded.items()}


def pack(model: str, out: Path, recipe: "Recipe", applied: Applied | None, table_bits: int) -> dict[str, Any]:
    """Pack by a recipe, by what a method made, or by both; everything that can be refused is, before any work.

    recipe: empty where the method alone says how matrices are stored; embeddings and head then take `table_bits`.
    """
    from dataclasses import replace

    from paperlab.engine import Layout
    from paperlab.engine import pack as work
    from paperlab.engine.formats.pack import check
    from paperlab.engine.packing.output import check_place

    check_place(out)
    source = place(model)
    if applied and source.is_file():
        raise ValueError(f"{source} is a GGUF file; a --method takes the folder of a model")
    check(source, out, Layout(2) if applied else recipe)
    notes: list[str] = []
    if applied is None:
        with progress("packing", "M weights", 1e6) as report:
            made = work(source, out, recipe, None, report)
    else:
        check_method(applied, source)
        if recipe:
            with _codes_by(applied, source) as (folder, given), progress("packing", "M weights", 1e6) as report:
                made = work(folder, out, recipe, given, report)
        else:
            small = apply_method(applied, source)
            with progress("packing", "M weights", 1e6) as report:
                made = replace(small.compressed, files=source).pack(out, table_bits=table_bits, progress=report)
            if table_bits != 16 and not _is_encoder(source):
                notes = [f"embeddings and head, which {applied.slug} leaves in floats, take {table_bits} bits"]
    if made["left"]:
        notes.append(f"{made['left']} matrices stay in floats")
    return {**made, "notes": notes}


def cost(model: str, out: Path) -> dict[str, Any]:
    """What packing cost: the packed model beside its source on a bundled text that calibrates nothing.

    Returns notes for people, and where it could be measured perplexity or cosine with the interval of its change.
    """
    from paperlab.assets.texts import load_text, split_documents
    from paperlab.core.words import number, percent, span
    from paperlab.engine import EngineError
    from paperlab.engine.measure import compare, size_of

    source, again = place(model), f"`paperlab eval {out} --against {model}` measures it"
    try:
        if size_of(source)[0] > MOST:
            return {"notes": [f"what that costs was not measured, as the source is large: {again}"]}
        documents = split_documents(load_text(TEXT), "held-out")
        with progress("measuring what it costs", "steps") as report:
            found = compare(source, [out], documents, tokens=COSTS, generate=0, progress=lambda a, b: report("", a, b))
    except (EngineError, OSError) as error:
        return {"notes": [f"what that costs could not be measured: {error}"]}
    one = found.models[0]
    if found.kind == "encoder":
        said = f"its vectors have a mean cosine of {number(one.cosine.value)} with the source's"
        return {"cosine": one.cosine.value, "notes": [f"{said}, on {found.items} texts"]}
    change = f"{percent(one.change.value)} {span(one.change.low, one.change.high, percent)}"
    notes = [
        f"perplexity {number(one.perplexity.value)}, the source's {number(found.source.perplexity.value)}: {change}; "
        f"KL {number(one.kl.value)} nats a token; on {found.tokens:,} tokens of {TEXT}"
    ]
    if one.worse_than(WORSE):
        notes.append(
            f"warning: worse than its source by more than {100 * WORSE:g} %; more bits or a --method lose less"
        )
    figures = {
        "perplexity": one.perplexity.value,
        "source_perplexity": found.source.perplexity.value,
        "kl": one.kl.value,
    }
    ends = {"change": one.change.value, "change_low": one.change.low, "change_high": one.change.high}
    return {**figures, **ends, "notes": notes}


def export(model: str, out: Path, to: "Format", applied: Applied | None, **options: Any) -> dict[str, Any]:
    """Export by a recipe, by what a method made, or as it is; what can be refused is, before any work."""
    from paperlab.engine import export as work
    from paperlab.engine.formats.export import check
    from paperlab.engine.packing.output import check_place

    check_place(out)
    source = place(model)
    check(source, out, to, options["dtype"])
    if applied and source.is_file():
        raise ValueError(f"{source} is a GGUF file; a --method takes the folder of a model")
    if applied is None:
        with progress("writing", "MB", 1e6) as report:
            return work(source, out, to, progress=report, **options)
    check_method(applied, source)
    with _codes_by(applied, source, floats=to == "hf") as (folder, given), progress("writing", "MB", 1e6) as report:
        return work(folder, out, to, given=given, progress=report, **options)


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
