"""Connect the event loop with the model's thread: requests become texts, and their pieces come back."""

import asyncio
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from paperlab.engine.detokenizer import Detokenizer
from paperlab.engine.encoder import Encoder
from paperlab.engine.language import LanguageModel, Prompt
from paperlab.engine.native import EngineError
from paperlab.engine.serve.batching import Batcher
from paperlab.engine.serve.embedding import Embedder, Job
from paperlab.engine.serve.metrics import Metrics
from paperlab.engine.serve.requests import EmbeddingRequest, Refused, TextRequest
from paperlab.engine.serve.texts import Piece, Text

CONTEXT = 4096  # tokens, where nobody says and the model takes more
LONGEST_WORD = 128  # characters that a token of an encoder's text is taken for, at most

_STEP = 0xD1342543DE82EF95  # between the seeds of a prompt's texts; not the sampler's own stride


@dataclass(frozen=True)
class Options:
    """How a model is served. context: tokens of a text, None `CONTEXT`; queue: texts that may wait for a slot.

    cache_bits: as `paperlab.engine.language.Session` has it.
    """

    name: str
    context: int | None = None
    slots: int = 8
    queue: int = 128
    cache_bits: int = 16


class Mailbox:
    """A queue of pieces of one request's texts, on the event loop. caught_up: wakes paused texts."""

    def __init__(self, caught_up: Callable[[], None]) -> None:
        self._caught_up = caught_up
        self._pieces: list[tuple[Text, Piece]] = []
        self._filled = asyncio.Event()

    def put(self, text: Text, piece: Piece) -> None:
        """Add a piece; called on the event loop for the thread that generates."""
        self._pieces.append((text, piece))
        self._filled.set()

    async def take(self) -> list[tuple[Text, Piece]]:
        """Wait for pieces and return all that have come; pieces of one text are joined."""
        await self._filled.wait()
        self._filled.clear()
        taken, self._pieces = self._pieces, []
        joined: dict[int, tuple[Text, Piece]] = {}
        for text, piece in taken:
            if text.index not in joined:
                joined[text.index] = text, piece
                continue
            before = joined[text.index][1]
            before.text += piece.text
            before.tokens += piece.tokens
            before.finish, before.error = piece.finish, piece.error
        paused = any(text.paused for text, _ in taken)
        for text, _ in taken:
            text.read += 1
        if paused:
            self._caught_up()
        return list(joined.values())


class Service:
    """A model and its thread, once it is loaded."""

    def __init__(self, options: Options) -> None:
        self.options, self.metrics = options, Metrics()
        self.created = int(time.time())
        self.model: LanguageModel | Encoder | None = None
        self.batcher: Batcher | None = None
        self.embedder: Embedder | None = None
        self.stopping = False
        self.fingerprint = ""
        self._boxes: dict[Text, Mailbox] = {}
        self._futures: dict[Job, asyncio.Future[Job]] = {}
        self._pool = ThreadPoolExecutor(2, "reading")  # bodies and tokens; long ones take a second
        self._encoding = threading.Lock()  # a tokenizer that truncates is one caller's
        self.metrics.watch("paperlab_queued", "Texts, or requests for embeddings, that wait.", self._queued)
        self.metrics.watch("paperlab_running", "Texts in slots.", lambda: self.batcher.running() if self.batcher else 0)

    @property
    def state(self) -> str:
        """The server's state: loading, ready, stopping or failed."""
        worker = self.batcher or self.embedder
        if self.stopping:
            return "stopping"
        return "loading" if worker is None else "ready" if worker.thread.is_alive() else "failed"

    def start(self, model: LanguageModel | Encoder) -> None:
        """Serve this model, from the event loop. Raises EngineError."""
        loop = asyncio.get_running_loop()
        about = {name: value for name, value in model.about.items() if name != "threads"}
        self.fingerprint = "paperlab-" + hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:12]
        queue = self.options.queue
        model.tokens.token_bytes  # noqa: B018  made now, as a model without a tokenizer cannot be served
        if isinstance(model, Encoder):
            settle: Callable[[Job], Any] = lambda job: loop.call_soon_threadsafe(self._settle, job)  # noqa: E731
            self.embedder = Embedder(model, self.metrics, settle, queue=queue)
        else:
            most = model.about["context"]
            context = self.options.context or min(most, CONTEXT)
            if context > most:
                raise EngineError(f"a context of {context} tokens; this model takes 1 to {most}")
            spread: Callable[..., Any] = lambda pieces: loop.call_soon_threadsafe(self._spread, pieces)  # noqa: E731
            sessions = [model.session(context, self.options.cache_bits) for _ in range(self.options.slots)]
            self.batcher = Batcher(model, self.metrics, spread, sessions, context=context, queue=queue)
        self.model = model

    def stop(self, grace: float) -> None:
        """Take nothing new; what runs has `grace` seconds."""
        self.stopping = True
        if worker := self.batcher or self.embedder:
            worker.stop(grace)

    def join(self, timeout: float) -> bool:
        """Wait for the threads; whether they have ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if worker := self.batcher or self.embedder:
            worker.thread.join(timeout)
            return not worker.thread.is_alive()
        return True

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run slow work in a thread, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def check_model(self, name: str) -> None:
        """Raise Refused for a model that is not the one served here."""
        if name != self.options.name:
            message = f"the model {name[:100]!r} does not exist here; {self.options.name!r} does"
            raise Refused(message, "model", status=404, code="model_not_found")

    def texts(self, asked: TextRequest) -> list[Text]:
        """The texts that a request asks for, tokenized. Slow. Raises Refused."""
        model, batcher = self.model, self.batcher
        if not isinstance(model, LanguageModel) or batcher is None:
            raise Refused(f"{asked.model} is an encoder: it embeds texts (/v1/embeddings), and writes none", "model")
        token_bytes, longest = model.tokens.token_bytes, batcher.context * model.tokens.token_bytes.longest
        made: list[Text] = []
        room = self.options.slots + self.options.queue
        if asked.n * len(asked.prompts) > room:
            raise Refused(f"{asked.n * len(asked.prompts)} texts at once; this server has room for {room}", "n")
        try:
            model.tokens.check_variables(asked.template)
        except EngineError as error:
            raise Refused(str(error), "chat_template_kwargs") from None
        for prompt in asked.prompts:
            size = _characters(prompt)
            if size > longest:  # seen without reading it all
                raise _overflow(asked, f"at least {size // token_bytes.longest}", batcher.context)
            try:
                ids = model.ids(prompt, chat_template_kwargs=asked.template, control_tokens=asked.control_tokens)
            except EngineError as error:
                raise Refused(str(error), "messages" if asked.chat else "prompt") from None
            if not ids:
                raise Refused("the prompt has no tokens: there is nothing to continue", "prompt")
            if not asked.chat and any(token >= model.about["vocabulary"] for token in ids):
                raise Refused(f"a token id is outside the vocabulary of {model.about['vocabulary']}", "prompt")
            most = batcher.context - len(ids) if asked.most is None else asked.most
            if len(ids) + max(most, 1 if asked.most is None else 0) > batcher.context:
                raise _overflow(asked, str(len(ids)), batcher.context)
            seed = secrets.randbits(64) if asked.seed is None else asked.seed
            made += [
                Text(
                    len(made) + i,
                    list(ids),
                    most=most,
                    how=asked.how(seed + i * _STEP),
                    detokenizer=Detokenizer(token_bytes, asked.stop),
                    ends=frozenset() if asked.ignore_eos else model.tokens.ends,
                    logprobs=asked.logprobs,
                    scores_prompt=asked.echo and asked.logprobs is not None,
                )
                for i in range(asked.n)
            ]
        return made

    def echoes(self, asked: TextRequest) -> list[str]:
        """Each prompt as a text, where the request asks for it to be echoed."""
        if not asked.echo or self.model is None:
            return []
        tokens = self.model.tokens
        return [one if isinstance(one, str) else "".join(tokens.stream(one)) for one in asked.prompts]  # type: ignore[arg-type]

    def submit(self, texts: Sequence[Text]) -> Mailbox:
        """Queue texts to be generated; their pieces come to the mailbox. Raises Busy and Stopping."""
        assert self.batcher is not None
        box = Mailbox(self.batcher.poke)
        for text in texts:
            self._boxes[text] = box
        try:
            self.batcher.submit(texts)
        except BaseException:
            self.cancel(texts)
            raise
        return box

    def cancel(self, texts: Sequence[Text]) -> None:
        """Stop texts that nobody reads any more: their slots are free with the next step."""
        for text in texts:
            text.cancelled = True
            self._boxes.pop(text, None)
        if self.batcher:
            self.batcher.poke()

    def token_ids(self, inputs: EmbeddingRequest) -> list[list[int]]:
        """Token ids of the inputs to embed. Slow. Raises Refused."""
        model = self.model
        if not isinstance(model, Encoder):
            message = f"{inputs.model} is a language model: it writes texts, and embeds none"
            raise Refused(message, "model")
        longest, vocabulary = model.longest, model.about["vocabulary"]
        ids: list[list[int]] = []
        texts = []
        for i, one in enumerate(inputs.inputs):
            if isinstance(one, str):
                if len(one) > longest * LONGEST_WORD and not inputs.truncate:
                    raise _too_long(i, f"{len(one)} characters", longest)
                texts.append(one[: longest * LONGEST_WORD])
        with self._encoding:
            encoded = iter(model.encode(texts, longest + (not inputs.truncate)))
        for i, one in enumerate(inputs.inputs):
            row = next(encoded) if isinstance(one, str) else list(one)
            if len(row) > longest:
                if not inputs.truncate:
                    size = "more" if isinstance(one, str) else str(len(row))
                    raise _too_long(i, f"{size} tokens", longest)
                row = row[:longest]
            if not row or max(row) >= vocabulary:
                raise Refused(f"input {i} has a token outside the vocabulary of {vocabulary}, or none", "input")
            ids.append(row)
        return ids

    async def embed(self, ids: list[list[int]]) -> Job:
        """Embed token ids; the job, done or failed. Raises Busy and Stopping."""
        assert self.embedder is not None
        job = Job(ids)
        self._futures[job] = asyncio.get_running_loop().create_future()
        try:
            self.embedder.submit(job)
            return await self._futures[job]
        finally:
            job.cancelled = True
            del self._futures[job]

    def _queued(self) -> int:
        worker = self.batcher or self.embedder
        return worker.queued() if worker else 0

    def _spread(self, pieces: list[tuple[Text, Piece]]) -> None:
        for text, piece in pieces:
            if box := self._boxes.get(text):
                box.put(text, piece)

    def _settle(self, job: Job) -> None:
        future = self._futures.get(job)
        if future and not future.done():
            future.set_result(job)


def _characters(prompt: Prompt) -> int:
    """A lower bound of the characters of a prompt; 0 for token ids."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(one["content"]) for one in prompt if isinstance(one, dict))


def _overflow(asked: TextRequest, size: str, context: int) -> Refused:
    more = f", and {asked.most} more are asked for" if asked.most else ""
    message = f"this model's context is {context} tokens; the prompt has {size}{more}. Shorten the one or the other"
    return Refused(message, "messages" if asked.chat else "prompt", code="context_length_exceeded")


def _too_long(i: int, size: str, longest: int) -> Refused:
    message = (
        f"input {i} has {size}; this model reads {longest} tokens. Shorten it, or send truncate: true to have it cut"
    )
    return Refused(message, "input", code="context_length_exceeded")
