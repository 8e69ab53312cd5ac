"""Turn tokens back into text one by one: complete characters only, and nothing of a stop text."""

import codecs
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@cache
def byte_of_letter() -> dict[str, int]:
    """The byte that each letter of a byte-level token's name stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(moved)}


class TokenBytes:
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
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._bytes(self.tokenizer.id_to_token(token) or "", token)
        return known

    def _bytes(self, name: str, token: int) -> bytes:
        if token in self.special:
            return name.encode()
        if self.exact:
            letters = byte_of_letter()
            return bytes(map(letters.__getitem__, name)) if letters.keys() >= set(name) else name.encode()
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace("▁", " ").encode()


class Detokenizer:
    """The text of one sequence of tokens. A character of which only the first bytes come is left out at the end.

    stop: a text that ends it, or several. made: characters so far; given: those returned; cut: the position at which
    a stop text began, None before that.
    """

    def __init__(self, token_bytes: TokenBytes, stop: str | Sequence[str] = ()) -> None:
        words = [stop] if isinstance(stop, str) else list(stop)
        if not all(isinstance(word, str) for word in words):
            raise EngineError(f"stop is a text, or a list of texts; {words!r:.100} has something else")
        self._stop = [word for word in words if word]
        self._pending = ""
        self.made = self.given = 0
        self.cut: int | None = None
        self._decode = _decoding(token_bytes)

    def push(self, token: int) -> str:
        """The text that is final with this token; once a stop text is complete, `cut` is set and nothing follows."""
        if self.cut is not None:
            return ""
        return self._final(self._decode(token))

    def end(self) -> str:
        """The rest of the text, where no more tokens come."""
        if self.cut is not None:
            return ""
        self.given = self.made
        return self._pending

    def _final(self, new: str) -> str:
        if not new:
            return ""
        self._pending += new
        self.made += len(new)
        first = min((at for word in self._stop if (at := self._pending.find(word)) >= 0), default=-1)
        if first >= 0:
            self.cut = self.made - len(self._pending) + first
            safe = first
        else:
            safe = len(self._pending) - max((_overlap(self._pending, word) for word in self._stop), default=0)
        final, self._pending = self._pending[:safe], self._pending[safe:]
        self.given += safe
        return final


def _decoding(token_bytes: TokenBytes) -> Callable[[int], str]:
    """Token -> text, as far as its characters are whole. Special tokens have no text."""
    if token_bytes.exact:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: "" if token in token_bytes.special else decoder.decode(token_bytes(token))
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=True)
    return lambda token: stream.step(token_bytes.tokenizer, token) or ""


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that `word` begins with."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)
