"""What `help()` shows of what `paperlab.load` returned: parameters and their values, the data it needs, an example."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from paperlab.core.card import Scalar
from paperlab.core.methods import Method, snippet
from paperlab.core.parsing import syntax_tree

CALIBRATION = (
    "a list of texts, of token id tensors of shape (t,) or (b, t), or of dicts of model inputs; "
    "texts need a tokenizer, by default the one saved with the model"
)


def dress(made: Any, method: Method, params: Mapping[str, Scalar]) -> Any:
    """Give a function that a driver made of a method the method's name, signature and documentation; return it.

    params: the values set. The signature shows them as defaults where the function takes them too, and `calibration`
    without a default where the method needs it. Of a dict, each function; an object that is no function is left as it
    is.
    """
    if isinstance(made, dict):
        return {verb: dress(one, method, params) for verb, one in made.items()}
    if isinstance(made, FunctionType):
        made.__signature__ = _signature(made, method, params)  # type: ignore[attr-defined]
        made.__name__ = made.__qualname__ = method.path.stem
        made.__doc__ = _doc(method, params, calibrated="calibration" in made.__signature__.parameters)  # type: ignore[attr-defined]
    return made


def _signature(function: FunctionType, method: Method, params: Mapping[str, Scalar]) -> inspect.Signature:
    signature = inspect.signature(function)
    shown = []
    for parameter in signature.parameters.values():
        if parameter.name == "calibration" and method.needs_data:
            parameter = parameter.replace(default=inspect.Parameter.empty)
        elif parameter.name in params and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            parameter = parameter.replace(default=params[parameter.name])
        shown.append(parameter)
    return signature.replace(parameters=shown)


def _doc(method: Method, params: Mapping[str, Scalar], *, calibrated: bool) -> str:
    example = snippet(method)
    sections = [
        method.says,
        *_verb_docs(method),
        _calibration(method) if calibrated else "",
        _parameters(method, params),
        f"Example:\n\n{textwrap.indent(example, '    ')}" if example else "",
    ]
    return "\n\n".join(filter(None, sections))


def _calibration(method: Method) -> str:
    """What the calibration data is, and what is computed from it."""
    if not method.needs_data:
        return "calibration: not needed; this method looks at the weights alone."
    computed = [name for name in method.needs_data if name != "calibration"]
    why = f" The method computes from it: {', '.join(computed)}." if computed else ""
    return textwrap.fill(f"calibration: needed: {CALIBRATION}.{why}", 88, subsequent_indent="    ")


def _parameters(method: Method, params: Mapping[str, Scalar]) -> str:
    """One line for each parameter: what it may be, its default, and its value here where that is another."""
    lines = [
        f"    {p.name}: {p.allowed}; default {p.default!r}"
        + (f", here {params[p.name]!r}" if params.get(p.name, p.default) != p.default else "")
        for p in method.parameters
    ]
    return "\n".join([f'Parameters, set by paperlab.load("{method.slug}", name=value):', *lines]) if lines else ""


def _verb_docs(method: Method) -> list[str]:
    """The docstrings of the method's verbs, read from its file."""
    tree = syntax_tree(method.path.read_text(encoding="utf-8"))
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return [ast.get_docstring(nodes[name]) or "" for name in method.names.values() if name in nodes]
