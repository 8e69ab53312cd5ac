"""A text that is being generated, and the pieces in which it reaches its reader."""

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from paperlab.engine.detokenizer import Detokenizer
from paperlab.engine.native import Sampling, call, pointer

UNREAD = 256  # pieces that wait for a slow reader before its text pauses


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its natural log probability (None: the first of a prompt), and the likeliest in its place."""

    token: int
    logprob: float | None
    likeliest: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Piece:
    """The part of a text since the last piece. finish: "stop" or "length" with its last piece; error: it failed."""

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None


class Text:
    """One text. A request makes it, may set `cancelled` and raises `read`; the rest belongs to the generating thread.

    index: which of its request's. ids: the prompt, then what is drawn. most: tokens to draw, 0 for none. logprobs:
    None, or how many likely tokens to list for each. scores_prompt: list them for the prompt, too.
    """

    def __init__(
        self,
        index: int,
        ids: list[int],
        *,
        most: int,
        how: Sampling,
        detokenizer: Detokenizer,
        ends: frozenset[int] = frozenset(),
        logprobs: int | None = None,
        scores_prompt: bool = False,
    ) -> None:
        self.index, self.ids, self.most, self.how, self.detokenizer, self.ends = (
            index,
            ids,
            most,
            how,
            detokenizer,
            ends,
        )
        self.logprobs, self.scores_prompt = logprobs, scores_prompt
        self.prompt = len(ids)
        self.cached = self.drawn = self.sent = self.read = 0
        self.cancelled = False
        self.begun = time.monotonic()
        self._scored: deque[tuple[int, int, Scored]] = deque()  # where in the text a token begins and ends

    @property
    def paused(self) -> bool:
        """Whether generation waits, because its reader is too far behind."""
        return self.sent - self.read > UNREAD

    def score(self, at: int, row: np.ndarray | None) -> None:
        """Record the log probability of the prompt's token `at`, by the logits before it."""
        token = self.ids[at]
        self._scored.append((-1, 0, Scored(token, None, ()) if row is None else scored(row, token, self.logprobs or 0)))

    def draw(self, row: np.ndarray) -> Piece | None:
        """Draw the next token from its logits, which are changed. The piece to deliver now, if any."""
        if self.most == 0:
            return self.piece("", "length")
        raw = row.copy() if self.logprobs is not None else row
        token = self._token(row)
        self.drawn += 1
        if token in self.ends:
            return self.piece(self.detokenizer.end(), "stop")
        self.ids.append(token)
        begin = self.detokenizer.made
        new = self.detokenizer.push(token)
        if self.logprobs is not None:
            self._scored.append((begin, self.detokenizer.made, scored(raw, token, self.logprobs)))
        if self.drawn == self.most:
            new += self.detokenizer.end()
        if self.detokenizer.cut is not None:
            return self.piece(new, "stop")
        if self.drawn == self.most:
            return self.piece(new, "length")
        return self.piece(new) if new else None

    def _token(self, row: np.ndarray) -> int:
        """The next token from its logits, which are changed."""
        how = self.how
        penalized = how.repetition_penalty != 1.0
        if how.temperature == 0 and not penalized:
            best = int(row.argmax())  # NumPy's vectors are some 15 times as fast as the sampler's
            if row[best] == row[best]:  # argmax points at a NaN, which the sampler explains
                return best
        seen = np.array(self.ids, np.int32) if penalized else None
        count = len(self.ids) if penalized else 0
        token: int = call("sample", pointer(row), row.size, how, self.drawn, pointer(seen), count)
        return token

    def piece(self, text: str = "", finish: str | None = None) -> Piece:
        """A piece with the tokens whose text has been returned."""
        tokens = []
        cut, given = self.detokenizer.cut, self.detokenizer.given
        while self._scored:
            begin, end, token = self._scored[0]
            if (begin >= cut) if cut is not None else (end > given and finish is None):
                break
            tokens.append(token)
            self._scored.popleft()
        return Piece(text, tokens, finish)


def scored(row: np.ndarray, token: int, count: int) -> Scored:
    """A token's log probability by (vocabulary,) logits, and those of the `count` likeliest."""
    low = row - row.max()
    low -= np.log(np.exp(low).sum(dtype=np.float64)).astype(np.float32)
    best = np.argpartition(low, -count)[-count:] if count < low.size else np.arange(low.size)
    best = best[np.lexsort((best, -low[best]))] if count else best[:0]
    return Scored(token, float(low[token]), tuple((int(one), float(low[one])) for one in best))
