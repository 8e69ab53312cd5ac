"""How much a command writes to standard error: `-q`, `-v`, and notes about its results."""

import gc
import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from paperlab.core import log

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes: results and errors only.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Log what happens; twice: in more detail."),
]


def set_level(quiet: bool, verbose: int) -> None:
    """Set PAPERLAB_LOG for this command and for the processes that it starts, where one of the options is given."""
    if quiet:
        os.environ[log.VARIABLE] = "ERROR"
    elif verbose:
        os.environ[log.VARIABLE] = "INFO" if verbose == 1 else "DEBUG"


def takes_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that works for long the options `-q` and `-v`, and write what it logs to standard error."""

    @wraps(command)
    def run(*, quiet: bool = False, verbose: int = 0, **given: Any) -> None:
        gc.enable()  # paperlab.__main__ disables it, for the sake of listings
        set_level(quiet, verbose)
        _log_to_stderr()
        command(**given)

    own = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (("quiet", False, Quiet), ("verbose", 0, Verbose))
    ]
    by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*by_name, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "quiet": Quiet, "verbose": Verbose}
    return run


def _log_to_stderr() -> None:
    """Write what the package logs to standard error, from the wanted level on. Other packages' warnings come anyway."""
    import logging

    package = log.logger("paperlab")
    package.setLevel(log.level())
    if all(isinstance(handler, logging.NullHandler) for handler in package.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        package.addHandler(handler)


def note(message: str) -> None:
    """A line on standard error about the results, unless `-q` is given."""
    if not log.quiet():
        typer.echo(message, err=True)
