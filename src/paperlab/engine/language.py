"""Language models: next tokens, scores, logits."""

import ctypes
import weakref
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from paperlab.engine.formats.tokenizer import Message, Tokens
from paperlab.engine.native import EngineError, call, library, pointer, sampling, whole

Prompt = str | Sequence[int] | Sequence[Message]


class Session:
    """The key-value cache of one text.

    cache_bits: 32, 16 (bfloat16), 8 or 4, in which they are kept; context: the most tokens, None at most 4096.
    """

    def __init__(self, model: "LanguageModel", context: int | None = None, cache_bits: int = 16) -> None:
        if context is not None and whole("context", context, most=2**63 - 1) < 1:
            raise EngineError(f"a context of {context} tokens; at least 1 is needed")
        whole("cache_bits", cache_bits, 4, 32)
        self.handle = call("session_new", model.handle, context or 0, cache_bits)
        weakref.finalize(self, library().pl_session_free, self.handle)

    def __len__(self) -> int:
        return int(library().pl_session_length(self.handle))

    @property
    def bytes(self) -> int:
        """Memory that the tokens so far take."""
        return int(library().pl_session_bytes(self.handle))

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens (drafted ones that were not accepted, for example)."""
        call("session_truncate", self.handle, length)


def _ids(tokens: Sequence[int]) -> np.ndarray:
    try:
        return np.ascontiguousarray(tokens, np.int32)
    except (ValueError, TypeError, OverflowError):
        raise EngineError("token ids must be whole numbers below 2^31") from None


class LanguageModel:
    """Made by `paperlab.engine.load`. about: the compiled part's description of itself and the model."""

    def __init__(self, handle: int, about: dict[str, Any], tokens: Tokens) -> None:
        self.handle, self.about, self.tokens = handle, about, tokens
        weakref.finalize(self, library().pl_free, handle)

    def session(self, context: int | None = None, cache_bits: int = 16) -> Session:
        """A cache for a new text. Sessions of one model may be run together by `forward`."""
        return Session(self, context, cache_bits)

    def ids(
        self,
        prompt: Prompt,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        control_tokens: bool = False,
    ) -> list[int]:
        """Token ids of a text, of messages ({"role": …, "content": …}) by the chat template, or of ids.

        A text may hold control tokens ("<|im_end|>"), and they are obeyed. In messages they are the template's alone:
        what a message has of them is read as text. chat_template_kwargs: variables of the template ("enable_thinking").
        control_tokens: obey those in messages, too. Raises EngineError.
        """
        if isinstance(prompt, str):
            return self.tokens.encode(prompt)
        items: list[Any] = list(prompt)
        if items and all(isinstance(item, Mapping) for item in items):
            return self.tokens.chat(items, control_tokens=control_tokens, variables=chat_template_kwargs)
        if not all(isinstance(item, Integral) for item in items):
            odd = next(item for item in items if not isinstance(item, Integral))
            raise EngineError(
                'a prompt is a text, a list of messages {"role": …, "content": …} or a list of token ids; this list '
                f"has {str(odd)[:40]!r}"
            )
        return [int(item) for item in items]

    def forward(self, batch: Sequence[tuple[Session, Sequence[int]]], *, every: bool = False) -> np.ndarray:
        """Run the next tokens of several sessions together. Logits (rows, vocabulary) float32.

        One row per session, after its last token; every: one row per token, in order. A drafted text is verified by
        running all its tokens with `every` and truncating the session to what was accepted.
        """
        counts = np.array([len(tokens) for _, tokens in batch], np.int32)
        flat = _ids([token for _, tokens in batch for token in tokens])
        handles = (ctypes.c_void_p * len(batch))(*(session.handle for session, _ in batch))
        logits = np.empty((int(counts.sum()) if every else len(batch), self.about["vocabulary"]), np.float32)
        call("forward", handles, pointer(counts), len(batch), pointer(flat), 2 if every else 1, pointer(logits))
        return logits

    def generate_ids(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        session: Session | None = None,
        cache_bits: int = 16,
        ignore_end: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        control_tokens: bool = False,
    ) -> Iterator[int]:
        """Token ids one by one, until the model ends its text, `max_tokens` are out or the context is full.

        temperature 0 takes the likeliest token; else top_k, top_p and min_p narrow the choice in this order (0, 1 and 0
        leave it). The same seed draws the same text. session: go on with one, its tokens come before the prompt's.
        cache_bits: 32, 16, 8 or 4, in which keys and values are kept. chat_template_kwargs, control_tokens: as `ids`
        has them. Raises EngineError.
        """
        ids = self.ids(prompt, chat_template_kwargs=chat_template_kwargs, control_tokens=control_tokens)
        if not ids:
            raise EngineError("the prompt is empty: there is nothing to continue")
        how = sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        whole("max_tokens", max_tokens, 0)
        penalized = repetition_penalty != 1.0
        if session is None:
            limit = self.about["context"]
            session = self.session(min(limit, len(ids) + max_tokens) if len(ids) <= limit else None, cache_bits)
        step, turn = 0, ids
        while step < max_tokens:
            seen = _ids(ids) if penalized else None
            token = call(
                "next",
                session.handle,
                pointer(_ids(turn)),
                len(turn),
                how,
                step,
                pointer(seen),
                len(ids) if penalized else 0,
            )
            if token in self.tokens.ends and not ignore_end:
                return
            yield token
            ids.append(token)
            turn = [token]
            step += 1
            if len(session) >= self.about["context"]:
                return

    def generate(self, prompt: Prompt, *, stop: str | Sequence[str] = (), **options: Any) -> Iterator[str]:
        """Text piece by piece as it is made. stop: a text that ends it, or several, left out of it. Options as
        `generate_ids`."""
        return self.tokens.stream(self.generate_ids(prompt, **options), stop)

    def score(self, text: str | Sequence[int], *, cache_bits: int = 16) -> np.ndarray:
        """(n - 1,) float32: natural log probability of each token of a text after those before it."""
        ids = _ids(self.ids(text))
        if len(ids) < 2:
            raise EngineError("a text of fewer than two tokens has nothing to score")
        scores = np.empty(len(ids) - 1, np.float32)
        session = self.session(len(ids), cache_bits)  # a name keeps it alive during the call
        call("score", session.handle, pointer(ids), len(ids), pointer(scores))
        return scores
