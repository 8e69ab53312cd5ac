"""Sentence encoders: texts to vectors."""

import weakref
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from paperlab.engine.formats.tokenizer import Tokens
from paperlab.engine.native import EngineError, call, library, pointer

_AT_ONCE = 512  # tokens of one call: their activations stay in the caches


class Encoder:
    """Made by `paperlab.engine.load`. about: the compiled part's description of itself and the model."""

    def __init__(self, handle: int, about: dict[str, Any], tokens: Tokens) -> None:
        self.handle, self.about, self.tokens = handle, about, tokens
        weakref.finalize(self, library().pl_free, handle)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self.about["hidden"])

    @property
    def longest(self) -> int:
        """Tokens after which a text is cut: its folder's limit, and never more than the model has positions for."""
        return min(self.about["context"], self.tokens.longest or self.about["context"])

    def embed(
        self, texts: Sequence[str], *, pooling: Literal["mean", "cls"] | None = None, normalize: bool = True
    ) -> np.ndarray:
        """(n, width) float32, of length 1 unless `normalize` is off. pooling: None as the model's folder says."""
        if isinstance(texts, str):
            raise EngineError("embed takes a list of texts; put the one text in a list")
        return self.embed_ids(self.tokens.encode_all(texts, self.longest), pooling=pooling, normalize=normalize)

    def embed_ids(
        self, ids: Sequence[Sequence[int]], *, pooling: Literal["mean", "cls"] | None = None, normalize: bool = True
    ) -> np.ndarray:
        """As `embed`, for token ids. A text's vector does not depend on the other texts."""
        how = pooling or self.tokens.pooling
        if how not in ("mean", "cls"):
            raise EngineError(f"pooling {how!r}; mean and cls are known")
        out = np.empty((len(ids), self.width), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:
            batch: list[int] = []
            size = 0
            while order and (not batch or size + len(ids[order[-1]]) <= _AT_ONCE):
                size += len(ids[order[-1]])
                batch.append(order.pop())
            flat = np.array([token for i in batch for token in ids[i]], np.int32)
            lengths = np.array([len(ids[i]) for i in batch], np.int32)
            part = np.empty((len(batch), self.width), np.float32)
            words = (pointer(flat), pointer(lengths), len(batch), int(how == "cls"), int(normalize), pointer(part))
            call("embed", self.handle, *words)
            out[batch] = part
        return out
