"""Render a conversation by a model's chat template, as transformers does, and tell what a message says from what the
template says: a control token in a message is text, and ends or begins nobody's turn.

The environment is that of transformers (utils/chat_template_utils.py): a sandbox in which templates change nothing,
with loop controls, `{% generation %}`, `raise_exception`, `strftime_now`, and a `tojson` that leaves HTML alone.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from jinja2 import Environment, Template

# What is put around a control token that a message has: characters of private use, which no template knows.
_BEGIN, _END = "\U000f0000", "\U000f0001"
_OURS = ("messages", "add_generation_prompt")


class ChatTemplate:
    """A chat template in Jinja. source: the folder or file it comes from, named in errors."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The conversation as text, ready for the assistant's turn. Raises EngineError."""
        from jinja2.exceptions import TemplateError

        given = {"tools": None, "documents": None, **variables}
        said = [{key: value for key, value in message.items() if value is not None} for message in messages]
        try:
            return self._compiled.render(messages=said, add_generation_prompt=True, **given)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise EngineError(f"the chat template of {self.source} refuses these messages: {_line(error)}") from None

    def check(self, variables: Iterable[str]) -> None:
        """Refuse variables that the template does not use: they would change nothing. Raises EngineError."""
        known = self._variables - {*_OURS}
        for name in variables:
            if name not in known:
                uses = f"it uses {', '.join(sorted(known))}" if known else "it uses none"
                raise EngineError(f"the chat template of {self.source} has no variable {name[:60]!r}; {uses}")

    @cached_property
    def literals(self) -> str:
        """The text that the template itself writes, its pieces parted by null characters."""
        from jinja2 import nodes

        tree = self._tree
        texts = {node.data for node in tree.find_all(nodes.TemplateData)}
        texts |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return "\0".join(texts)

    @cached_property
    def _variables(self) -> set[str]:
        from jinja2.meta import find_undeclared_variables

        return set(find_undeclared_variables(self._tree)) - set(_environment().globals)

    @cached_property
    def _tree(self) -> Any:
        return self._read(lambda: _environment().parse(self.text))

    @cached_property
    def _compiled(self) -> "Template":
        made: Template = self._read(lambda: _environment().from_string(self.text))
        return made

    def _read(self, work: Any) -> Any:
        from jinja2.exceptions import TemplateError

        try:
            return work()
        except (TemplateError, RecursionError, ValueError) as error:
            raise EngineError(f"the chat template of {self.source} cannot be read: {_line(error)}") from None


class Controls:
    """Control tokens, and the places at which a text has them."""

    def __init__(self, names: Iterable[str]) -> None:
        longest = sorted(filter(None, names), key=len, reverse=True)  # a token before those that it holds
        pattern = "|".join(map(re.escape, longest)) or "(?!)"
        self._found, self._marked = re.compile(pattern), re.compile(f"{_BEGIN}({pattern}){_END}|[{_BEGIN}{_END}]")

    def mark(self, value: Any) -> Any:
        """The value with marks around every control token of its texts, which may lie in lists and dictionaries."""
        if isinstance(value, str):
            return self._found.sub(f"{_BEGIN}\\g<0>{_END}", value.replace(_BEGIN, "").replace(_END, ""))
        if isinstance(value, Mapping):
            return {key: self.mark(inside) for key, inside in value.items()}
        return [self.mark(inside) for inside in value] if isinstance(value, list | tuple) else value

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text in parts, without marks: (part, whether it is a control token that was marked).

        A lone mark, whose other half a template cut away, parts the text all the same.
        """
        for i, part in enumerate(self._marked.split(text)):
            if part:
                yield part, i % 2 == 1


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _environment() -> "Environment":
    global _made
    if _made is None:
        _made = _make()
    return _made


_made: "Environment | None" = None


def _make() -> "Environment":
    from jinja2 import ext, nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(ext.Extension):
        """{% generation %} … {% endgeneration %} marks what an assistant wrote, for training; here it does nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller: Any) -> Any:
            return caller()

    class Dict:
        """`dict` for templates, without the class's own attributes."""

        def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
            return dict(*values, **named)

        def fromkeys(self, *values: Any) -> dict[Any, Any]:
            return dict.fromkeys(*values)

    class Names(Namespace):
        """`namespace` for templates: names that begin with an underscore are refused."""

        def __init__(*values: Any, **named: Any) -> None:  # so that namespace(self=…) works
            own, names = values[0], dict(*values[1:], **named)
            for name in names:
                Names._check(name)
            Namespace.__init__(own, names)

        def __setitem__(self, name: str, value: Any) -> None:
            Names._check(name)
            Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise SecurityError(f"a template cannot keep {name!r} in a namespace")

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": Dict(),
        "namespace": Names,
    }
    return made
