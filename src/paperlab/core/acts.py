"""Acts: what the lab can do with a method's functions, read from the drivers' tables without importing them.

Each module of `lab/drivers/` is one act and says in literals which verbs (names of functions or classes in a method
file) it knows. Nothing else in paperlab knows a verb by name.

    SAYS = "one sentence"
    BUILDS = "Compressed"           the kind of result, which a task names in SCORES
    STARTS_FROM = ("Compressed",)   kinds of result that `Arm(..., after=...)` may hand it
    VERBS = {"keep": {
        "says": "called for each linear layer",
        "supplies": ("weight", ...),      positional names that a method may ask for
        "data": ("hessian", ...),         those of them that are gathered from calibration data
        "returns": ("Tensor", ...),       annotations of the result that are accepted
        "own_model": True,                whether paperlab.load applies it to a user's own model
        "snippet": "three lines",         with {slug}, {variable}, {arguments} and {calibration} to be filled in
    }}
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paperlab.core.card import CardError
from paperlab.core.parsing import syntax_tree

DRIVERS = Path(__file__).resolve().parent.parent / "lab" / "drivers"

FIELDS = {"says", "supplies", "data", "returns", "own_model", "snippet"}


@dataclass(frozen=True)
class Verb:
    """One entry of a driver's table; see the module's text."""

    name: str
    act: str
    says: str
    supplies: tuple[str, ...]
    data: tuple[str, ...]
    returns: tuple[str, ...]
    own_model: bool
    snippet: str


@dataclass(frozen=True)
class Act:
    """One driver: its module's name, what it builds and may start from, its verbs by name."""

    name: str
    says: str
    builds: str
    starts_from: tuple[str, ...]
    verbs: dict[str, Verb]


def driver_files() -> list[Path]:
    """The drivers' modules, in the order of their names."""
    return sorted(path for path in DRIVERS.glob("*.py") if not path.name.startswith("_"))


@cache
def acts() -> dict[str, Act]:
    """All acts by name. Raises CardError (path and line) for a table that is missing or not a literal."""
    return {path.stem: _read(path) for path in driver_files()}


def _read(path: Path) -> Act:
    constants: dict[str, Any] = {}
    wanted = ("SAYS", "BUILDS", "STARTS_FROM", "VERBS")
    for node in syntax_tree(path.read_text(encoding="utf-8"), path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                constants[node.targets[0].id] = _literal(node.value, constants)
            except ValueError:
                if node.targets[0].id in wanted:
                    raise CardError(f"{path}:{node.lineno}: {node.targets[0].id} is not a literal") from None
    missing = [name for name in wanted if name not in constants]
    if missing:
        raise CardError(f"{path}:1: a driver says {', '.join(wanted)}; {', '.join(missing)} is missing")
    verbs = {}
    for name, row in constants["VERBS"].items():
        if set(row) != FIELDS:
            raise CardError(f"{path}: verb {name!r} has {sorted(row)}, not {sorted(FIELDS)}")
        verbs[name] = Verb(name=name, act=path.stem, **row)
    return Act(path.stem, constants["SAYS"], constants["BUILDS"], constants["STARTS_FROM"], verbs)


def _literal(node: ast.expr, known: dict[str, Any]) -> Any:
    """A literal that may use constants set above it and sums of tuples. Raises ValueError."""
    match node:
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _literal(left, known) + _literal(right, known)
        case ast.Tuple(elts=parts):
            found: list[Any] = []
            for part in parts:
                inner = part.value if isinstance(part, ast.Starred) else part
                value = _literal(inner, known)
                found += value if isinstance(part, ast.Starred) else [value]
            return tuple(found)
        case ast.Dict(keys=keys, values=values):
            return {ast.literal_eval(k): _literal(v, known) for k, v in zip(keys, values, strict=True) if k is not None}
    return ast.literal_eval(node)


def verb_names() -> frozenset[str]:
    """Every name that makes a function or class of a method file a verb."""
    return frozenset(name for act in acts().values() for name in act.verbs)


def acts_with(verbs: Sequence[str]) -> Iterator[Act]:
    """The acts that know all of `verbs`."""
    return (act for act in acts().values() if verbs and set(verbs) <= act.verbs.keys())
