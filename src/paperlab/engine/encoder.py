"""Sentence encoders: texts to vectors."""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from paperlab.core.sentence import POOLINGS, SentenceError, check_poolings
from paperlab.engine.formats import sentence
from paperlab.engine.formats.sentence import Sentence
from paperlab.engine.formats.tokenizer import Tokens
from paperlab.engine.native import EngineError, call, library, pointer

_AT_ONCE = 512  # tokens of one call: their activations stay in the caches


class Encoder:
    """Made by `paperlab.engine.load`. about: the compiled part's description of itself and the model; sentence: what
    its folder says of the way from tokens to a vector."""

    def __init__(self, handle: int, about: dict[str, Any], tokens: Tokens, how: Sentence | None = None) -> None:
        self.handle, self.about, self.tokens, self.sentence = handle, about, tokens, how or Sentence()
        self._width = int(about["hidden"]) * len(self.sentence.poolings)
        for step in self.sentence.steps:
            if isinstance(step, sentence.Dense):
                takes = step.weight.shape[1]
                if takes != self._width:
                    raise EngineError(f"{tokens.source}: a Dense takes {takes} numbers, and there are {self._width}")
                self._width = len(step.weight)
        weakref.finalize(self, library().pl_free, handle)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self._width

    @property
    def longest(self) -> int:
        """Tokens after which a text is cut: its folder's limit, and never more than the model has positions for."""
        return min(self.about["context"], self.tokens.longest or self.about["context"])

    def encode(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Token ids of texts, with the prompt that the folder puts before each, cut to `most` (None: `longest`)."""
        return self.tokens.encode_all([self.sentence.read(text) for text in texts], most or self.longest)

    def embed(
        self, texts: Sequence[str], *, pooling: str | Sequence[str] | None = None, normalize: bool = True
    ) -> np.ndarray:
        """(n, width) float32, of length 1 unless `normalize` is off.

        pooling: "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", or several, which stand one
        after another in this order; None as the model's folder says. A Dense layer of the folder follows in any case.
        """
        if isinstance(texts, str):
            raise EngineError("embed takes a list of texts; put the one text in a list")
        return self.embed_ids(self.encode(texts), pooling=pooling, normalize=normalize)

    def embed_ids(
        self, ids: Sequence[Sequence[int]], *, pooling: str | Sequence[str] | None = None, normalize: bool = True
    ) -> np.ndarray:
        """As `embed`, for token ids. A text's vector does not depend on the other texts."""
        poolings = self.sentence.poolings
        if pooling is not None:
            try:
                poolings = check_poolings([pooling] if isinstance(pooling, str) else pooling)
            except SentenceError as error:
                raise EngineError(str(error)) from None
        steps, kinds = self.sentence.steps, sum(1 << POOLINGS.index(name) for name in poolings)
        kinds = 0 if poolings == ("mean",) else kinds  # as paperlab.h has it
        if not poolings or (
            len(poolings) != len(self.sentence.poolings) and any(isinstance(s, sentence.Dense) for s in steps)
        ):
            raise EngineError(f"{len(poolings)} poolings; this model takes {len(self.sentence.poolings)}")
        width = int(self.about["hidden"]) * len(poolings)
        out = np.empty((len(ids), width), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:
            batch: list[int] = []
            size = 0
            while order and (not batch or size + len(ids[order[-1]]) <= _AT_ONCE):
                size += len(ids[order[-1]])
                batch.append(order.pop())
            flat = np.array([token for i in batch for token in ids[i]], np.int32)
            lengths = np.array([len(ids[i]) for i in batch], np.int32)
            part = np.empty((len(batch), width), np.float32)
            words = (pointer(flat), pointer(lengths), len(batch), kinds, int(normalize and not steps), pointer(part))
            call("embed", self.handle, *words)
            out[batch] = part
        return self._after(out, normalize) if steps else out

    def _after(self, pooled: np.ndarray, normalize: bool) -> np.ndarray:
        """(n, pooled width) -> (n, width) float32: what follows the pooling; at the end only where asked for."""
        steps = list(self.sentence.steps)
        while steps and steps[-1] is sentence.normalize:
            steps.pop()
        steps += [sentence.normalize] if normalize else []
        out = []
        for vector in pooled:
            for step in steps:
                vector = step(vector)
            out.append(vector)
        return np.stack(out) if out else np.empty((0, self.width), np.float32)
