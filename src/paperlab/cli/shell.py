"""What all commands share: errors as one line and an exit code, and the words that several of them take."""

import os
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import paperlab

SITE = (
    "django",
    "feedparser",
    "defusedxml",
    "filelock",
    "httpx2",
    "markdown_it",
    "nh3",
    "ninja",
    "psycopg",
    "uvicorn",
)  # what only the extra `site` brings
SERVE = ("prometheus_client", "starlette")  # and the extra `serve`
ENGINE = ("gguf", "jinja2", "numpy", "tokenizers")  # and `engine`, where `lab` would bring much more
UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer carries its own click, which is private


class Misuse(ValueError):
    """A word on the command line that is not one of those allowed; the message names them."""


def fail(message: str, code: int) -> typer.Exit:
    """Say what was wrong, in one line on standard error, and leave with `code`."""
    typer.echo(f"paperlab: {' '.join(message.split())}", err=True)
    return typer.Exit(code)


def _is_message(error: Exception) -> bool:
    """Whether an error was raised by paperlab to be read by its user; any other one is a fault and keeps its trace."""
    if isinstance(error, KeyError | IndexError | UnicodeError):
        return False
    if type(error).__module__.partition(".")[0] == "paperlab":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(paperlab.__file__).parent)
    return type(error) in (ValueError, LookupError, RuntimeError) and frames[-1].filename.startswith(ours)


class Group(TyperGroup):
    """Turns errors that are meant for the user into one line and an exit code: 2 for theirs, 1 for the machine's."""

    def invoke(self, ctx: Any) -> Any:
        """The command, with its errors told."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            at = getattr(error, "ctx", None) or ctx
            said = error.format_message().rstrip(".")  # type: ignore[attr-defined]
            raise fail(f"{said}; `{at.command_path} --help` shows what there is", 2) from error
        except KeyboardInterrupt:
            more = "; the same command with --resume goes on" if ctx.invoked_subcommand == "run" else ""
            raise fail(f"interrupted{more}", 130) from None
        except BrokenPipeError:
            raise
        except (ValueError, LookupError, RuntimeError) as error:
            if os.environ.get("PAPERLAB_TRACEBACK") or not _is_message(error):
                raise
            raise fail(str(error), 2) from error
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] == "paperlab":
                raise
            missing = error.name.partition(".")[0]
            extra = "site" if missing in SITE else "serve" if missing in SERVE else "lab"
            if missing in ENGINE and ctx.invoked_subcommand in ("chat", "export", "pack", "serve-model"):
                extra = "engine"
            said = f"this needs {error.name}, which is not installed: pip install 'paperlab[{extra}]'"
            raise fail(said, 2) from error
        except OSError as error:
            if os.environ.get("PAPERLAB_TRACEBACK"):
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise fail(f"{where}{error.strerror or error}", 1) from error


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
