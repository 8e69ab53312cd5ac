"""Read a model's tokenizer: text to tokens and back by the tokenizers library, chat templates by Jinja's sandbox."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.engine.detokenizer import Detokenizer, TokenBytes
from paperlab.engine.formats import gguf_reader
from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer

Message = dict[str, str]
_HEAD = 1 << 17  # characters of a tokenizer.json among which added tokens are looked for


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise EngineError(f"{file} is not valid JSON; fetch it again") from None
    if not isinstance(value, dict):
        raise EngineError(f"{file} is no JSON object; fetch it again")
    return value


def _read(file: Path) -> "Tokenizer | None":
    """The tokenizer of a file. Slow: longer than a small model's weights take, and it blocks every other thread."""
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for every kind of damage
        raise EngineError(f"{file} is no tokenizer: {error}") from None
    made.no_padding()
    made.no_truncation()
    return made


def _added(file: Path, name: str) -> int | None:
    """The id of an added token, by the list at the beginning of a tokenizer.json; None where it is not there."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            head = opened.read(_HEAD)
        begin = head.index("[", head.index('"added_tokens"'))
        entries = json.JSONDecoder().raw_decode(head, begin)[0]
        return next((int(entry["id"]) for entry in entries if entry["content"] == name), None)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@dataclass
class Tokens:
    """A model's tokenizer with the settings of its folder.

    make: makes the tokenizer, or None, when it is first needed. stated: ids of tokens that end a text; end: the name of
    one more, whose id the tokenizer knows. longest: the most tokens of a text that the folder allows, None where it
    sets no limit. pooling: "mean" or "cls", for encoders. source: the folder or file, named in errors.
    """

    source: Path
    make: "Callable[[], Tokenizer | None]" = lambda: None
    template: str | None = None
    specials: dict[str, str] = field(default_factory=dict)
    stated: frozenset[int] = frozenset()
    end: str = ""
    longest: int | None = None
    pooling: str = "mean"

    @cached_property
    def tokenizer(self) -> "Tokenizer | None":
        """None where the folder or file has none. Raises EngineError where it is damaged."""
        return self.make()

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        last = self.tokenizer.token_to_id(self.end) if self.end and self.tokenizer else None
        return self.stated if last is None else self.stated | {last}

    @classmethod
    def of(cls, path: Path) -> "Tokens":
        """Read a model folder or a GGUF file. A folder without tokenizer.json works with token ids only."""
        if path.is_file():
            return cls._of_gguf(path)
        settings = _json(path / "tokenizer_config.json")
        template = settings.get("chat_template")
        if (path / "chat_template.jinja").is_file():
            template = (path / "chat_template.jinja").read_text(encoding="utf-8")
        specials = {}
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            value = settings.get(name)
            specials[name] = value.get("content", "") if isinstance(value, dict) else value or ""
        ends: set[int] = set()
        for file in ("config.json", "generation_config.json"):
            value = _json(path / file).get("eos_token_id")
            ends |= {int(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)}
        longest = _json(path / "sentence_bert_config.json").get("max_seq_length")
        cls_pooling = _json(path / "1_Pooling" / "config.json").get("pooling_mode_cls_token")
        written, end = path / "tokenizer.json", specials["eos_token"]
        return cls(
            path,
            lambda: _read(written),
            template if isinstance(template, str) else None,
            specials,
            frozenset(ends),
            "" if _added(written, end) in ends else end,
            longest if isinstance(longest, int) else None,
            "cls" if cls_pooling else "mean",
        )

    @classmethod
    def _of_gguf(cls, file: Path) -> "Tokens":
        fields = gguf_reader.read_fields(file)
        names = fields.get("tokenizer.ggml.tokens", [])
        specials, ends = {}, set()
        for name, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        ):
            token = fields.get(f"tokenizer.ggml.{key}_token_id")
            specials[name] = names[token] if isinstance(token, int) and token < len(names) else ""
        for key in ("eos", "eot", "eom"):
            token = fields.get(f"tokenizer.ggml.{key}_token_id")
            ends |= {token} if isinstance(token, int) else set()
        template = fields.get("tokenizer.chat_template")
        made = gguf_reader.tokenizer(fields)
        return cls(
            file,
            lambda: made,
            template if isinstance(template, str) else None,
            specials,
            frozenset(ends),
        )

    def _need(self) -> "Tokenizer":
        if self.tokenizer is None:
            raise EngineError(
                f"no tokenizer that is known here in {self.source}; give token ids, or put tokenizer.json there"
            )
        return self.tokenizer

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text; special: with those that the tokenizer adds at its ends."""
        return list(self._need().encode(text, add_special_tokens=special).ids)

    def encode_all(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Token ids of several texts, each with its special tokens and cut to `most`."""
        tokenizer = self._need()
        tokenizer.enable_truncation(most)
        try:
            return [one.ids for one in tokenizer.encode_batch(list(texts))]
        finally:
            tokenizer.no_truncation()

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation by the model's own template, ready for the assistant's turn."""
        if self.template is None:
            raise EngineError(f"{self.source} has no chat template; give the prompt as text")
        from jinja2.exceptions import TemplateError

        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, **self.specials)
        except (TemplateError, TypeError, ValueError, LookupError) as error:  # the template's own mistakes, too
            raise EngineError(f"the chat template of {self.source} refuses these messages: {error}") from None
        return self.encode(text, special=False)

    def stream(self, ids: Iterable[int], stop: Sequence[str] = ()) -> Iterator[str]:
        """Text of token ids as it is final: complete characters, and nothing that may begin a stop text."""
        detokenizer = Detokenizer(self.token_bytes, stop)
        for token in ids:
            if piece := detokenizer.push(token):
                yield piece
            if detokenizer.cut is not None:
                return
        if piece := detokenizer.end():
            yield piece

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of each token."""
        return TokenBytes(self._need())

    @cached_property
    def _template(self) -> "Template":
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self.template or "")


def _refuse(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
