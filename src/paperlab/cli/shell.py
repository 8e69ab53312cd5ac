"""What all commands share: errors as one line or one JSON object with an exit code, and options several of them take.

Exit codes: 1 the machine's fault, or a problem that was looked for; 2 something to correct in the command; 130 stopped.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import paperlab
from paperlab.core import log

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer carries its own click, which is private
Kind = str  # misuse, unknown, missing-extra, machine, problems, interrupted, bug
JSON = "paperlab.json"  # key in a context's `meta`: whether --json is on the command line

# The extra whose packages a command needs; all others need `lab`.
EXTRA_OF_COMMAND = {
    "pack": "engine",
    "eval": "engine",
    "export": "engine",
    "chat": "engine",
    "serve-model": "serve",
    "search": "site",
    "index": "site",
    "fetch": "site",
    "import": "site",
    "up": "site",
    "digest": "site",
    "mcp": "mcp",
}


class Misuse(ValueError):
    """A word on the command line that is not one of those allowed; the message names them."""


class Failure(Exception):
    """A command's end with an exit code and a reason, for what is neither misuse nor an exception of the work."""

    def __init__(self, message: str, code: int, kind: Kind) -> None:
        super().__init__(message)
        self.code, self.kind = code, kind


class Group(TyperGroup):
    """The commands, with every error that is meant for the user as one line, or one object, and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The options before the command's name."""
        words = args[: args.index("--")] if "--" in args else args
        ctx.meta[JSON] = "--json" in words
        before = os.environ.get(log.VARIABLE)  # -q and -v last as long as the command
        ctx.call_on_close(lambda: _restore(before))
        if not args or ctx.resilient_parsing:  # help, or completion
            return super().parse_args(ctx, args)
        with _reported(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """The command."""
        with _reported(ctx):
            return super().invoke(ctx)


def _restore(level: str | None) -> None:
    if level is None:
        os.environ.pop(log.VARIABLE, None)
    else:
        os.environ[log.VARIABLE] = level


@contextmanager
def _reported(ctx: Any) -> Iterator[None]:
    """Turn an error into a message and an exit code. A fault of ours keeps its trace."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        more = "; the same command with --resume goes on" if ctx.invoked_subcommand == "run" else ""
        raise _end(ctx, f"interrupted{more}", 130, "interrupted") from None
    except Exception as error:
        known = _explained(ctx, error)
        traced = os.environ.get("PAPERLAB_TRACEBACK") and not isinstance(error, UsageError | Failure)
        if known is None or traced:
            if not ctx.meta[JSON] or traced:
                raise
            import traceback

            known = f"{type(error).__name__}: {error}\n{traceback.format_exc()}", 1, "bug"
        raise _end(ctx, *known) from error


def _explained(ctx: Any, error: Exception) -> tuple[str, int, Kind] | None:
    """(message, exit code, kind) of an error that its user can act on; None for a fault of ours."""
    from paperlab.core.install import MissingExtra, extra_of

    if isinstance(error, Failure):
        return str(error), error.code, error.kind
    if isinstance(error, UsageError):
        at = getattr(error, "ctx", None) or ctx
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return f"{message}; `{at.command_path} --help` lists what is allowed", 2, "misuse"
    if isinstance(error, MissingExtra):
        return str(error), 2, "missing-extra"
    if isinstance(error, ImportError):
        if error.name is None or error.name.partition(".")[0] == "paperlab":
            return None
        extra = extra_of(error.name, EXTRA_OF_COMMAND.get(ctx.invoked_subcommand, "lab"))
        return str(MissingExtra(error.name, extra)), 2, "missing-extra"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", 1, "machine"
    if isinstance(error, ValueError | LookupError | RuntimeError) and _is_message(error):
        return str(error), 2, "unknown" if isinstance(error, LookupError) else "misuse"
    return None


def _is_message(error: Exception) -> bool:
    """Whether an error was raised by paperlab to be read by its user; any other one is a fault and keeps its trace."""
    if isinstance(error, KeyError | IndexError | UnicodeError):
        return False
    if type(error).__module__.partition(".")[0] == "paperlab":
        return True
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(paperlab.__file__)
    return type(error) in (ValueError, LookupError, RuntimeError) and frames[-1].filename.startswith(ours)


def _end(ctx: Any, message: str, code: int, kind: str) -> typer.Exit:
    """Write the error to standard error, as one line or with --json as one object, and give the exit."""
    if ctx.meta[JSON]:
        import json

        typer.echo(json.dumps({"error": message.strip(), "code": code, "kind": kind}, ensure_ascii=False), err=True)
    else:
        typer.echo(f"paperlab: {' '.join(message.split())}", err=True)
    return typer.Exit(code)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON array of objects and nothing else.")]


def one_of(value: str | None, what: str, allowed: tuple[str, ...]) -> str | None:
    """`value` as it is written in `allowed`, ignoring case and "_". Raises Misuse with near names."""
    if value is None:
        return None
    plain = value.strip().lower().replace("_", "-").replace(" ", "-")
    for word in allowed:
        if word.replace("_", "-").replace(" ", "-") == plain:
            return word
    import difflib

    near = difflib.get_close_matches(plain, allowed, n=3, cutoff=0.5) or allowed
    raise Misuse(f"no {what} {value!r}; one of: {', '.join(near)}")


def checked(slug: str) -> list[str]:
    """The method files whose checks test this paper."""
    from paperlab.core.methods import methods

    return [method.slug for method in methods().values() if method.card.paper == slug and method.card.checks]
