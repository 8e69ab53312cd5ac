"""A method's parameters, read from its signature with `ast`: nothing is imported to list or check them."""

import ast
from dataclasses import dataclass
from typing import Any

from paperlab.core.card import CardError, Scalar
from paperlab.core.parsing import expression

_NAMES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", type(None): "none"}

# The least and the largest value that may be asked for, by parameter: a name means the same in every method, and what
# lies outside no machine can hold, or no method can use. A method may refuse more than this.
_BITS, _SHARE, _RATE, _COUNT = (1, 16), (0, 1), (0, 10), (1, 65_536)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("bits", "key_bits", "value_bits", "factor_bits", "low", "high", "highest"), _BITS),
    **dict.fromkeys(("act_bits", "activation_bits", "cache_bits", "weight_bits"), (1, 32)),
    **dict.fromkeys(("bits_per_weight", "mean_bits"), (0.1, 16)), "code_bits": (1, 12),
    **dict.fromkeys(("alpha", "code_fraction", "density", "p", "smoothing", "sparsity"), _SHARE),
    **dict.fromkeys(("code_rate", "learning_rate", "orthogonal_rate", "rate", "scale_rate"), _RATE),
    **dict.fromkeys(("block", "components", "group", "groups", "residual", "rows"), _COUNT),
    "batches": (1, 1000), "beta": (0, 1000), "damping": (0, 1e9), "dim": (1, 64), "gamma": (0, 100), "kappa": (1, 10),
    "iterations": (0, 10_000), "n_std": (0, 1000), "probes": (1, 1000), "rank": (0, 4096), "reach": (1, 64),
    "sample": (1, 10_000_000), "scale": (-100, 100), "steps": (0, 10_000), "tokens": (1, 1_000_000),
    "tolerance": (0, 10), "top": (1, 1_000_000),
}  # fmt: skip
ELSE = (-1_000_000, 1_000_000)  # of a name that is not listed

Definition = ast.FunctionDef | ast.ClassDef


class ParameterError(ValueError):
    """A parameter that the method does not have, or a value that it does not take."""


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter: its name, what it may be, its default.

    types: of bool, int, float, str and NoneType, as annotated. choices: the values of a Literal, if it is one.
    """

    name: str
    types: tuple[type, ...]
    choices: tuple[Scalar, ...]
    default: Scalar

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest number that may be asked for, the default always within; None: takes no number."""
        if not {int, float} & set(self.types):
            return None
        low, high = RANGES.get(self.name, ELSE)
        own = [self.default] if isinstance(self.default, int | float) else []
        return min([low, *own]), max([high, *own])

    @property
    def allowed(self) -> str:
        """What may be given, in words: "a whole number from 1 to 16 or none"."""
        words = [str(choice).lower() if choice is None else str(choice) for choice in self.choices]
        within = f" from {self.range[0]:,.12g} to {self.range[1]:,.12g}" if self.range else ""
        kinds = [_WORDS[kind] + (within if kind in (int, float) else "") for kind in self.types]
        return " or ".join([", ".join(words)] * bool(words) + kinds)

    def read(self, text: str) -> Scalar:
        """The value that `text` stands for. Raises ParameterError saying what is allowed, also for a number out of
        range."""
        for choice in self.choices:
            if text == str(choice) or (choice is None and text.lower() == "none"):
                return choice
        low = text.strip().lower()
        if type(None) in self.types and low in ("none", "null"):
            return None
        if bool in self.types and low in ("true", "yes", "on", "false", "no", "off"):
            return low in ("true", "yes", "on")
        for kind in (int, float):
            if kind in self.types:
                try:
                    value = kind(low)
                except ValueError:
                    continue
                if self.range and not self.range[0] <= value <= self.range[1]:  # nan is outside too
                    break
                return value
        else:
            if str in self.types:
                return text
        raise ParameterError(f"{self.name}={text}: {self.name} takes {self.allowed} (default {show(self.default)})")

    def takes(self, value: Scalar) -> bool:
        """Whether a value that is already typed (a card's, a caller's) fits; a whole number is a number too."""
        return value in self.choices or type(value) in self.types or (type(value) is int and float in self.types)

    def to_json(self) -> list[Any]:
        """[name, names of types, choices, default]."""
        return [self.name, [kind.__name__ for kind in self.types], list(self.choices), self.default]

    @classmethod
    def from_json(cls, row: list[Any]) -> "Parameter":
        """What `to_json` gave."""
        kinds = {**_NAMES, "NoneType": type(None)}
        return cls(row[0], tuple(kinds[name] for name in row[1]), tuple(row[2]), row[3])


# What an arm takes in addition to its method's parameters: which text the driver calibrates on.
CALIBRATION = Parameter("calibration", (str,), (), None)


def show(value: Scalar) -> str:
    """A value as `--set` reads it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _annotation(node: ast.expr | None, where: str) -> tuple[tuple[type, ...], tuple[Scalar, ...]]:
    """(types, choices) of an annotation made of bool, int, float, str, None and Literal."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            (types, choices), (more, others) = _annotation(left, where), _annotation(right, where)
            return types + more, choices + others
        case ast.Constant(value=None):
            return (type(None),), ()
        case ast.Name(id=name) if name in _NAMES:
            return (_NAMES[name],), ()
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            values = ast.literal_eval(inside)
            return (), values if isinstance(values, tuple) else (values,)
    found = ast.unparse(node) if node is not None else "no annotation"
    raise CardError(f"{where}: a parameter is bool, int, float, str, None or Literal of these, found {found}")


def _named(node: ast.expr | None, constants: dict[str, ast.expr]) -> ast.expr | None:
    """What a name stands for that is set above the function (`GROUP = 128`, `Rule = Literal[...]`)."""
    return constants.get(node.id, node) if isinstance(node, ast.Name) else node


def arguments(definition: Definition) -> ast.arguments | None:
    """The arguments of a function, or of a class's __init__; None for a class without one of its own."""
    if isinstance(definition, ast.FunctionDef):
        return definition.args
    inits = [node for node in definition.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return inits[0].args if inits else None


def positional(definition: Definition) -> tuple[str, ...]:
    """Names that the driver supplies, in order; without the `self` of a class."""
    found = arguments(definition)
    names = [argument.arg for argument in (*found.posonlyargs, *found.args)] if found else []
    return tuple(names[1:] if isinstance(definition, ast.ClassDef) else names)


def returns(definition: Definition) -> tuple[str, ...]:
    """What it gives back, by the last word of each alternative: `nn.Module | None` is ("Module", "None").

    A class gives a "Module". () where a function has no annotation.
    """
    if isinstance(definition, ast.ClassDef):
        return ("Module",)

    def words(node: ast.expr | None) -> tuple[str, ...]:
        match node:
            case None:
                return ()
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return words(left) + words(right)
            case ast.Constant(value=str(text)):
                return words(expression(text))
            case ast.Subscript(value=outer):
                return words(outer)
        return (ast.unparse(node).rpartition(".")[2],)

    return words(definition.returns)


def read_parameters(definition: Definition, constants: dict[str, ast.expr], path: str) -> tuple[Parameter, ...]:
    """The keyword-only parameters of a verb, in order. constants: what is set at the top of its file.

    Raises CardError (path and line) where the signature breaks the rule "keyword-only, scalar, with a default".
    """
    args = arguments(definition)
    found = []
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if args else ():
        where = f"{path}:{argument.lineno}"
        default = _named(default, constants)
        if default is None:
            raise CardError(f"{where}: keyword-only {argument.arg} needs a default; data is positional")
        try:
            value = ast.literal_eval(default)
        except ValueError:
            raise CardError(f"{where}: the default of {argument.arg} is not a literal") from None
        found.append(Parameter(argument.arg, *_annotation(_named(argument.annotation, constants), where), value))
    return tuple(found)
