"""Check what a request asks for: every parameter is obeyed, known to change nothing, or refused by its name."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from paperlab.engine.language import Prompt
from paperlab.engine.native import Sampling, sampling

TEXTS = 128  # of one request: prompts times n
INPUTS = 2048  # of one request for embeddings, as OpenAI has it
STOPS = 4
STOP_LENGTH = 1000  # characters


class Refused(Exception):
    """A refused request, answered with a status other than 200. param, code: as OpenAI's errors have them."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's JSON has it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class TextRequest:
    """Texts that a request asks for: n of each prompt. most: tokens of each, None as many as fit.

    logprobs: None, or how many other likely tokens to list for each. seed: None draws another text every time.
    template: variables of the chat template. control_tokens: obey control tokens in messages.
    """

    model: str
    prompts: tuple[Prompt, ...]
    chat: bool
    most: int | None
    n: int
    seed: int | None
    sampling: dict[str, float]
    stop: tuple[str, ...]
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool
    ignore_eos: bool
    template: dict[str, Any]
    control_tokens: bool

    def how(self, seed: int) -> Sampling:
        """The settings of the engine's sampler."""
        s = self.sampling
        return sampling(s["temperature"], int(s["top_k"]), s["top_p"], s["min_p"], s["repetition_penalty"], seed)


@dataclass(frozen=True)
class EmbeddingRequest:
    """Inputs to embed. truncate: cut texts that are too long instead of refusing them."""

    model: str
    inputs: tuple[str | list[int], ...]
    base64: bool
    truncate: bool


# Parameters that this server has no way to obey, with the values that ask for nothing.
_ONLY: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
# Parameters that change nothing in a text.
_IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
_SAMPLING: dict[str, tuple[float, float, float]] = {  # default, least, most
    "temperature": (1.0, 0.0, 2.0),
    "top_p": (1.0, 0.0, 1.0),
    "top_k": (0, 0, 2**31 - 1),
    "min_p": (0.0, 0.0, 1.0),
    "repetition_penalty": (1.0, 0.1, 10.0),
}
_COMMON = {*_SAMPLING, "ignore_eos", "logprobs", "max_tokens", "model", "n", "seed", "stop", "stream", "stream_options"}
_CHAT = {
    *_COMMON,
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "chat_template_kwargs",
    "allow_control_tokens",
}
_COMPLETION = {*_COMMON, "prompt", "echo"}
_EMBEDDINGS = {"model", "input", "encoding_format", "truncate"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def read(body: bytes) -> dict[str, Any]:
    """Parse a body as a JSON object. Raises Refused."""
    try:
        value = json.loads(body, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is in no text
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refused(f"the body is no valid JSON in UTF-8: {why}") from None
    if not isinstance(value, dict):
        raise Refused("the body must be a JSON object")
    return {name: one for name, one in value.items() if one is not None}


def chat(body: dict[str, Any]) -> TextRequest:
    """Check a request to /v1/chat/completions. Raises Refused."""
    _known(body, _CHAT)
    logprobs = _flag(body, "logprobs")
    top = _whole(body, "top_logprobs", 0, 20)
    if top is not None and not logprobs:
        raise Refused("top_logprobs needs logprobs to be true", "top_logprobs")
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise Refused("max_tokens and max_completion_tokens are two names of one limit; give one", "max_tokens")
    name = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
    messages = _messages(body.get("messages"))
    template = body.get("chat_template_kwargs", {})
    if not isinstance(template, dict):
        raise Refused("chat_template_kwargs must be an object: variables of the chat template", "chat_template_kwargs")
    return _request(
        body,
        prompts=(messages,),
        chat=True,
        most=_whole(body, name, 1, 2**31 - 1),
        logprobs=(top or 0) if logprobs else None,
        echo=False,
        template=template,
        control_tokens=_flag(body, "allow_control_tokens"),
    )


def completion(body: dict[str, Any]) -> TextRequest:
    """Check a request to /v1/completions. Raises Refused."""
    _known(body, _COMPLETION)
    echo = _flag(body, "echo")
    most = _whole(body, "max_tokens", 0, 2**31 - 1)
    if most == 0 and not echo:
        raise Refused("max_tokens is 0: nothing would be written; with echo the prompt comes back", "max_tokens")
    return _request(
        body,
        prompts=_texts(body.get("prompt"), "prompt", TEXTS),
        chat=False,
        most=16 if most is None else most,
        logprobs=_whole(body, "logprobs", 0, 20),
        echo=echo,
        template={},
        control_tokens=False,
    )


def embeddings(body: dict[str, Any]) -> EmbeddingRequest:
    """Check a request to /v1/embeddings. Raises Refused."""
    if "dimensions" in body:
        raise Refused("dimensions: this model's vectors cannot be shortened; leave it out", "dimensions")
    _known(body, _EMBEDDINGS)
    form = body.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refused("encoding_format must be float or base64", "encoding_format")
    inputs = _texts(body.get("input"), "input", INPUTS)
    return EmbeddingRequest(_model(body), inputs, form == "base64", _flag(body, "truncate"))


def _request(body: dict[str, Any], *, prompts: Sequence[Prompt], **more: Any) -> TextRequest:
    n = _whole(body, "n", 1, TEXTS) or 1
    if n * len(prompts) > TEXTS:
        raise Refused(f"{len(prompts)} prompts with n={n} are more than {TEXTS} texts; send several requests", "n")
    stream = _flag(body, "stream")
    return TextRequest(
        model=_model(body),
        prompts=tuple(prompts),
        n=n,
        seed=_whole(body, "seed", -(2**63), 2**64 - 1),
        sampling={name: _number(body, name, *limits) for name, limits in _SAMPLING.items()},
        stop=_stop(body.get("stop")),
        stream=stream,
        include_usage=_stream_options(body, stream),
        ignore_eos=_flag(body, "ignore_eos"),
        **more,
    )


def _known(body: dict[str, Any], obeyed: set[str]) -> None:
    for name, value in body.items():
        if name in obeyed or name in _IGNORED:
            continue
        if name not in _ONLY:
            raise Refused(f"unknown parameter {name[:100]!r}", name[:100], code="unknown_parameter")
        if not any(value == neutral and type(value) is not bool for neutral in _ONLY[name]):
            raise Refused(f"{name} is not supported by this server", name, code="unsupported_parameter")


def _model(body: dict[str, Any]) -> str:
    value = body.get("model")
    if not isinstance(value, str) or not value:
        raise Refused("model is missing: give the name that /v1/models lists", "model")
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name} must be true or false", name)
    return value


def _whole(body: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(f"{name} must be a whole number from {least} to {most}", name)
    return value


def _number(body: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    if isinstance(default, int):
        whole = _whole(body, name, int(least), int(most))
        return default if whole is None else whole
    value = body.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(f"{name} must be a number from {least:g} to {most:g}", name)
    return float(value)


def _stop(value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(words, list) or len(words) > STOPS or not all(isinstance(word, str) and word for word in words):
        raise Refused(f"stop must be a text or a list of at most {STOPS} texts, none of them empty", "stop")
    if any(len(word) > STOP_LENGTH for word in words):
        raise Refused(f"a stop text may have {STOP_LENGTH} characters", "stop")
    return tuple(words)


def _stream_options(body: dict[str, Any], stream: bool) -> bool:
    value = body.get("stream_options")
    if value is None:
        return False
    if not stream:
        raise Refused("stream_options needs stream to be true", "stream_options")
    if not isinstance(value, dict) or set(value) - {"include_usage", "include_obfuscation"}:
        raise Refused("stream_options may have include_usage and nothing else", "stream_options")
    if value.get("include_obfuscation"):
        raise Refused("include_obfuscation is not supported by this server", "stream_options.include_obfuscation")
    return _flag(value, "include_usage")


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise Refused("messages must be a list of at least one message", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(value)]


def _message(message: Any, at: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise Refused(f"{at} must be an object with role and content", at)
    for name, value in message.items():
        if name not in ("role", "content") and value not in (None, [], ""):
            raise Refused(f"{at}.{name[:100]} is not supported by this server", f"{at}.{name[:100]}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Refused(f"{at}.role must be one of {', '.join(_ROLES)}", f"{at}.role")
    content = message.get("content")
    if isinstance(content, list):
        parts = []
        for j, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise Refused(f'{at}.content[{j}]: only {{"type": "text", "text": …}} is supported', f"{at}.content")
            parts.append(part["text"])
        content = "".join(parts)
    if content is None and role == "assistant":
        content = ""  # as OpenAI has it, where the assistant called a tool or refused
    if not isinstance(content, str):
        raise Refused(f"{at}.content must be a text or a list of text parts", f"{at}.content")
    return {"role": _ROLES[role], "content": content}


def _texts(value: Any, name: str, most: int) -> tuple[str | list[int], ...]:
    """A text, texts, token ids, or lists of token ids."""
    items = value if isinstance(value, list) else [value]
    if items and all(type(item) is int for item in items):
        items = [items]
    for item in items:
        if not isinstance(item, str) and not (isinstance(item, list) and all(type(token) is int for token in item)):
            raise Refused(f"{name} must be a text, a list of texts, a list of token ids, or a list of such lists", name)
        if not item:
            raise Refused(f"{name} is empty: there is nothing to work on", name)
        if isinstance(item, list) and not all(0 <= token < 2**31 for token in item):
            raise Refused(f"{name}: a token id is outside the vocabulary", name)
    if not 1 <= len(items) <= most:
        raise Refused(f"{name} has {len(items)} items; 1 to {most} are possible", name)
    return tuple(items)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def finite(value: float) -> float:
    """A log probability that JSON can express: -9999 for minus infinity."""
    return value if math.isfinite(value) else -9999.0
