"""Tokens back to text, one by one: whole characters only, and nothing that a stop text may begin with."""

import codecs
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@cache
def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level token's name stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(moved)}


class Spelling:
    """The bytes of a tokenizer's tokens. exact: whether the bytes of a run of tokens are those of its text."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer
        decoder = tokenizer.decoder
        self.exact = decoder is not None and json.loads(decoder.__getstate__()).get("type") == "ByteLevel"
        added = tokenizer.get_added_tokens_decoder()
        self.special = frozenset(token for token, about in added.items() if about.special)
        self.longest = max(map(len, tokenizer.get_vocab()), default=1)  # characters of a token's name
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        """A token's bytes, special ones by their names; empty where the tokenizer has no such token."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._spell(self.tokenizer.id_to_token(token) or "", token)
        return found

    def _spell(self, name: str, token: int) -> bytes:
        if token in self.special:
            return name.encode()
        if self.exact:
            letters = _letters()
            return bytes(map(letters.__getitem__, name)) if letters.keys() >= set(name) else name.encode()
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace("▁", " ").encode()


class Writer:
    """The text of one run of tokens. made: characters so far; given: those handed out; cut: where a stop text began."""

    def __init__(self, spelling: Spelling, stop: Sequence[str] = ()) -> None:
        self._stop = [word for word in stop if word]
        self._held = ""
        self.made = self.given = 0
        self.cut: int | None = None
        self._decode, self._rest = _decoding(spelling)

    def push(self, token: int) -> str:
        """What is certain now that `token` has come; once a stop text is complete, `cut` is set and all is given."""
        if self.cut is not None:
            return ""
        return self._certain(self._decode(token))

    def end(self) -> str:
        """What was held back, where no more tokens come."""
        if self.cut is not None:
            return ""
        certain = self._certain(self._rest())
        if self.cut is None:
            certain += self._held
            self.given = self.made
        return certain

    def _certain(self, new: str) -> str:
        if not new:
            return ""
        self._held += new
        self.made += len(new)
        found = min((at for word in self._stop if (at := self._held.find(word)) >= 0), default=-1)
        if found >= 0:
            self.cut = self.made - len(self._held) + found
            safe = found
        else:
            safe = len(self._held) - max((_overlap(self._held, word) for word in self._stop), default=0)
        certain, self._held = self._held[:safe], self._held[safe:]
        self.given += safe
        return certain


def _decoding(spelling: Spelling) -> tuple[Callable[[int], str], Callable[[], str]]:
    """(token -> text, what is left at the end). Special tokens have no text."""
    if spelling.exact:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        step = lambda token: "" if token in spelling.special else decoder.decode(spelling(token))  # noqa: E731
        return step, lambda: decoder.decode(b"", True)
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=True)
    return (lambda token: stream.step(spelling.tokenizer, token) or ""), (lambda: "")


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that `word` begins with."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)
