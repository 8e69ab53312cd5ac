"""Commands of the site: papers that come in, pages that go out."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from paperlab.cli.shell import Failure, Json, Misuse
from paperlab.cli.verbosity import note, takes_verbosity

commands = typer.Typer()


@commands.command()
@takes_verbosity
def fetch(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="daily, oai[:SET], arxiv:IDS, arxiv:QUERY, feed:ADDRESS."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="From this day, YYYY-MM-DD; else from where it stopped.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="Up to this day; else today.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch papers from outside: `daily` and `oai:cs` by default."""
    from paperlab.site.commands import ingest

    _print_counts(ingest.fetch(sources or [], since, until), as_json)


@commands.command("import")
@takes_verbosity
def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="The file, which may be compressed; - is standard input.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="listing, jsonl, json, arxiv-api, arxiv-oai or feed; else detected."
        ),
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="DAY", help="When a page was saved: its dates without a year get that year.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import papers from a file: a saved listing, JSON, a feed."""
    from paperlab.site.commands import ingest

    _print_counts(ingest.import_file(file, form, date), as_json)


def _print_counts(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print how many papers each source brought; one that failed makes the exit status 1."""
    from paperlab.cli.text import write_json
    from paperlab.site.commands.ingest import sentence

    if as_json:
        write_json(rows)
    for row in rows if len(rows) != 2 else rows[:1]:
        if not as_json or "error" in row:
            typer.echo(sentence(row), err="error" in row)
    if any("error" in row for row in rows):
        raise typer.Exit(1)


@commands.command()
@takes_verbosity
def up(
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on: 0.0.0.0 is open to everybody.")
    ] = "127.0.0.1",
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="How many processes serve the site.")] = 1,
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="For a site open to others: first check what it needs, and list what is missing."
        ),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="With --public: only check.")] = False,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask for no token: every user of this machine is the site's owner.")
    ] = False,
) -> None:
    """Start the site, its API and the worker; ctrl-C stops them."""
    from paperlab.site.commands.up import up as start

    if check and not public:
        raise Misuse("--check checks the needs of a public site: give --public too")
    if no_token:
        if public:
            raise Misuse("--no-token is for a private site; on a public one people sign in")
        os.environ["PAPERLAB_TOKEN"] = "off"
    if public:
        from paperlab.site.commands import public as requirements

        results = requirements.check(host)
        for one in results:
            mark = "ok" if one.ok else "--" if one.needed else "? "
            typer.echo(f"{mark}  {one.name}: {one.value}{'; ' + one.advice if one.advice else ''}", err=not check)
        if any(one.needed and not one.ok for one in results):
            raise Failure("not ready to be public yet; docs/howto/run_the_site.md explains how", 2, "problems")
        if check:
            return

    start(host, port, workers, note)


@commands.command()
@takes_verbosity
def digest(
    date: Annotated[
        str | None, typer.Option(metavar="DAY", help="Send the digests of this day, YYYY-MM-DD; else of yesterday.")
    ] = None,
    to_file: Annotated[
        Path | None,
        typer.Option("--to-file", metavar="DIR", help="Write the e-mails to this folder; nothing is sent or recorded."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the recipients.")] = False,
    bounce: Annotated[
        bool, typer.Option("--bounce", help="Read a delivery report on standard input: stop writing to that address.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send the digests of a day that were not sent yet."""
    from paperlab.cli.text import write_json
    from paperlab.site.commands import digest as command

    if bounce:
        import sys

        rows = command.bounced(sys.stdin.buffer.read(1_000_000))
        if as_json:
            return write_json(rows)
        for one in rows:
            left = "not subscribed, or no e-mail of this site comes back with the report"
            typer.echo(f"{one['address']}: {'no more e-mail to it' if one['subscribed'] else left}")
        return
    row = command.run(date, to_file, dry_run)
    failed = row["refused"] > 0 and not row["sent"]
    if as_json:
        write_json([row])
    else:
        typer.echo(command.sentence(row, dry=dry_run), err=failed)
    if failed:
        raise typer.Exit(1)


@commands.command()
@takes_verbosity
def mcp() -> None:
    """Answer an agent on standard input (Model Context Protocol)."""
    from paperlab.site.start import start

    start()
    from paperlab.site.agents.server import server

    server().run("stdio")
