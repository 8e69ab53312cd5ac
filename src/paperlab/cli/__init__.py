"""The command line. Commands are thin: each imports the room that does the work inside its function.

catalogue, lab, compress, distill, engine, merge, measure, site   the commands, by room
shell                          errors and exit codes, and options that several commands take
verbosity                      -q, -v, notes on standard error
complete                       what the shell may complete a word to
show, running, models, talk, text    what commands do and print, imported where one needs it
"""

from typing import Annotated

import typer

from paperlab.cli import catalogue, compress, distill, engine, lab, measure, merge, site
from paperlab.cli.shell import Group
from paperlab.cli.verbosity import Quiet, Verbose, set_level

app = typer.Typer(
    cls=Group,
    name="paperlab",
    help="Daily Papers you can run: follow papers, check their claims here, use their methods on your model.",
    epilog="More on a command: paperlab COMMAND --help. Data lives in PAPERLAB_HOME.",
    rich_markup_mode=None,  # rich costs more to import than the whole listing
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        import paperlab

        typer.echo(f"paperlab {paperlab.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    set_level(quiet, verbose)


for commands in (
    catalogue.commands, lab.commands, compress.commands, distill.commands, engine.commands, merge.commands,
    measure.commands, site.commands,
):  # fmt: skip
    app.add_typer(commands)


def main() -> None:
    """Run the command line as the program `paperlab`."""
    app(prog_name="paperlab")
