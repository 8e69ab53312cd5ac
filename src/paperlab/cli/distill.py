"""`paperlab distill`: a student learns from a teacher, by any loss of the catalogue."""

from pathlib import Path
from typing import Annotated, Any

import typer

from paperlab.cli import complete
from paperlab.cli.compress import shown
from paperlab.cli.shell import Json, Misuse
from paperlab.cli.verbosity import note, takes_verbosity

commands = typer.Typer()


@commands.command()
@takes_verbosity
def distill(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="The model to learn from: folder, name, id.")],
    student: Annotated[
        str,
        typer.Argument(metavar="STUDENT", help="The model to train: pruned, smaller, the teacher with --blocks."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write; it appears whole.")],
    budget: Annotated[str, typer.Option(metavar="TIME", help="How long to train: 30m, 200steps, 50ktokens.")] = "30m",
    blocks: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep N blocks of the student, evenly spread.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="SLUG", autocompletion=complete.methods, help="The loss: a method of the kind `loss`."),
    ] = "divergence",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", autocompletion=complete.settings, help="A parameter of --method; repeatable."
        ),
    ] = None,
    rate: Annotated[
        str, typer.Option(metavar="RATE,...|auto", help="Learning rate; of several the best, each tried for a tenth.")
    ] = "auto",
    data: Annotated[
        str, typer.Option(metavar="FILE|NAME", help="Your own text: half of it to train on, half to judge by.")
    ] = "abstracts",
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Windows of 256 tokens in a batch.")] = 4,
    accumulate: Annotated[int, typer.Option(metavar="N", min=1, help="Batches in a step.")] = 1,
    tokens: Annotated[int, typer.Option(metavar="N", min=256, help="Tokens of held-out text to judge by.")] = 4096,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the order of the text.")] = 0,
    as_json: Json = False,
) -> None:
    """Teach a smaller or pruned model by a larger one.

    The student learns from the teacher's predictions and is written when it is done, the best one by validation text.
    Zeros of a pruned student stay. Killed, the same command goes on where it was.

      paperlab distill smollm2-135m ./pruned -o recovered --budget 30m --method squarehead-sparse-finetuning

      paperlab distill smollm2-135m smollm2-135m --blocks 20 -o shallow --budget 1h
    """
    from paperlab.cli.models import place
    from paperlab.core.methods import find_method, parse
    from paperlab.lab.compress import budget_of
    from paperlab.lab.distil import RATES, distil

    found = find_method(method)
    params = dict(parse(found, setting) for setting in settings or [])
    folders = [place(teacher), place(student)]
    with shown() as report:
        made = distil(
            folders[0], folders[1], out, method=found.slug, params=params, data=data, budget=budget_of(budget),
            rates=RATES if rate.strip() == "auto" else _rates(rate), keep_blocks=blocks, rows=rows,
            accumulate=accumulate, seed=seed, progress=report, say=note,
        )  # fmt: skip
    begun = 1 if blocks is not None else 2  # a student that was cut is nowhere on the disk as it began
    judged = _judged(folders[:begun], [teacher, student][:begun], out, data, tokens)
    if as_json:
        from dataclasses import asdict

        from paperlab.cli.text import write_json

        row = {**asdict(made), "folder": str(made.folder), "tried": {f"{r:g}": v for r, v in made.tried.items()}}
        return write_json([{**row, "judged": judged}])
    typer.echo(f"{out}: {made.says()}")
    for row in judged:
        typer.echo(f"  perplexity {row['said']}  {row['model']}")
    if (out / "distillation.svg").is_file():
        typer.echo(f"  plot: {out / 'distillation.svg'}")


def _rates(word: str) -> tuple[float, ...]:
    """1e-4 or 1e-4,3e-4. Raises Misuse."""
    try:
        rates = tuple(float(one) for one in word.split(","))
    except ValueError:
        rates = ()
    if not rates or min(rates) <= 0:
        raise Misuse(f"--rate {word}: a positive number such as 1e-4, several with commas between, or auto")
    return rates


def _judged(folders: list[Path], names: list[str], out: Path, data: str, tokens: int) -> list[dict[str, Any]]:
    """Perplexity of teacher, student and result on held-out text; [] where the engine cannot run one of them."""
    from paperlab.assets.texts import load_text, split_documents
    from paperlab.cli.merge import costs

    held_out = split_documents(load_text(data), "held-out")
    return costs(dict(zip(names, folders, strict=True)), out, held_out, data, tokens=tokens, what="distillation")
