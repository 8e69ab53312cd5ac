"""Merging models of one base by a paper's method: `paperlab merge`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from paperlab.cli import complete
from paperlab.cli.shell import Json, Misuse
from paperlab.cli.verbosity import note, takes_verbosity

commands = typer.Typer()

COSTS = 1_024  # tokens of --data that each model reads


@commands.command()
@takes_verbosity
def merge(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that all were tuned from: folder, name, id.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="The tuned models, one or more.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="SLUG",
            autocompletion=complete.methods,
            help="How to merge: a method of the family `merging`, e.g. ties or dare-super-mario.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write; it must not exist.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", autocompletion=complete.settings, help="A parameter of --method; repeatable."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME", help="A text on which to say afterwards what merging cost: perplexity of each model."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed, for a method that draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Merge models that were tuned from one base."""
    function, params = _function(method, settings or [])
    documents = _documents(data) if data else None
    from paperlab.cli.models import place
    from paperlab.cli.progress import progress

    folders = [place(name) for name in (base, *models)]
    with progress("merging", "MB", 1e6) as report:
        function(folders[0], folders[1:], out=out, seed=seed, progress=report)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    told: dict[str, Any] = {
        "out": str(out), "bytes": size, "method": function.__name__.replace("_", "-"), "parameters": params,
        "base": base, "models": models,
    }  # fmt: skip
    if documents is not None:
        told["costs"] = costs(dict(zip([base, *models], folders, strict=False)), out, documents, str(data))
    if as_json:
        from paperlab.cli.text import write_json

        return write_json([told])
    typer.echo(f"{out}: {size / 1e6:.1f} MB, {len(models)} models merged into {base} by {told['method']}")
    for row in told.get("costs", ()):
        typer.echo(f"  perplexity {row['said']}  {row['model']}")


def _function(slug: str, settings: list[str]) -> tuple[Any, dict[str, Any]]:
    """The method with its parameters set. Raises Misuse for one of another kind, and what `parse` raises."""
    from paperlab.core.methods import act_of, find_method, methods, parse

    method = find_method(slug)
    act = act_of(method)
    if act is None or act.name != "merge":
        known = [one.slug for one in methods().values() if one.verbs and (a := act_of(one)) and a.name == "merge"]
        what = f"one that {act.says}" if act else "a study, which has no method of its own"
        raise Misuse(f"{method.slug} is {what}; --method takes one of {', '.join(known)}")
    params = dict(parse(method, setting) for setting in settings)
    import paperlab

    return paperlab.load(method.slug, **params), params


def _documents(data: str) -> tuple[str, ...]:
    """The text that nothing was tuned on here: all of a file, the held-out part of a bundled text."""
    from paperlab.assets.texts import load_text, split_documents

    text = load_text(data)
    return split_documents(text, "held-out") if text.source.startswith(("paperlab", "package")) else text.documents


def costs(
    folders: dict[str, Path], out: Path, documents: tuple[str, ...], data: str, *, tokens: int = COSTS,
    what: str = "merging",
) -> list[dict[str, Any]]:  # fmt: skip
    """Perplexity of the first model, of the others and of the result, on the same tokens; a note where it cannot be
    had."""
    from paperlab.cli.progress import progress
    from paperlab.core.words import number, percent, span
    from paperlab.engine import EngineError
    from paperlab.engine.measure import compare

    names, paths = [*folders, str(out)], [*folders.values(), out]
    try:
        with progress("measuring", "steps") as report:
            found = compare(
                paths[0], paths[1:], documents, tokens=tokens, generate=0, progress=lambda a, b: report("", a, b)
            )
    except (EngineError, OSError) as error:
        note(f"what {what} did to the predictions could not be measured: {error}")
        return []
    if found.kind == "encoder":
        note(f"an encoder has no perplexity; `paperlab eval {out} --against {names[0]}` compares vectors")
        return []
    note(f"measured on {found.tokens:,} tokens of {data}; changes are from {names[0]}")
    rows = [
        {"model": names[0], "perplexity": found.source.perplexity.value, "said": number(found.source.perplexity.value)}
    ]
    for name, one in zip(names[1:], found.models, strict=True):
        change = f"{percent(one.change.value)} {span(one.change.low, one.change.high, percent)}"
        ends = {"change": one.change.value, "change_low": one.change.low, "change_high": one.change.high}
        said = f"{number(one.perplexity.value)} ({change})"
        rows.append({"model": name, "perplexity": one.perplexity.value, **ends, "said": said})
    return rows
