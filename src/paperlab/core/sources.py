"""Which code a result rests on: the hash of every file that took part in making an arm.

A verdict is outdated once one of them has changed. What counts is code: comments, docstrings, blank lines and cards
(whose checks have a hash of their own) do not, so that a corrected sentence outdates nothing.
"""

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from paperlab.core.acts import acts
from paperlab.core.card import Arm
from paperlab.core.files import write_atomically
from paperlab.core.home import home
from paperlab.core.methods import Method, find_method
from paperlab.core.parsing import syntax_tree
from paperlab.core.task import TASKS, constants

PACKAGE = Path(__file__).resolve().parent.parent
ROOMS = ("kit", "tasks", "methods", "lab/drivers")  # of paperlab: whose code decides the samples of an arm
FORM = 1  # raised when `significant` changes


def significant(source: str) -> str:
    """The code of a Python file without comments, docstrings, blank lines and its CARD."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    dropped: set[int] = set()
    tree = syntax_tree(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                dropped |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["CARD"]:
            dropped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = (line.rstrip() for number, line in enumerate(lines, 1) if number not in dropped)
    return "\n".join(line for line in kept if line)


def imported(source: str) -> tuple[str, ...]:
    """Modules of paperlab that a file imports, also inside functions; `from paperlab.kit import x` names both."""
    found: set[str] = set()
    for node in ast.walk(syntax_tree(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(sorted(name for name in found if name.startswith("paperlab.")))


class _Index:
    """Hash and imports of files by path, size and time of change, kept in the user's cache between processes."""

    def __init__(self) -> None:
        self.file = home() / "cache" / "sources.json"
        self.rows: dict[str, list[object]] = {}
        self.changed = False
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self.file.read_bytes())
            if stored["form"] == FORM:
                self.rows = stored["files"]

    def read(self, path: Path) -> tuple[str, tuple[str, ...]]:
        """(hash, imports) of a file. Raises OSError where it cannot be read."""
        stat = path.stat()
        mark = [stat.st_mtime_ns, stat.st_size]
        row = self.rows.get(str(path))
        if row is None or row[0] != mark:
            source = path.read_text(encoding="utf-8")
            digest = hashlib.sha256(significant(source).encode()).hexdigest()[:12]
            row = self.rows[str(path)] = [mark, digest, list(imported(source))]
            self.changed = True
        return str(row[1]), tuple(row[2])  # type: ignore[arg-type]

    def keep(self) -> None:
        """Write the index where it changed; a folder that cannot be written is no error."""
        if self.changed:
            with suppress(OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                content = {"form": FORM, "files": {name: row for name, row in self.rows.items() if Path(name).exists()}}
                write_atomically(self.file, json.dumps(content, separators=(",", ":")).encode())
            self.changed = False


@cache
def _index() -> _Index:
    return _Index()


def forget() -> None:
    """Look at the files again when next asked: for a process that outlives a change."""
    _closure.cache_clear()
    _file_of.cache_clear()
    _index.cache_clear()


@cache
def _file_of(module: str) -> Path | None:
    """The file of a module in the rooms that count; None for any other name."""
    inner = module.removeprefix("paperlab.").replace(".", "/")
    if not inner.startswith(tuple(f"{room}/" for room in ROOMS)):
        return None
    path = PACKAGE / f"{inner}.py"
    return path if path.exists() else None


@cache
def _name(file: Path) -> str:
    """How a file is called in a record: its path within the package."""
    if file.is_relative_to(PACKAGE):
        return str(file.relative_to(PACKAGE))
    return f"outside/{file.parent.name}/{file.name}"


@cache
def _closure(path: Path) -> dict[str, str]:
    """Every file that `path` reaches by imports, itself included: name -> hash."""
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        name = _name(file)
        if name in found:
            continue
        digest, names = _index().read(file)
        found[name] = digest
        waiting += [inner for module in names if (inner := _file_of(module)) is not None]
    return found


def file_sources(path: Path) -> dict[str, str]:
    """A file and every file of the rooms that it reaches by imports, with the hash of its code, sorted by name."""
    found = dict(sorted(_closure(path.resolve()).items()))
    _index().keep()
    return found


def arm_sources(arm: Arm, task: str) -> dict[str, str]:
    """Every file whose code decides the samples of an arm on a task, with the hash of its code, sorted by name.

    The method files of the arm and of those it comes after, what they import, the drivers of their verbs, the task.
    Raises UnknownMethod.
    """
    found = dict(_closure(TASKS / f"{task}.py"))
    scored = constants(task).get("SCORES", ())
    for one in arm.chain:
        method = find_method(one.method)
        found |= _closure(method.path)
        for driver in drivers_of(method, scored):
            found |= _closure(PACKAGE / "lab" / "drivers" / f"{driver}.py")
    _index().keep()
    return dict(sorted(found.items()))


def drivers_of(method: Method, scored: Iterable[str]) -> list[str]:
    """Names of the acts that know the method's verbs; only those that build what is scored, where there are any."""
    known = [act for act in acts().values() if method.verbs and set(method.verbs) <= act.verbs.keys()]
    return [act.name for act in known if act.builds in scored] or [act.name for act in known]


def changed(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Names of the files that differ, sorted; ones that came or went included."""
    return tuple(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))
