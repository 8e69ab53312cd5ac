"""How this copy of paperlab was installed, and the commands that bring what it lacks.

The distribution is `paperlab-daily`: the name `paperlab` on PyPI belongs to somebody else's package. The import name
and the command are `paperlab`. Every hint for a missing package comes from here, so that it works where it is printed.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DISTRIBUTION = "paperlab-daily"
ENGINE = "paperlab-engine"  # the compiled part, native/
SUMMARY = "Daily Papers you can run"  # how the summary of every distribution of ours begins, under either name

# Which extra brings a module. Where several do, the one of the room that asked is named, else the first.
EXTRAS: dict[str, tuple[str, ...]] = {
    "defusedxml": ("site",),
    "django": ("site",),
    "faiss": ("site",),
    "feedparser": ("site",),
    "filelock": ("site",),
    "gguf": ("lab", "engine"),
    "httpx2": ("site",),
    "huggingface_hub": ("site",),
    "jinja2": ("lab", "engine", "serve"),
    "lm_eval": ("tasks",),
    "markdown_it": ("site",),
    "markupsafe": ("lab",),
    "math_core": ("site",),
    "mcp": ("mcp",),
    "nh3": ("site",),
    "ninja": ("site",),  # of django-ninja; the build tool of this name is not imported
    "numpy": ("lab", "engine", "serve", "site"),
    "openvino": ("site",),
    "PIL": ("site",),
    "prometheus_client": ("serve",),
    "psutil": ("lab",),
    "psycopg": ("postgres",),
    "psycopg_pool": ("postgres",),
    "pymilvus": ("milvus",),
    "rapidfuzz": ("site",),
    "resvg_py": ("png",),
    "safetensors": ("lab",),
    "sklearn": ("lab",),
    "starlette": ("serve",),
    "tantivy": ("site",),
    "tokenizers": ("lab", "engine", "serve", "site"),
    "torch": ("lab",),
    "transformers": ("lab",),
    "uvicorn": ("site", "serve"),
}


class MissingExtra(ImportError):
    """A package is not installed; the message names the extra that brings it and the command that works here.

    name: the missing module, as of any ImportError. extra: what brings it.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"this needs {module}, which is not installed: {hint(extra)}", name=module)
        self.extra = extra


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Raise MissingExtra in place of the ModuleNotFoundError of a third-party package inside this context.

    extra: of the room that asks; the one named is another where this one does not bring the module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "paperlab":
            raise
        raise MissingExtra(error.name, extra_of(error.name, extra)) from error


def extra_of(module: str, asking: str = "lab") -> str:
    """The extra that brings a module: `asking`, the one of the room that needs it, unless only another has it."""
    known = EXTRAS.get(module.partition(".")[0], (asking,))
    return asking if asking in known else known[0]


def hint(extra: str) -> str:
    """The command that installs an extra here: from the checkout that this code lies in, else by name."""
    root = checkout()
    if root is not None:
        return f"{_pip()} -e {shlex.quote(f'{root}[{extra}]')}"
    return f"{_pip()} '{DISTRIBUTION}[{extra}]'"


def engine_hint() -> str:
    """The command that installs the compiled part of the engine here."""
    root = checkout()
    what = shlex.quote(str(root / "native")) if root is not None else ENGINE
    return f"{_pip()} {what} (needs a C++ compiler)"


def reinstall_hint() -> str:
    """The command that writes paperlab's own files and its command again, over what another package left there."""
    root = checkout()
    what = f"-e {shlex.quote(str(root))}" if root is not None else DISTRIBUTION
    return f"{_pip()} --force-reinstall --no-deps {what}"


def _pip() -> str:
    return f"{shlex.quote(sys.executable or 'python3')} -m pip install"


def checkout() -> Path | None:
    """The folder of the source checkout that this code lies in; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "src" / "paperlab").is_dir() and (root / "pyproject.toml").is_file() else None


def version() -> str:
    """The version of paperlab: of the installed distribution, else of the checkout, else "unknown"."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(DISTRIBUTION)
    except PackageNotFoundError:
        return str(_project().get("version", "unknown"))


def requirements() -> dict[str, list[str]]:
    """The requirements of each extra, as the installed distribution states them, else as the checkout does."""
    import re
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return dict(_project().get("optional-dependencies", {}))
    found: dict[str, list[str]] = {}
    for line in lines:
        if match := re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", line):
            found.setdefault(match[1], []).append(line.partition(";")[0].strip())
    return found


def _project() -> dict[str, Any]:
    """The table [project] of the checkout's pyproject.toml; empty for an installed package."""
    root = checkout()
    if root is None:
        return {}
    import tomllib

    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def other_paperlab() -> tuple[str, bool] | None:
    """(version, whether it is ours) of an installed distribution called `paperlab`; None where there is none.

    Ours is one from before the distribution was renamed; any other is somebody else's package, whose files and command
    overwrite these.
    """
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        about = metadata("paperlab")
    except PackageNotFoundError:
        return None
    return about["Version"], (about["Summary"] or "").startswith(SUMMARY)
