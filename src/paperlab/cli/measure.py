"""`paperlab eval`: models beside their source on the same text, as a table, JSON or a page."""

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paperlab.cli.engine import ActivationBits, CacheBits, Threads
from paperlab.cli.models import TEXT, WORSE, place
from paperlab.cli.progress import progress
from paperlab.cli.shell import Failure, Json, Misuse
from paperlab.cli.verbosity import note, takes_verbosity
from paperlab.core.install import MissingExtra
from paperlab.core.words import megabytes, number, percent, span

if TYPE_CHECKING:
    from paperlab.core.figures import Value
    from paperlab.engine.harness import Score
    from paperlab.engine.measure import Comparison, Measured

commands = typer.Typer()

DROP = ("KL p99", "bits/weight", "scored tok/s", "bits/byte", "generated tok/s", "flips", "MB")  # on a narrow terminal


@commands.command("eval")
@takes_verbosity
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Folders (packed or not), .gguf files, registered names, hub ids: one or more."
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="The model that they were made from; else the first MODEL."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(metavar="FILE|NAME", help="A .txt or .jsonl file, or a text by name (its held-out part)."),
    ] = TEXT,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens of text; else 4,096, for encoders 16,384, less if it is short."),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Tokens that are read together; else 256, for encoders 64."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Exit with 1 if a perplexity is worse than the source's by more, e.g. 2%, surely."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Tasks of lm-evaluation-harness to run too, such as arc_easy."),
    ] = None,
    tasks_from: Annotated[
        Path | None,
        typer.Option(
            "--tasks-from",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Take tasks from this folder of YAML files instead.",
        ),
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", metavar="N", min=1, help="Questions of each task; else all.")
    ] = None,
    cache_bits: CacheBits = 32,
    activation_bits: ActivationBits = 16,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write a page (.html) or figures (.json) too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare models with their source on the same text."""
    from paperlab.assets.texts import load_text, split_documents
    from paperlab.cli.text import write_json
    from paperlab.engine import measure

    if tasks and importlib.util.find_spec("lm_eval") is None:  # said before the work
        raise MissingExtra("lm_eval", "tasks")
    limit = WORSE if within is None else _share(within)
    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise Misuse(f"-o {out}: the name ends in .html for a page or .json for figures")
    if out is not None and not out.absolute().parent.is_dir():
        raise Misuse(f"-o {out}: there is no folder {out.parent}; make it first")
    text = load_text(data)
    documents = split_documents(text, "held-out") if text.source.startswith(("paperlab", "package")) else text.documents
    named = [against, *models] if against else models
    places = [place(model) for model in named]
    if against is None and len(models) > 1:
        note(
            f"compared with {models[0]}, the first one: a model does not say what it was made from; --against names it"
        )
    how: dict[str, Any] = {"cache_bits": cache_bits, "activation_bits": activation_bits, "threads": threads}
    with progress("eval", "steps") as report:
        found = measure.compare(
            places[0], places[1:], documents, tokens=tokens, window=window,
            encoders=within is None, progress=lambda done, total: report("", done, total), **how,
        )  # fmt: skip
    answered = []
    if tasks:
        from paperlab.engine.harness import scores

        chosen = [name.strip() for name in tasks.split(",") if name.strip()]
        answered = scores(places[0], places[1:], chosen, folder=tasks_from, limit=questions, **how)
    named_rows = list(zip(named, (found.source, *found.models), strict=True))
    rows = [_row(name, one, source=i == 0) for i, (name, one) in enumerate(named_rows)]
    for row, given in zip(rows, answered, strict=False):
        row["tasks"] = [_task_row(score) for score in given]
    beyond = [name for name, one in named_rows[1:] if one.worse_than(limit)]
    remarks = _remarks(found, named, limit, gate=within is not None)
    settings = {
        "kind": found.kind,
        "data": text.describe() | {"part": "all" if documents is text.documents else "held-out"},
        "items": found.items,
        "window": found.window,
        "tokens": found.tokens,
        **how,
    }
    if out is not None:
        _write(out, found, settings, named, rows, remarks)
    if as_json:
        write_json(rows)
    else:
        typer.echo(_said(found, named, text.id))
        if answered:
            typer.echo(f"\n{_tasks_said(named, answered)}")
    for remark in remarks:
        note(remark)
    if out is not None:
        note(f"written: {out}")
    if within is not None and beyond:
        raise Failure(f"worse than {named[0]} by more than {limit * 100:g} %: {', '.join(beyond)}", 1, "problems")


def _share(word: str) -> float:
    """2%, 2 % or 0.02 as 0.02. Raises Misuse."""
    plain = word.strip()
    try:
        share = float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise Misuse(f"--within {word}: give a share below 1 or a percentage, such as 2%")
    return share


def _row(name: str, one: "Measured", *, source: bool) -> dict[str, Any]:
    """A model as a flat object; what does not apply is null."""
    flat: dict[str, Any] = {
        "model": name,
        "source": source,
        "bytes": one.bytes,
        "bits_per_weight": one.bits_per_weight,
        "same_tokens": one.same_tokens,
        "kl_p99": one.kl_p99,
        "scoring_tokens_per_second": one.scoring,
        "generating_tokens_per_second": one.generating,
    }
    for key in ("perplexity", "change", "kl", "flips", "bits_per_byte", "cosine", "neighbours"):
        value: Value = getattr(one, key)
        flat |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
    return flat


def _task_row(score: "Score") -> dict[str, Any]:
    flat: dict[str, Any] = {"task": score.task, "metric": score.metric, "flips": score.flips}
    for key in ("value", "change"):
        value: Value = getattr(score, key)
        flat |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
    return flat


def _tasks_said(named: list[str], answered: "list[list[Score]]") -> str:
    """The tasks' table: what the harness scored, relative to the source and paired by question."""
    from paperlab.cli import text

    rows = [
        [
            name,
            score.task,
            score.metric,
            _with_ends(score.value),
            _with_ends(score.change, percent),
            _plain(score.flips),
            f"{score.value.n:,}",
        ]
        for name, scored in zip(named, answered, strict=True)
        for score in scored
    ]
    headers = ["model", "task", "metric", "value", "change", "flips", "questions"]
    return text.table(headers, rows, fit=text.width(), drop=("questions", "flips"))


def _remarks(found: "Comparison", named: list[str], limit: float, *, gate: bool) -> list[str]:
    """What the figures do not say by themselves: warnings, and what could not be compared."""
    remarks, most = [], f"{limit * 100:g} %"
    for name, one in zip(named[1:], found.models, strict=True):
        change = f"{percent(one.change.value)} {span(one.change.low, one.change.high, percent)}"
        if one.worse_than(limit):
            remarks.append(f"warning: {name} is worse than {named[0]} by more than {most}: perplexity {change}")
        elif gate and one.change.high > limit:
            remarks.append(
                f"undecided: the perplexity of {name} may be worse by more than {most} ({change}); more --tokens"
            )
        if not one.same_tokens and found.kind == "language":
            remarks.append(
                f"{name} has another tokenizer than {named[0]}: no KL and no flips; bits per byte are compared, and "
                "perplexity is per token of the source"
            )
    return remarks


def _cells(found: "Comparison", named: list[str]) -> tuple[list[str], list[list[str]]]:
    """The table of the terminal and of the page: columns that apply to some model."""
    columns: list[tuple[str, Callable[[Measured], str]]] = [
        ("MB", lambda one: megabytes(one.bytes)),
        ("bits/weight", lambda one: number(one.bits_per_weight)),
        ("perplexity", lambda one: _with_ends(one.perplexity)),
        ("change", lambda one: _with_ends(one.change, percent)),
        ("bits/byte", lambda one: _with_ends(one.bits_per_byte)),
        ("KL, nats/token", lambda one: _with_ends(one.kl)),
        ("KL p99", lambda one: number(one.kl_p99)),
        ("flips", lambda one: _with_ends(one.flips, _plain)),
        ("cosine", lambda one: _with_ends(one.cosine)),
        ("same neighbours", lambda one: _with_ends(one.neighbours, _plain)),
        ("scored tok/s", lambda one: _speed(one.scoring)),
        ("generated tok/s", lambda one: _speed(one.generating)),
    ]
    rows = [[name, *(cell(one) for _, cell in columns)]
            for name, one in zip(named, (found.source, *found.models), strict=True)]  # fmt: skip
    kept = [0, *(i for i in range(1, len(columns) + 1) if any(row[i] != "–" for row in rows))]
    return [("model", *(name for name, _ in columns))[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _plain(share: float) -> str:
    return percent(share, sign=False)


def _with_ends(value: "Value", write: Callable[[float], str] = number) -> str:
    return f"{write(value.value)} {span(value.low, value.high, write)}".strip()


def _speed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _said(found: "Comparison", named: list[str], text_id: str) -> str:
    from paperlab.cli import text

    headers, rows = _cells(found, named)
    return f"{text.table(headers, rows, fit=text.width(), drop=DROP)}\n\n{text.wrap(_about(found, named, text_id), '')}"


def _about(found: "Comparison", named: list[str], text_id: str) -> str:
    """What was compared, on what, and what the columns are."""
    against = f"Compared with {named[0]} on" if len(named) > 1 else "On"
    if found.kind == "encoder":
        return (
            f"{against} {found.items} texts of {text_id}, of at most {found.window} tokens. Cosine: of a text's two "
            "vectors. Same neighbours: of a text's ten nearest, the share that stays. Brackets: 95 % intervals."
        )
    return (
        f"{against} {found.tokens:,} tokens of {text_id}, {found.items} windows of {found.window}. Change: of "
        "perplexity. KL: from the source's predictions. Flips: tokens at which another next one is the likeliest. "
        "Brackets: 95 % intervals, windows paired."
    )


def _write(
    out: Path, found: "Comparison", settings: dict[str, Any], named: list[str], rows: list[dict], remarks: list[str]
) -> None:
    from paperlab.cli.text import _finite
    from paperlab.core.files import write_atomically

    if out.suffix.lower() == ".json":
        content = json.dumps({**settings, "models": _finite(rows), "remarks": remarks}, ensure_ascii=False, indent=1)
        return write_atomically(out, f"{content}\n".encode())
    from markupsafe import Markup

    from paperlab.lab.pages import page

    headers, cells = _cells(found, named)
    drawn = [chart for chart in _charts(found, named) if chart]
    content = page(
        "eval.html",
        title=f"paperlab eval: {', '.join(named[1:] or named)}",
        source=named[0],
        about=_about(found, named, settings["data"]["id"]),
        remarks=remarks,
        headers=headers,
        rows=cells,
        plots=[{"svg": Markup(chart.inline(f"plot-{i}")), "title": chart.title, "note": chart.note}
               for i, chart in enumerate(drawn)],
        settings=[("text", f"{settings['data']['source']} ({settings['data']['part']})"),
                  ("its sha256", settings["data"]["sha256"]),
                  ("cache", f"{settings['cache_bits']} bits"),
                  ("activations", f"{settings['activation_bits']} bits")],
    )  # fmt: skip
    write_atomically(out, content.encode())


def _charts(found: "Comparison", named: list[str]) -> Iterator[Any]:
    """Perplexity against size and against the time of a generated token."""
    from paperlab.core.charts import Spot, pareto

    both = [found.source, *found.models]
    for cost, of in (("MB", lambda one: one.bytes / 1e6), ("ms per generated token", lambda one: 1e3 / one.generating)):
        at = [(of(one), one.perplexity.value) for one in both]
        spots = [
            Spot(
                name,
                x,
                y,
                one.perplexity.low,
                one.perplexity.high,
                f"#model-{i}",
                i > 0 and not any(a <= x and b <= y and (a, b) != (x, y) for a, b in at[1:]),
                reference=i == 0,
            )
            for i, (name, one, (x, y)) in enumerate(zip(named, both, at, strict=True))
        ]
        if len(both) > 1:
            yield pareto(spots, cost=cost, quality="perplexity", better="lower")
