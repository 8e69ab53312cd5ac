"""What `help()` shows of a method that `paperlab.load` returned: its parameters, their values, what data it needs."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paperlab.core.card import Method, Scalar
from paperlab.core.signature import parameters

CALIBRATION = (
    "a list of texts, of token id tensors of shape (t,) or (b, t), or of dicts of model inputs; "
    "texts need a tokenizer, by default the one saved with the model"
)


def dress(
    function: Callable[..., Any],
    method: Method,
    *,
    needs: Sequence[str] | None = None,
    params: Mapping[str, Scalar] | None = None,
) -> None:
    """Give `function` the name, the signature and the documentation of a method.

    needs: what the method computes from calibration data, by name; empty: it looks at none; None: the function takes
    none. Where data is needed, the signature shows `calibration` without a default. params: values that differ from the
    defaults. Sets __name__, __qualname__, __signature__ and __doc__.
    """
    signature = inspect.signature(function)
    if needs and "calibration" in signature.parameters:
        required = [
            p.replace(default=inspect.Parameter.empty) if p.name == "calibration" else p
            for p in signature.parameters.values()
        ]
        signature = signature.replace(parameters=required)
    function.__name__ = function.__qualname__ = method.path.stem
    function.__signature__ = signature  # type: ignore[attr-defined]
    sections = [method.says, _verb_doc(method), _calibration(needs), _parameters(method, params or {})]
    function.__doc__ = "\n\n".join(filter(None, sections))


def _calibration(needs: Sequence[str] | None) -> str:
    if needs is None:
        return ""
    if not needs:
        return "calibration: not needed; this method looks at the weights alone."
    found = [name for name in needs if name != "calibration"]
    why = f" The method computes from it: {', '.join(found)}." if found else ""
    return textwrap.fill(f"calibration: needed: {CALIBRATION}.{why}", 88, subsequent_indent="    ")


def _parameters(method: Method, params: Mapping[str, Scalar]) -> str:
    """One line for each parameter: what it may be, its default, and its value here where that is another."""
    known = parameters(method)
    if not known:
        return ""
    lines = [f'Parameters, set by paperlab.load("{method.slug}", name=value):']
    for parameter in known:
        line = f"    {parameter.name}: {parameter.allowed}; default {parameter.default!r}"
        if parameter.name in params and params[parameter.name] != parameter.default:
            line += f", here {params[parameter.name]!r}"
        lines.append(line)
    extra = [name for name in params if name not in {parameter.name for parameter in known}]
    lines += [f"    {name}: here {params[name]!r}" for name in extra]
    return "\n".join(lines)


def _verb_doc(method: Method) -> str:
    """The docstring of the method's verb, read from its file; empty where there is none."""
    for node in ast.parse(method.path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == method.verb:
            return ast.get_docstring(node) or ""
    return ""
