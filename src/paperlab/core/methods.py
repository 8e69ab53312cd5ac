"""Method files: found by walking folders, read with `ast`, indexed so that a listing parses only what changed."""

import ast
import difflib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from paperlab.core.acts import Act, Verb, acts_with, driver_files, verb_names
from paperlab.core.baselines import with_rivals
from paperlab.core.card import Arm, Card, CardError, Scalar, check_from, literal_words, plain
from paperlab.core.files import write_atomically
from paperlab.core.home import home
from paperlab.core.parsing import syntax_tree
from paperlab.core.signature import (
    CALIBRATION,
    Definition,
    Parameter,
    ParameterError,
    positional,
    read_parameters,
    returns,
    show,
)

METHODS = Path(__file__).resolve().parent.parent / "methods"
CARD_FILE = Path(__file__).resolve().with_name("card.py")  # what a card means
BASELINES_FILE = CARD_FILE.with_name("baselines.py")
INDEX = 3  # raised when the index's form changes


class UnknownMethod(LookupError):
    """No method of that name; the message suggests the nearest ones."""


@dataclass(frozen=True)
class Method:
    """A method file as found on disk.

    slug: "outlier-suppression-plus". says: the first line of its text. verbs: the names of its verbs, () for a study
    that only has checks. definitions: for each verb the name in the file (a class `Norm` is the verb "norm"), the
    positional names it asks for, and its parameters.
    """

    slug: str
    card: Card
    path: Path
    says: str
    verbs: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    asks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    own_parameters: dict[str, tuple[Parameter, ...]] = field(default_factory=dict)

    @property
    def verb(self) -> str | None:
        """The verb, where there is one; the first of several."""
        return self.verbs[0] if self.verbs else None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of all its verbs, in order, each once."""
        known: dict[str, Parameter] = {}
        for own in self.own_parameters.values():
            for parameter in own:
                known.setdefault(parameter.name, parameter)
        return tuple(known.values())

    @property
    def needs_data(self) -> tuple[str, ...]:
        """Positional names that are gathered from calibration data."""
        act = act_of(self)
        asked = [(verb, name) for verb in self.verbs for name in self.asks[verb]] if act else []
        return tuple(dict.fromkeys(name for verb, name in asked if act and name in act.verbs[verb].data))


def _literal(node: ast.expr, where: str) -> Any:
    """Evaluate literals and calls of Card, Check, Arm and Gate; anything else is refused with its line."""
    words = literal_words()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in words:
        arguments = [_literal(argument, where) for argument in node.args]
        named = {k.arg: _literal(k.value, where) for k in node.keywords if k.arg is not None}
        try:
            made = words[node.func.id](*arguments, **named)
        except (TypeError, CardError) as error:
            raise CardError(f"{where}:{node.lineno}: {node.func.id}: {error}") from None
        if isinstance(made, Arm) and made.method != made.method.replace("_", "-"):
            raise CardError(f"{where}:{node.lineno}: a slug is written with '-': {made.method.replace('_', '-')!r}")
        return made
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_literal(item, where) for item in node.elts)
    if isinstance(node, ast.Dict):
        return {
            _literal(key, where): _literal(value, where)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise CardError(f"{where}:{node.lineno}: a card holds literals only, found `{ast.unparse(node)}`") from None


def _snake(name: str) -> str:
    """The verb that a class stands for: FeedForward is "feed_forward"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _candidates(tree: ast.Module) -> dict[str, list[Definition]]:
    """Functions, classes and aliases (`norm = RMSNorm`) of a file that bear a verb's name, by verb."""
    verbs = verb_names()
    top = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found: dict[str, list[Definition]] = {}
    for name, node in top.items():
        verb = name if isinstance(node, ast.FunctionDef) else _snake(name)
        if verb in verbs:
            found.setdefault(verb, []).append(node)
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=alias)], value=ast.Name(id=of)) if alias in verbs and of in top:
                found.setdefault(alias, []).append(top[of])
    return found


def read_method(path: Path) -> Method:
    """Read one method file without importing it. Raises CardError with path and line."""
    tree = syntax_tree(path.read_text(encoding="utf-8"), path)
    card: Card | None = None
    constants: dict[str, ast.expr] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="CARD")], value=value):
                card = _literal(value, str(path))
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                constants[name] = value
    if not isinstance(card, Card):
        raise CardError(f"{path}:1: no card; a method file begins with CARD = Card(...)")
    if card.family.replace("-", "_") != path.parent.name:
        raise CardError(f"{path}:1: the card says family {card.family!r}, the folder {path.parent.name!r}")
    card = replace(card, checks=tuple(with_rivals(check) for check in card.checks))
    docstring = ast.get_docstring(tree)
    if not docstring:
        raise CardError(f"{path}:1: no docstring; its first line is what listings show")
    definitions = _chosen(card, _candidates(tree), path)
    own = {verb: read_parameters(node, constants, str(path)) for verb, node in definitions.items()}
    _agree(own, path)
    method = Method(
        slug=path.stem.replace("_", "-"),
        card=card,
        path=path,
        says=docstring.splitlines()[0],
        verbs=tuple(definitions),
        names={verb: node.name for verb, node in definitions.items()},
        asks={verb: positional(node) for verb, node in definitions.items()},
        own_parameters=own,
    )
    for verb, node in definitions.items():
        _fits(method, verb, node)
    return method


def _chosen(card: Card, candidates: dict[str, list[Definition]], path: Path) -> dict[str, Definition]:
    """The file's verbs: those that its card names, else the only candidate."""
    named = card.verbs or tuple(candidates)
    if not card.verbs and len(candidates) > 1:
        raise CardError(
            f"{path}:1: {', '.join(candidates)} all bear a verb's name; the card says which count, verbs=(...), "
            "or a helper takes another name"
        )
    found = {}
    for verb in named:
        nodes = candidates.get(verb, [])
        if len(nodes) != 1:
            what = f"defined {len(nodes)} times" if nodes else f"not defined; verbs: {', '.join(sorted(verb_names()))}"
            raise CardError(f"{path}:1: the verb {verb!r} is {what}")
        found[verb] = nodes[0]
    if found and not list(acts_with(tuple(found))):
        raise CardError(f"{path}:1: no act knows all of {', '.join(found)}")
    return found


def _agree(own: dict[str, tuple[Parameter, ...]], path: Path) -> None:
    """Refuse a parameter that two verbs of a file define differently: it is one parameter to its user."""
    known: dict[str, Parameter] = {}
    for parameters in own.values():
        for parameter in parameters:
            if known.setdefault(parameter.name, parameter) != parameter:
                raise CardError(f"{path}:1: {parameter.name} means two things in one file")


def _fits(method: Method, verb: str, node: Definition) -> None:
    """Refuse a verb that asks for what no act supplies, or gives back what no act takes."""
    possible = list(acts_with(method.verbs))
    where = f"{method.path}:{node.lineno}: {verb}"
    if all(set(method.asks[verb]) - set(act.verbs[verb].supplies) for act in possible):
        supplied = ", ".join(possible[0].verbs[verb].supplies)
        unknown = ", ".join(sorted(set(method.asks[verb]) - set(possible[0].verbs[verb].supplies)))
        raise CardError(f"{where} asks for {unknown}; its driver supplies {supplied}")
    gives = returns(node)
    if not gives or all(set(gives) - set(act.verbs[verb].returns) for act in possible):
        wanted = " or ".join(possible[0].verbs[verb].returns)
        raise CardError(f"{where} is annotated to return {' | '.join(gives) or 'nothing'}; its driver takes {wanted}")


def possible_acts(method: Method) -> list[Act]:
    """The acts that know a method's verbs, supply what they ask for and take what they give back; [] for a study."""

    def fits(act: Act) -> bool:
        return all(set(method.asks[verb]) <= set(act.verbs[verb].supplies) for verb in method.verbs)

    return [act for act in acts_with(method.verbs) if fits(act)]


def act_of(method: Method) -> Act | None:
    """The act behind a method: the one that builds what its first check's task scores, else the first that can use it;
    None for a study."""
    possible = possible_acts(method)
    if method.card.checks and len(possible) > 1:
        from paperlab.core.task import constants

        scored = constants(method.card.checks[0].task).get("SCORES", ())
        possible = [act for act in possible if act.builds in scored] or possible
    return possible[0] if possible else None


def verb_of(method: Method) -> Verb | None:
    """The entry of the driver's table for the method's (first) verb; None for a study."""
    act = act_of(method)
    return act.verbs[method.verbs[0]] if act else None


def snippet(method: Method) -> str | None:
    """How the method is used in one's own code, in a few lines; None for a study.

    Ready to be run where the names that a user brings exist: model, texts and the like.
    """
    verb = verb_of(method)
    if verb is None:
        return None
    first = next(
        (p for p in method.parameters if isinstance(p.default, int | float) and not isinstance(p.default, bool)), None
    )
    return verb.snippet.format(
        slug=method.slug,
        variable=re.sub(r"\W|^(?=\d)", "_", method.slug),
        arguments=f", {first.name}={show(first.default)}" if first else "",
        calibration=", calibration=texts" if method.needs_data else "",
    )


# Parameters


def parameters(method: Method) -> tuple[Parameter, ...]:
    """The parameters of the method's verbs, in order; none for a study that only has checks."""
    return method.parameters


def find_parameter(method: Method, name: str) -> Parameter:
    """The parameter called `name` ("_" and "-" are the same). Raises ParameterError naming what there is."""
    known = {parameter.name: parameter for parameter in method.parameters}
    wanted = name.strip().replace("-", "_")
    if wanted in known:
        return known[wanted]
    if wanted == CALIBRATION.name and any(
        act.verbs[verb].data for act in possible_acts(method) for verb in method.verbs
    ):
        return CALIBRATION
    if not known:
        raise ParameterError(f"{method.slug} has no parameters, so {name!r} cannot be set")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ParameterError(f"{method.slug} has no parameter {name!r}; {hint}it has {', '.join(known)}")


def parse(method: Method, setting: str) -> tuple[str, Scalar]:
    """Read "bits=3" for this method: ("bits", 3). Raises ParameterError saying what is allowed."""
    name, sign, text = setting.partition("=")
    if not sign or not name.strip():
        raise ParameterError(f"{setting!r}: write name=value, e.g. --set bits=3")
    parameter = find_parameter(method, name)
    return parameter.name, parameter.read(text.strip())


def check_parameters(method: Method, params: dict[str, Scalar]) -> None:
    """Refuse parameters that the method does not have or values it does not take. Raises ParameterError."""
    for name, value in params.items():
        parameter = find_parameter(method, name)
        if not parameter.takes(value):
            raise ParameterError(
                f"{name}={value!r}: {parameter.name} takes {parameter.allowed} (default {show(parameter.default)})"
            )


def filled(arm: Arm) -> Arm:
    """The arm with its method's one spelling and every parameter, defaults included: what it really is.

    A method that is unknown (an older record's) keeps what the arm says.
    """
    slug = arm.method.replace("_", "-").lower()
    method = methods().get(slug)
    defaults = {p.name: p.default for p in method.parameters} if method else {}
    return Arm(slug, {**defaults, **arm.params}, filled(arm.after) if arm.after else None)


def identity(arm: Arm) -> str:
    """A text that is the same for two arms exactly where they are the same thing, however they are written."""
    return " after ".join(
        f"{one.method}({', '.join(f'{k}={v!r}' for k, v in sorted(one.params.items()))})"
        for one in reversed(filled(arm).chain)
    )


# All methods


def _folders() -> Iterator[Path]:
    """Our own methods, then folders that other packages name in the entry point group `paperlab.methods`."""
    yield METHODS
    for point in entry_points(group="paperlab.methods"):
        yield Path(point.load()())


@cache
def methods() -> dict[str, Method]:
    """All methods by slug, sorted. A clash of names raises CardError."""
    files = [path for folder in _folders() for path in sorted(folder.glob("*/*.py")) if path.name[0] != "_"]
    index = _Index(home() / "cache" / "methods.json")
    found: dict[str, Method] = {}
    for path in files:
        method = index.read(path)
        if method.slug in found:
            raise CardError(f"{path}:1: {method.slug!r} is already {found[method.slug].path}")
        found[method.slug] = method
    index.keep()
    return dict(sorted(found.items()))


def find_method(name: str) -> Method:
    """The method called `name` ("_" and "-" are the same). Raises UnknownMethod."""
    slug = name.replace("_", "-").lower()
    known = methods()
    if slug not in known:
        near = difflib.get_close_matches(slug, known, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `paperlab papers --runnable` lists them"
        raise UnknownMethod(f"no method {name!r}{hint}")
    return known[slug]


def abstract_only(paper: str) -> bool:
    """Whether a paper (by slug) has checks, all of them in files that were written from its abstract alone."""
    cards = [method.card for method in methods().values() if method.card.paper == paper and method.card.checks]
    return bool(cards) and all(card.abstract_only for card in cards)


class _Index:
    """What was read of each method file, by path, size and time of change, in one file of the user's cache.

    Never the source of anything: without it, or with a damaged one, the files are read again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.mark = [INDEX, *(_mark(path) for path in (Path(__file__), CARD_FILE, BASELINES_FILE, *driver_files()))]
        self.rows: dict[str, list[Any]] = {}
        self.used: dict[str, list[Any]] = {}
        self.changed = False
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(file.read_bytes())
            if stored["mark"] == self.mark:
                self.rows = stored["files"]

    def read(self, path: Path) -> Method:
        """The method of a file."""
        name, mark = str(path), _mark(path)
        row = self.rows.get(name)
        if row is not None and row[0] == mark:
            with suppress(KeyError, TypeError, ValueError, IndexError):
                method = _method_from(path, row[1])
                self.used[name] = row
                return method
        method = read_method(path)
        self.used[name] = [mark, _method_row(method)]
        self.changed = True
        return method

    def keep(self) -> None:
        """Write the index where it changed; a folder that cannot be written is no error."""
        if not self.changed:
            return
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            others = {name: row for name, row in self.rows.items() if name not in self.used and Path(name).exists()}
            content = {"mark": self.mark, "files": {**others, **self.used}}
            write_atomically(self.file, json.dumps(content, separators=(",", ":")).encode())


def _mark(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_size]


def _method_row(method: Method) -> list[Any]:
    card = {
        name: getattr(method.card, name) for name in ("family", "paper", "sources", "configuration", "verbs", "departs")
    }
    checks = [[check.hash, plain(check)] for check in method.card.checks]
    own = {verb: [p.to_json() for p in found] for verb, found in method.own_parameters.items()}
    return [method.slug, card, checks, method.says, method.verbs, method.names, method.asks, own]


def _method_from(path: Path, row: list[Any]) -> Method:
    slug, card, checks, says, verbs, names, asks, own = row
    named = {**card, **{name: tuple(card[name]) for name in ("sources", "verbs", "departs")}}
    whole = Card(**named, checks=tuple(check_from(check) for _, check in checks))
    for check, (known, _) in zip(whole.checks, checks, strict=True):
        check.__dict__["hash"] = known  # what the cached property would compute
    return Method(
        slug,
        whole,
        path,
        says,
        tuple(verbs),
        names,
        {verb: tuple(asked) for verb, asked in asks.items()},
        {verb: tuple(Parameter.from_json(p) for p in found) for verb, found in own.items()},
    )
