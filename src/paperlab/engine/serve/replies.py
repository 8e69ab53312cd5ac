"""Write texts as OpenAI's JSON: complete answers, and the chunks of a stream."""

import json
import secrets
import time
from typing import Any

from paperlab.engine.detokenizer import Detokenizer, TokenBytes
from paperlab.engine.serve.requests import TextRequest, finite
from paperlab.engine.serve.texts import Piece, Scored, Text


class Reply:
    """The answer to one request, made from the pieces of its texts."""

    def __init__(
        self, asked: TextRequest, texts: list[Text], token_bytes: TokenBytes, fingerprint: str, echoed: list[str]
    ) -> None:
        self.asked, self.texts, self.token_bytes, self.echoed = asked, texts, token_bytes, echoed
        kind = "chat.completion" if asked.chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": f"{kind}.chunk" if asked.chat and asked.stream else kind,
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": fingerprint,
        }
        self._begun: set[int] = set()
        self._offsets: dict[int, Detokenizer] = (
            {text.index: Detokenizer(token_bytes) for text in texts} if asked.logprobs is not None else {}
        )

    def usage(self) -> dict[str, Any]:
        """Token counts; a prompt counts once, however many texts it gets."""
        firsts = self.texts[:: self.asked.n]
        prompt, written = sum(text.prompt for text in firsts), sum(text.drawn for text in self.texts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": sum(text.cached for text in firsts)},
        }

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The answer without a stream, from the complete texts."""
        choices = [self._choice(i, piece) for i, piece in enumerate(pieces)]
        return {**self._head, "choices": choices, "usage": self.usage()}

    def chunks(self, index: int, piece: Piece) -> list[bytes]:
        """Events of a stream for a piece of one text."""
        usage = {"usage": None} if self.asked.include_usage else {}
        made = []
        choice: dict[str, Any]
        if self.asked.chat and index not in self._begun:
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            made.append(_event({**self._head, "choices": [choice], **usage}))
        if not self.asked.chat or piece.text or piece.tokens:
            last = piece.finish if not self.asked.chat else None
            choice = self._choice(index, Piece(piece.text, piece.tokens, last))
            if self.asked.chat:
                choice["delta"] = {"content": choice.pop("message")["content"]}
            made.append(_event({**self._head, "choices": [choice], **usage}))
        if self.asked.chat and piece.finish:
            choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": piece.finish}
            made.append(_event({**self._head, "choices": [choice], **usage}))
        self._begun.add(index)
        return made

    def end(self) -> bytes:
        """The last events of a stream."""
        last = b"data: [DONE]\n\n"
        if self.asked.include_usage:
            last = _event({**self._head, "choices": [], "usage": self.usage()}) + last
        return last

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        scored = self.asked.logprobs is not None
        if self.asked.chat:
            logprobs = {"content": [self._entry(one) for one in piece.tokens], "refusal": None} if scored else None
            message = {"role": "assistant", "content": piece.text, "refusal": None}
            return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": piece.finish}
        first = self.asked.echo and index not in self._begun
        text = self.echoed[index // self.asked.n] + piece.text if first else piece.text
        logprobs = self._columns(index, piece.tokens) if scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish}

    def _entry(self, scored: Scored) -> dict[str, Any]:
        return {
            **self._named(scored.token, scored.logprob or 0.0),
            "top_logprobs": [self._named(token, value) for token, value in scored.likeliest],
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self.token_bytes(token)
        return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}

    def _columns(self, index: int, tokens: list[Scored]) -> dict[str, Any]:
        """Log probabilities in the older form, of /v1/completions."""
        offsets = []
        for one in tokens:
            offsets.append(self._offsets[index].made)
            self._offsets[index].push(one.token)
        return {
            "tokens": [self._name(one.token) for one in tokens],
            "token_logprobs": [None if one.logprob is None else finite(one.logprob) for one in tokens],
            "top_logprobs": [self._likeliest(one) for one in tokens] if self.asked.logprobs else None,
            "text_offset": offsets,
        }

    def _likeliest(self, scored: Scored) -> dict[str, float] | None:
        """The likeliest tokens with their log probabilities, always with the token itself."""
        if scored.logprob is None:
            return None
        return {self._name(t): finite(v) for t, v in (*scored.likeliest, (scored.token, scored.logprob))}

    def _name(self, token: int) -> str:
        raw = self.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def failure(message: str) -> bytes:
    """The event of an error within a stream."""
    return _event({"error": {"message": message, "type": "server_error", "param": None, "code": None}})
