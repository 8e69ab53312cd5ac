"""Commands that run checks and print their verdicts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paperlab.cli import complete
from paperlab.cli.shell import Failure, Json, Misuse, checked, one_of
from paperlab.cli.verbosity import note, takes_verbosity

if TYPE_CHECKING:
    from paperlab.core.record import Record

commands = typer.Typer()


@commands.command()
@takes_verbosity
def run(
    slug: Annotated[
        str | None,
        typer.Argument(
            metavar="SLUG|FAMILY",
            autocompletion=complete.runnable,
            help="The paper or method whose checks to run, or a family.",
        ),
    ] = None,
    claim: Annotated[
        str | None, typer.Option(metavar="NAME", autocompletion=complete.claims, help="Only the check of this name.")
    ] = None,
    scale: Annotated[
        Literal["quick", "full"], typer.Option(metavar="quick|full", help="quick: minutes; full: up to half an hour.")
    ] = "quick",
    model: Annotated[
        str | None, typer.Option(metavar="DIR|ID", help="A model folder or Hugging Face id instead of the defaults.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A text file, or a text by name, instead of the default.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", autocompletion=complete.settings, help="A parameter. Repeatable."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of seeds, if the task uses seeds.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, envvar="PAPERLAB_JOBS", help="Number of processes, one thread each; else one per core."
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster to run on: ray://HOST:PORT, auto, or local to try it."),
    ] = None,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Repeat the checks whose verdict is outdated: of SLUG|FAMILY, or all.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="PAPERLAB_EVENTS", help="Append the progress to this file as JSON lines."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a paper's checks: its method against its baseline.

    quick takes minutes, and says at its start how many. Models and texts are fetched once, 200 MB at most.
    """
    from paperlab.cli import running
    from paperlab.core.methods import find_method, methods, parse

    families = {method.card.family for method in methods().values()}
    if outdated or (slug is not None and slug in families):
        if claim or settings or (outdated and (model or data or seeds)):
            raise Misuse("--claim, --set and the like belong to the checks of one paper: name it, without --outdated")
        if outdated:
            what = slug if slug is None or slug in families else _method_slug(slug)
            records = running.run_outdated(what, resume=resume, jobs=jobs, on=on, events=events)
        else:
            assert slug is not None
            more: dict[str, Any] = {
                "model": model,
                "data": data,
                "seeds": seeds,
                "resume": resume,
                "jobs": jobs,
                "on": on,
                "events": events,
            }
            records = running.run_family(slug, scale=scale, **more)
        return _end(records, as_json)
    if slug is None:
        raise Misuse("name a paper, a method or a family, or say --outdated; `paperlab papers --runnable` lists them")
    method = find_method(_method_slug(slug))
    if not method.card.checks:
        raise Misuse(f"{method.slug} is a baseline: it has no checks of its own; `paperlab compare` shows it")
    claims = tuple(check.claim for check in method.card.checks)
    claim = one_of(claim, f"claim of {method.slug}", claims)
    params = dict(parse(method, setting) for setting in settings or [])

    records = running.run(
        method.slug, claim=claim, scale=scale, model=model, data=data, params=params, seeds=seeds, resume=resume,
        jobs=jobs, on=on, events=events,
    )  # fmt: skip
    _end(records, as_json)


def _end(records: "list[Record]", as_json: bool) -> None:
    """Print what a run came to; exit status 1 where a check ended in an error."""
    from paperlab.cli import running

    running.print_records(records, as_json=as_json)
    if broken := [record for record in records if record.status != "finished"]:
        names = ", ".join(f"{record.check.claim} on {record.model}" for record in broken)
        note(f"ended in an error: {names}")
        raise typer.Exit(1)


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


@commands.command()
@takes_verbosity
def forget(
    what: Annotated[
        list[str], typer.Argument(metavar="SLUG|ID", help="Records by their id, or all of a method's own runs here.")
    ],
    claim: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of the check of this name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Delete records of your own runs. Those that came with paperlab stay."""
    from paperlab.cli import text
    from paperlab.core import record as records
    from paperlab.core.published import publish

    own = [one for one in records.read((records.records_folder(),)) if claim in (None, one.check.claim)]
    chosen = [one for one in own if {one.id, one.method, one.paper} & {word.replace("_", "-") for word in what}]
    if not chosen:
        raise Misuse(f"no run of yours is called {' or '.join(what)}{f' with the check {claim}' if claim else ''}; "
                     "`paperlab show SLUG --json` has the ids of records")  # fmt: skip
    rows = [
        {"id": one.id, "method": one.method, "claim": one.check.claim, "model": one.model, "finished": one.finished}
        for one in chosen
    ]
    if not as_json:
        for row in rows:
            typer.echo(f"{row['id']}  {row['method']} / {row['claim']} on {row['model']}, {row['finished']}")
    if not yes and not typer.confirm(f"Delete {_records(len(rows))} for good?", err=True):
        raise Failure("nothing was deleted", 1, "interrupted")
    records.remove({one.id for one in chosen})
    publish()
    text.write_json(rows) if as_json else note(f"{_records(len(rows))} deleted")


def _method_slug(name: str) -> str:
    """The method file behind a method's slug, a paper's slug or an arXiv id. Raises LookupError saying what to do."""
    from paperlab.core.methods import UnknownMethod, find_method

    try:
        return find_method(name).slug
    except UnknownMethod as unknown:
        from paperlab.core.paper import UnknownPaper, find_paper

        try:
            paper = find_paper(name)
        except UnknownPaper:
            raise unknown from None
        behind = checked(paper.slug)
        if behind:
            return behind[0]
        why = paper.why_not or "its check is planned, not written"
        raise UnknownMethod(f"{paper.slug} cannot be run: {why}; `paperlab papers --runnable` lists what can") from None


Png = Annotated[bool, typer.Option("--png", help="Draw the charts as PNG too.")]


@commands.command()
@takes_verbosity
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="FAMILY|SLUGS", autocompletion=complete.families_and_methods, help="A family, or methods by slug."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR|FILE", help="Folder for page, table and charts; or one .svg or .png."),
    ] = None,
    png: Png = False,
    as_json: Json = False,
) -> None:
    """Compare methods: quality against bytes and seconds."""
    names = _families_or_methods(what)

    from rich.console import Console

    from paperlab.cli import text
    from paperlab.lab.report import compare as draw

    # Without a terminal rich assumes 80 columns and folds; a file has room.
    console = Console(stderr=as_json, width=text.width() or 160, highlight=False)
    page = draw(names, out or _reports(), console=console, png=png)
    note(f"drawn in {page}")
    if as_json:
        text.write_json(text.read_csv(page.with_suffix(".csv")))


@commands.command()
@takes_verbosity
def report(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FAMILY|SLUGS",
            autocompletion=complete.families_and_methods,
            help="Only these, on one page; else all families.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR|FILE", help="Folder or HTML file; or .svg or .png for one method."),
    ] = None,
    png: Png = False,
    as_json: Json = False,
) -> None:
    """Write an HTML page for each family, and an index."""
    names = _families_or_methods(what or [])

    from paperlab.cli.text import write_json
    from paperlab.lab.report import report as write

    pages = write(out or _reports(), names=names, png=png)
    if as_json:
        return write_json([{"page": str(page)} for page in pages])
    typer.echo(pages[0])


def _families_or_methods(names: list[str]) -> list[str]:
    """Families as they are, everything else as the slug of a method; each once. Raises LookupError."""
    from paperlab.core.methods import methods as cards

    families = {method.card.family for method in cards().values()}
    found = [name if name.lower().replace("_", "-") in families else _method_slug(name) for name in names]
    return list(dict.fromkeys(found))


def _reports() -> Path:
    from paperlab.core.home import home

    return home() / "reports"


@commands.command()
@takes_verbosity
def verify(as_json: Json = False) -> None:
    """Recompute every verdict from the samples of its record."""
    from paperlab.cli import text
    from paperlab.core.published import publish
    from paperlab.core.standings import outdated_of, standings
    from paperlab.core.verify import verify as check_all

    publish()
    count, problems = check_all()
    if as_json:
        text.write_json([{"problem": problem} for problem in problems])
    for problem in problems if not as_json else ():
        typer.echo(problem, err=True)
    if problems:
        raise Failure(f"{len(problems)} problems in {count} records", 1, "problems")
    done = text.wrap(f"{count} records: every verdict follows from its samples", "")
    now = standings().current
    if outdated := sum(bool(outdated_of(row.id)) for row in now):
        again = f"{outdated} of {len(now)} current verdicts are outdated; `paperlab run --outdated` repeats them"
        done += "\n" + text.wrap(again, "")
    note(done) if as_json else typer.echo(done)


@commands.command()
def doctor(as_json: Json = False) -> None:
    """List what this machine has, and what to install."""
    from paperlab.cli import text
    from paperlab.lab.doctor import findings
    from paperlab.site.commands.fetched import findings as fetched

    rows = [*findings(), *fetched()]
    if as_json:
        return text.write_json(rows)
    narrow = (text.width() or 80) < 70  # then the value is printed below its name
    indent = " " * (4 if narrow else 22)
    for row in rows:
        mark = {True: "ok", False: "--", None: "  "}[row["ok"]]
        if narrow:
            typer.echo(f"{mark}  {row['name']}")
        first = indent if narrow else f"{mark}  {row['name']:<17} "
        typer.echo(text.wrap(row["value"], indent, first=first))
        if row["advice"]:
            typer.echo(text.wrap(row["advice"], indent + "  ", first=f"{indent}> "))
