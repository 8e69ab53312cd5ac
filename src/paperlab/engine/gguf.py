"""The fields of a GGUF file, and the tokenizer that they describe. (Tensors are the compiled part's business.)"""

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY, _CONTROL, _USER = 8, 9, 3, 4
# How a text is cut before byte pairs are merged, by the name that llama.cpp gives it: a pattern, or None where
# ByteLevel's own is meant; digits: each one a piece of its own.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_CUTS: dict[str, tuple[str | None, bool]] = {
    "default": (None, False),
    "gpt-2": (None, False),
    "smollm": (None, True),
    "llama-bpe": (_LLAMA3, False),
    "qwen2": (_LLAMA3.replace("{1,3}", ""), False),
}


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def plain(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.plain("Q")
        if length > len(self.data) - self.at:
            raise ValueError("a text reaches past the end")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.plain("I"), self.plain("Q")
            if inner == _ARRAY or count > len(self.data) - self.at:
                raise ValueError("an array is damaged")
            return [self.value(inner) for _ in range(count)]
        return self.plain(_PLAIN[kind])


def fields(file: Path) -> dict[str, Any]:
    """Every field by name. Raises EngineError."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            if data[:4] != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            reader.at = 16
            return {reader.text(): reader.value(reader.plain("I")) for _ in range(reader.plain("Q"))}
    except (ValueError, KeyError, struct.error, OSError) as error:
        raise EngineError(f"{file} is no whole GGUF file: {error}") from None


def tokenizer(found: dict[str, Any]) -> "Tokenizer | None":
    """The byte-level BPE tokenizer of a file's fields; None where they describe another kind."""
    cut = _CUTS.get(found.get("tokenizer.ggml.pre", "default"))
    names, merges = found.get("tokenizer.ggml.tokens"), found.get("tokenizer.ggml.merges")
    if found.get("tokenizer.ggml.model") != "gpt2" or cut is None or not names or merges is None:
        return None
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    pattern, digits = cut
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, pairs))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    kinds = found.get("tokenizer.ggml.token_type", [])
    made.add_special_tokens(
        [AddedToken(n, special=True, normalized=False) for n, k in zip(names, kinds, strict=False) if k == _CONTROL]
    )
    made.add_tokens([AddedToken(n, normalized=False) for n, k in zip(names, kinds, strict=False) if k == _USER])
    return made
