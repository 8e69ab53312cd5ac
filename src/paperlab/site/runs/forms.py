"""The form that asks for a run, made from the method's signature."""

from dataclasses import dataclass
from typing import Any

from paperlab.core.methods import Method, parameters
from paperlab.core.signature import Parameter, show


@dataclass(frozen=True)
class Field:
    """One parameter in the form. options: all that may be chosen, if few; placeholder: what the card says."""

    name: str
    allowed: str
    placeholder: str
    options: tuple[str, ...]
    value: str = ""
    wrong: str = ""

    @property
    def key(self) -> str:
        """Its name in the form that is sent."""
        return f"set-{self.name}"


def _options(parameter: Parameter) -> tuple[str, ...]:
    if parameter.choices and not parameter.types:
        return tuple(show(choice) for choice in parameter.choices)
    if set(parameter.types) <= {bool, type(None)} and not parameter.choices:
        return ("true", "false", *(("none",) if type(None) in parameter.types else ()))
    return ()


def fields(method: Method, claim: str = "", given: Any = None, wrong: Any = None) -> list[Field]:
    """The fields of a method's parameters; with what was sent and what is wrong with it."""
    checks = [check for check in method.card.checks if claim in ("", check.claim)]
    at: dict[str, Any] = checks[0].method.params if checks and checks[0].method.method == method.slug else {}
    listed = []
    for parameter in parameters(method):
        key = f"set-{parameter.name}"
        card = show(at.get(parameter.name, parameter.default))
        sent = (given or {}).get(key, "")
        listed.append(
            Field(parameter.name, parameter.allowed, card, _options(parameter), sent, (wrong or {}).get(key, ""))
        )
    return listed
