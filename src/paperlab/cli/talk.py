"""`paperlab chat`: a conversation whose keys and values are kept, so that a turn costs what is new in it."""

import io
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paperlab.engine.language import LanguageModel

CONTEXT = 4096  # tokens that a conversation may have, where the model takes more


class Talk:
    """One conversation. max_tokens: of an answer; how: as `LanguageModel.generate_ids` draws.

    system: what the model is told before the first turn, and never forgets. chat_template_kwargs, control_tokens: as
    `LanguageModel.ids` has them. Made at once with what every turn needs. Raises EngineError for a model without a
    tokenizer or a chat template, and for what the template or the sampler cannot obey.
    """

    def __init__(
        self,
        model: "LanguageModel",
        *,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        control_tokens: bool = False,
        cache_bits: int = 16,
        max_tokens: int = 512,
        **how: Any,
    ) -> None:
        from paperlab.engine import EngineError
        from paperlab.engine.native import sampling

        sampling(**how)
        self.template: dict[str, Any] = {
            "chat_template_kwargs": chat_template_kwargs or {},
            "control_tokens": control_tokens,
        }
        self.first = [] if system is None else [{"role": "system", "content": system}]
        self.model, self.max_tokens, self.how = model, max_tokens, how
        self.context = min(model.about["context"], CONTEXT)
        self.session = model.session(self.context, cache_bits)
        self.messages: list[dict[str, str]] = []
        self._in_session: list[int] = []  # the token ids whose keys and values the session has
        model.ids("Hello.")  # without a tokenizer it is refused now, not at the first line
        if model.tokens.template is None and not model.tokens.templates:
            raise EngineError(
                f"{model.tokens.source} has no chat template: it was not made to chat; "
                "`paperlab serve-model` serves it to complete texts"
            )
        model.tokens.check_variables(chat_template_kwargs or {})

    def _ids(self, turns: list[dict[str, str]]) -> list[int]:
        return self.model.ids([*self.first, *turns], **self.template)

    def ask(self, line: str) -> int:
        """Take the user's turn; return how many old messages were dropped to make it fit. Raises EngineError."""
        from paperlab.engine import EngineError

        room = self.context - min(self.max_tokens, self.context // 4)
        asked = [*self.messages, {"role": "user", "content": line}]
        dropped = 0
        while (size := len(self._ids(asked[dropped:]))) > room and dropped + 2 < len(asked):
            dropped += 2
        if size > room:
            raise EngineError(f"that is {size} tokens, and there is room for {room}; say it in fewer words")
        self.messages = asked[dropped:]
        return dropped

    def answer(self) -> Generator[str, None, None]:
        """The assistant's turn, piece by piece. What was written before it is closed or interrupted stays."""
        ids = self._ids(self.messages)
        same = next(
            (i for i, (a, b) in enumerate(zip(ids, self._in_session, strict=False)) if a != b), len(self._in_session)
        )
        same = min(same, len(ids) - 1)  # the last token is always run: what follows it is wanted
        self.session.truncate(same)
        drawn: list[int] = []

        def noted(tokens: Iterable[int]) -> Iterator[int]:
            for token in tokens:
                drawn.append(token)
                yield token

        most = min(self.max_tokens, self.context - len(ids))
        tokens = self.model.generate_ids(ids[same:], max_tokens=most, session=self.session, **self.how)
        written = ""
        try:
            for piece in self.model.tokens.stream(noted(tokens)):
                written += piece
                yield piece
        finally:
            self._in_session = [*ids, *drawn][: len(self.session)]
            self.messages.append({"role": "assistant", "content": written})


def variables(settings: Sequence[str]) -> dict[str, Any]:
    """Variables of a chat template from NAME=VALUE: a value is JSON where it is (false, 3), else a text.

    Raises Misuse.
    """
    from paperlab.cli.shell import Misuse

    out: dict[str, Any] = {}
    for setting in settings:
        name, given, value = setting.partition("=")
        if not given or not name:
            raise Misuse(f"--set {setting}: NAME=VALUE is meant, such as enable_thinking=false")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out


def chat(talk: Talk) -> None:
    """Read lines, answer each; an empty line or the input's end leaves, and ctrl-C ends an answer."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text
    interactive = sys.stdin.isatty()
    while line := _line(interactive):
        try:
            dropped = talk.ask(line)
        except RuntimeError as error:
            if not interactive:
                raise
            print(error, file=sys.stderr)
            continue
        if dropped:
            print(f"({dropped} old messages no longer fit {talk.context} tokens and are forgotten)", file=sys.stderr)
        pieces = talk.answer()
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not interactive:
                raise
        finally:
            pieces.close()
        print(flush=True)


def _line(interactive: bool) -> str:
    """The next line, stripped. Empty at the end."""
    if interactive:
        import readline  # noqa: F401  lines can be edited and called back

        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return ""
    else:
        line = sys.stdin.readline()
    return line.strip()
