"""Read a model's tokenizer: text to tokens and back by the tokenizers library, and what its folder says of both."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.engine.detokenizer import Detokenizer, TokenBytes
from paperlab.engine.formats import gguf_reader
from paperlab.engine.formats.chat_template import ChatTemplate, Controls
from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Message = Mapping[str, Any]
_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DEFAULT = "default"
_NO_LIMIT = 1 << 31  # transformers writes a number of thirty digits where there is none
_HEAD = 1 << 17  # characters of a tokenizer.json among which added tokens are looked for


def read_json(file: Path) -> dict[str, Any]:
    """The object of a JSON file; empty where there is none. Raises EngineError."""
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
    one more, whose id the tokenizer knows. template: the chat template; templates: others, by name. specials: special
    tokens by the names that templates have for them, those that there are. longest: the most tokens of a text that the
    folder allows, None where it sets no limit. source: the folder or file, named in errors.
    """

    source: Path
    make: "Callable[[], Tokenizer | None]" = lambda: None
    template: str | None = None
    templates: dict[str, str] = field(default_factory=dict)
    specials: dict[str, str] = field(default_factory=dict)
    stated: frozenset[int] = frozenset()
    end: str = ""
    longest: int | None = None

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
        settings = read_json(path / "tokenizer_config.json")
        template, templates = _templates(path, settings.get("chat_template"))
        specials = _specials(path, settings)
        ends: set[int] = set()
        for file in ("config.json", "generation_config.json"):
            value = read_json(path / file).get("eos_token_id")
            ends |= {int(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)}
        longest = read_json(path / "sentence_bert_config.json").get("max_seq_length") or settings.get(
            "model_max_length"
        )
        written, end = path / "tokenizer.json", specials.get("eos_token", "")
        return cls(
            path,
            lambda: _read(written),
            template,
            templates,
            specials,
            frozenset(ends),
            "" if _added(written, end) in ends else end,
            longest if isinstance(longest, int) and longest < _NO_LIMIT else None,
        )

    @classmethod
    def _of_gguf(cls, file: Path) -> "Tokens":
        fields = gguf_reader.read_fields(file)
        names = fields.get("tokenizer.ggml.tokens", [])
        specials, ends = {}, set()
        for name, key in zip(_SPECIALS, ("bos", "eos", "unknown", "seperator", "padding", "cls", "mask"), strict=True):
            token = fields.get(f"tokenizer.ggml.{key}_token_id")
            if isinstance(token, int) and 0 <= token < len(names) and isinstance(names[token], str):
                specials[name] = names[token]
        for key in ("eos", "eot", "eom"):
            token = fields.get(f"tokenizer.ggml.{key}_token_id")
            ends |= {token} if isinstance(token, int) else set()
        begin = "tokenizer.chat_template"
        texts = {
            key[len(begin) + 1 :]: value
            for key, value in fields.items()
            if (key == begin or key.startswith(f"{begin}.")) and isinstance(value, str)
        }
        template = texts.pop("", None)

        def make() -> "Tokenizer | None":
            try:
                return gguf_reader.tokenizer(fields)
            except EngineError as error:
                raise EngineError(f"{file}: {error}") from None
            except Exception as error:  # the library raises plain Exception for every kind of damage
                raise EngineError(f"the tokenizer of {file} cannot be made: {' '.join(str(error).split())}") from None

        return cls(file, make, template, texts, specials, frozenset(ends))

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

    def chat(
        self, messages: Sequence[Message], *, control_tokens: bool = False, variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation by the model's own template, ready for the assistant's turn.

        Control tokens are the template's alone: those that a message or a variable has are read as text, unless
        `control_tokens` is on. variables: of the template. Raises EngineError.
        """
        template, variables = self._chosen(variables or {}), variables or {}
        template.check(variables)
        if control_tokens:
            return self.encode(template.render(messages, {**self.specials, **variables}), special=False)
        theirs, said = self._controls(template)
        marked = [(theirs if message.get("role") == "assistant" else said).mark(message) for message in messages]
        text = template.render(marked, {**self.specials, **said.mark(variables)})
        ids: list[int] = []
        for part, forged in said.parts(text):
            ids += self._middle(part, plain=forged) if ids or forged else self.encode(part, special=False)
        return ids

    def _controls(self, template: ChatTemplate) -> tuple[Controls, Controls]:
        """Control tokens that an assistant's message may not have, and any other text."""
        if template.text not in self._known:
            tokenizer = self._need()
            added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
            strict = {name for name, special in added.items() if special}
            strict |= {name for token in self.ends if (name := tokenizer.id_to_token(token)) in added}
            # Others are control tokens where the template writes them; but a model writes them, too, and what it wrote
            # is read as it was written.
            own = {name for name in added if not name.isspace() and name in template.literals}
            self._known[template.text] = Controls(strict), Controls(strict | own)
        return self._known[template.text]

    @cached_property
    def _known(self) -> dict[str, tuple[Controls, Controls]]:
        return {}

    def _middle(self, text: str, *, plain: bool) -> list[int]:
        """Token ids of a text that others precede. plain: one in which no token is a control token."""
        tokenizer = self._plain if plain else self._need()
        # A line's end goes before it and is taken off again: sentencepiece puts a space before what it begins with.
        encode = lambda one: tokenizer.encode(one, add_special_tokens=False).ids  # noqa: E731
        before, both = encode("\n"), encode("\n" + text)
        ids = both[len(before) :] if both[: len(before)] == before else encode(text)
        if plain and self._need().token_to_id(text) in ids:
            raise EngineError(f"a message has {text!r}, which this model's tokenizer cannot read as text; leave it out")
        return list(ids)

    @cached_property
    def _plain(self) -> "Tokenizer":
        """The tokenizer without its added tokens."""
        from tokenizers import Tokenizer

        spec = json.loads(self._need().to_str())
        return Tokenizer.from_str(json.dumps({**spec, "added_tokens": [], "post_processor": None}))

    def check_variables(self, variables: Mapping[str, Any]) -> None:
        """Refuse variables that the chat template does not use. Raises EngineError."""
        if variables:
            self._chosen(variables).check(variables)

    def _chosen(self, variables: Mapping[str, Any]) -> ChatTemplate:
        """The default template; where tools are given the one for them, if there is one. Raises EngineError."""
        return self._template("tool_use" if variables.get("tools") and "tool_use" in self.templates else "")

    def stream(self, ids: Iterable[int], stop: str | Sequence[str] = ()) -> Iterator[str]:
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

    def _template(self, name: str) -> ChatTemplate:
        """The template of a name; "" is the default one. Raises EngineError."""
        if name not in self._compiled:
            text = self.templates[name] if name else self.template
            if text is None:
                named = f"it has {', '.join(sorted(self.templates))}, and none is the default" if self.templates else ""
                raise EngineError(f"{self.source} has no chat template; {named or 'give the prompt as text'}")
            self._compiled[name] = ChatTemplate(text, str(self.source))
        return self._compiled[name]

    @cached_property
    def _compiled(self) -> dict[str, ChatTemplate]:
        return {}


def _templates(folder: Path, stated: Any) -> tuple[str | None, dict[str, str]]:
    """The default chat template of a folder and its others by name. stated: what tokenizer_config.json says."""
    texts = {}
    if isinstance(stated, str):
        texts[_DEFAULT] = stated
    elif isinstance(stated, dict):
        texts = {str(name): text for name, text in stated.items() if isinstance(text, str)}
    elif isinstance(stated, list):  # as transformers kept several: [{"name": …, "template": …}, …]
        for one in stated:
            if isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("template"), str):
                texts[one["name"]] = one["template"]
    if (folder / "chat_template.jinja").is_file():
        texts = {_DEFAULT: (folder / "chat_template.jinja").read_text(encoding="utf-8")}
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        texts[file.stem] = file.read_text(encoding="utf-8")
    return texts.pop(_DEFAULT, None), texts


def _specials(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Special tokens by name. As in transformers, special_tokens_map.json counts, and counts more, where
    tokenizer_config.json is of the old kind and lists no added tokens."""
    old = "added_tokens_decoder" not in settings
    stated = settings | (read_json(folder / "special_tokens_map.json") if old else {})
    texts = {name: one.get("content") if isinstance(one := stated.get(name), dict) else one for name in _SPECIALS}
    return {name: text for name, text in texts.items() if isinstance(text, str) and text}
