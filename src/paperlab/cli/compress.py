"""`paperlab compress`: one command from a model to a smaller one, with a report."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from paperlab.cli.shell import Failure, Json, Misuse
from paperlab.cli.verbosity import note, takes_verbosity

commands = typer.Typer()


@commands.command()
@takes_verbosity
def compress(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder in floats, a registered name or a hub id.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write; it appears whole.")],
    target: Annotated[
        str | None,
        typer.Option(metavar="4x|120MB|200tok/s", help="How small (against 16 bits a weight), or how fast here."),
    ] = None,
    within: Annotated[
        str | None, typer.Option(metavar="SHARE", help="How much worse it may be on held-out text, e.g. 1%.")
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What --within limits: perplexity (its rise), flips, kl.")
    ] = "perplexity",
    data: Annotated[
        str,
        typer.Option(metavar="FILE|NAME", help="Your own text: half of it to search on, half to decide on."),
    ] = "abstracts",
    recipe: Annotated[
        str, typer.Option(metavar="FILE|auto", help="Repeat the levels of a recipe.json; auto: search for them.")
    ] = "auto",
    recover: Annotated[
        str, typer.Option(metavar="TIME", help="Distil from the original afterwards: 30m, 200steps, 50ktokens; 0: not.")
    ] = "0",
    search: Annotated[
        str, typer.Option(metavar="TIME", help="For the evolutionary search, such as 2m; 0: the allocation as it is.")
    ] = "2m",
    tokens: Annotated[int, typer.Option(metavar="N", min=256, help="Tokens of held-out text that decide.")] = 4096,
    exports: Annotated[
        str,
        typer.Option(
            "--export", metavar="NAME,...", help="Formats beside our own: hf, compressed-tensors, gguf; none."
        ),
    ] = "gguf",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write the nearest result even if it is not what was asked.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the work folder: another target is then found faster.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the choice of windows and of the search.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a language model as small or as fast as you ask.

    It measures how sensitive each matrix is, chooses bits and sparsity for each, refines the choice on whole models,
    recovers by distillation if asked, runs the result on the engine beside the original, and writes a report.

      paperlab compress smollm2-135m -o small --target 3x --within 5%

      paperlab compress ./my-model -o small --within 1% --data my-text.txt --recover 30m

    Killed or out of memory, the same command goes on where it was. A result that is not what was asked is not written.
    """
    from paperlab.cli.models import place
    from paperlab.cli.text import write_json
    from paperlab.lab.compress import Settings, budget_of, share_of, target_of
    from paperlab.lab.compress import compress as work
    from paperlab.lab.compress.report import lines

    file = None if recipe == "auto" else Path(recipe).expanduser()
    if file is not None and not file.is_file():
        raise Misuse(f"--recipe {recipe}: no such file; auto searches")
    budget = budget_of(search)
    if search.strip() != "0" and budget.seconds is None:
        raise Misuse(f"--search {search}: a time such as 2m or 30s; 0 for none")
    settings = Settings(
        target_of(target) if target else None,
        share_of(within) if within is not None else None,
        metric,
        data,
        recipe=file,
        recover=budget_of(recover),
        search=budget.seconds or 0.0,
        tokens=tokens,
        exports=tuple(name.strip() for name in exports.split(",") if name.strip() and name.strip() != "none"),
        anyway=anyway,
        keep=keep,
        seed=seed,
    )
    with shown() as report:
        outcome = work(place(model), out, settings, name=model, progress=report, say=note)
    if as_json:
        write_json([{"out": str(outcome.folder) if outcome.folder else None, **outcome.figures}])
    elif outcome.folder:
        typer.echo(f"{out}: {outcome.says}")
        for line in lines(outcome.figures):
            typer.echo(f"  {line}")
        for one in outcome.figures["exports"]:
            remarks = "".join(f"; {remark}" for remark in one["notes"])
            typer.echo(f"  {one['format']}: {one['path'] or '-'}{remarks}")
        typer.echo(f"  report: {outcome.report}")
    if not outcome.met:
        raise Failure(outcome.says, 1, "problems")


@contextmanager
def shown() -> Iterator[Any]:
    """A bar for each stage, one after another."""
    from contextlib import ExitStack

    from paperlab.cli.progress import progress

    stack = ExitStack()
    now: dict[str, Any] = {"stage": None, "report": None}

    def report(stage: str, what: str, done: int, total: int) -> None:
        if stage != now["stage"]:
            stack.close()
            now["stage"], now["report"] = stage, stack.enter_context(progress(stage, "steps"))
        now["report"](what, done, total)

    try:
        yield report
    finally:
        stack.close()
