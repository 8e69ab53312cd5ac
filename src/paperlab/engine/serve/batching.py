"""Write many texts at once: one thread owns the model, and every step of it runs all texts that are under way.

Texts join and leave between steps. A prompt is read in pieces, so that a long one does not delay the others. Each
text draws by its own seed, and a token's logits do not depend on the rest of the batch: a seed gives the same text
whatever else is being written. A slot keeps its key-value cache when its text ends, and the next prompt with the same
beginning (a conversation that goes on) is read from where they differ.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paperlab.engine.language import LanguageModel, Session
from paperlab.engine.native import EngineError
from paperlab.engine.serve.metrics import Metrics
from paperlab.engine.serve.texts import Piece, Text

READ_SHARED = 64  # tokens of prompts to a step in which others wait for their next token
READ_ALONE = 256
SCORED = 64  # tokens of a prompt to a step where each one's logits are asked for

log = logging.getLogger("paperlab.serve")


class Busy(Exception):
    """No room in the queue. The message says so."""


class Stopping(Exception):
    """The server takes nothing new."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


@dataclass(slots=True)
class Slot:
    """A place for one text. tokens: those whose keys and values its session has."""

    session: Session
    tokens: list[int] = field(default_factory=list)
    text: Text | None = None
    used: float = 0.0


class Batcher:
    """Writes texts with one model, one in each session at a time, in a thread of its own.

    context: tokens of a text, prompt included. deliver: takes what a step has made. queue: texts that may wait.
    """

    def __init__(
        self,
        model: LanguageModel,
        metrics: Metrics,
        deliver: Callable[[list[tuple[Text, Piece]]], None],
        sessions: Sequence[Session],
        *,
        context: int,
        queue: int,
    ) -> None:
        self.model, self.metrics, self.deliver, self.context, self.queue = model, metrics, deliver, context, queue
        self._slots = [Slot(session) for session in sessions]
        self._queued: deque[Text] = deque()
        self._outbox: list[tuple[Text, Piece]] = []
        self._changed = threading.Condition()
        self._end: float | None = None  # when running texts are ended, once the server stops
        self.thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self.thread.start()

    def submit(self, texts: Sequence[Text]) -> None:
        """Queue texts, all or none. Raises Busy and Stopping."""
        with self._changed:
            if self._end is not None:
                raise Stopping
            free = sum(slot.text is None for slot in self._slots)
            if len(self._queued) + len(texts) > self.queue + free:
                raise Busy(f"{len(self._queued)} texts wait already; try again later")
            self._queued.extend(texts)
            self._changed.notify()

    def poke(self) -> None:
        """Look again: a text was cancelled, or its reader has caught up."""
        with self._changed:
            self._changed.notify()

    def stop(self, grace: float) -> None:
        """Take nothing new, fail what waits, and give running texts `grace` seconds."""
        with self._changed:
            if self._end is None:
                self._end = time.monotonic() + grace
            self._changed.notify()

    def queued(self) -> int:
        """Texts that wait for a slot."""
        return len(self._queued)

    def running(self) -> int:
        """Texts in slots."""
        return sum(slot.text is not None for slot in self._slots)

    def _run(self) -> None:
        try:
            while self._wait():
                self._step()
                self._deliver()
        except Exception:
            log.exception("the thread that writes has failed; restart the server")
            with self._changed:
                self._end = 0.0
                self._leave()
            self._deliver()

    def _deliver(self) -> None:
        if self._outbox:
            self.deliver(self._outbox)
            self._outbox = []

    def _wait(self) -> bool:
        """Wait for work, then free and fill slots; False once the batcher has stopped and no text is left."""
        with self._changed:
            while not self._due():
                if self._end is not None and not self.running():
                    return False
                self._changed.wait(None if self._end is None else max(0.0, self._end - time.monotonic()))
            self._leave()
            self._admit()
        return True

    def _due(self) -> bool:
        texts = [slot.text for slot in self._slots if slot.text]
        if any(text.cancelled or not text.paused for text in texts):
            return True
        if self._end is not None and (self._queued or (texts and time.monotonic() >= self._end)):
            return True
        return bool(self._queued) and (len(texts) < len(self._slots) or any(text.cancelled for text in self._queued))

    def _leave(self) -> None:
        """Free the slots of cancelled texts; end everything when the server's time is over."""
        over = self._end is not None and time.monotonic() >= self._end
        for text in [text for text in self._queued if text.cancelled or self._end is not None]:
            self._queued.remove(text)
            if not text.cancelled:
                self._put(text, Piece(error=str(Stopping())))
        for slot in self._slots:
            if slot.text and (slot.text.cancelled or over):
                if not slot.text.cancelled:
                    self._put(slot.text, Piece(error=str(Stopping())))
                self._clear(slot)

    def _admit(self) -> None:
        """Give free slots to texts in their order: the slot with the longest common prefix, else the longest unused."""
        while self._queued and (free := [slot for slot in self._slots if slot.text is None]):
            text = self._queued.popleft()
            known = [(_common(slot.tokens, text.ids), slot) for slot in free]
            common, slot = max(known, key=lambda one: one[0])
            if common * 2 < min(
                len(slot.tokens), text.prompt
            ):  # too little in common: keep the other conversation's cache
                common, slot = min(known, key=lambda one: one[1].used)
            # The last token is always run: its logits are needed.
            text.cached = 0 if text.scores_prompt else min(common, text.prompt - 1)
            slot.text = text
            slot.session.truncate(text.cached)
            del slot.tokens[text.cached :]
            self.metrics.tokens.labels("cached").inc(text.cached)

    def _step(self) -> None:
        """Run the model once over all texts whose readers keep up, and draw."""
        active = [(slot, slot.text) for slot in self._slots if slot.text and not slot.text.paused]
        if not active:
            return
        begun = time.monotonic()
        batch = [(slot, text, text.ids[-1:]) for slot, text in active if text.drawn]
        room = READ_SHARED if batch else READ_ALONE
        for slot, text in sorted(active, key=lambda one: one[1].begun):
            if text.drawn or room <= 0:
                continue
            if text.scores_prompt:
                self._score(slot, text)
                room -= SCORED
            else:
                at = len(slot.tokens)
                batch.append((slot, text, text.ids[at : at + room]))
                room -= len(batch[-1][2])
        if batch:
            self._forward(batch)
        self.metrics.step.observe(time.monotonic() - begun)

    def _forward(self, batch: list[tuple[Slot, Text, list[int]]]) -> None:
        try:
            rows = self.model.forward([(slot.session, tokens) for slot, _, tokens in batch])
        except Exception as error:
            if len(batch) == 1:
                return self._fail(batch[0][0], error)
            for slot, text, tokens in batch:  # one text's fault is not the others'
                slot.session.truncate(len(slot.tokens))
                self._forward([(slot, text, tokens)])
            return
        for (slot, text, tokens), row in zip(batch, rows, strict=True):
            slot.tokens += tokens
            if len(slot.tokens) == len(text.ids):
                self._draw(slot, text, row)

    def _score(self, slot: Slot, text: Text) -> None:
        """Run some tokens of a prompt whose log probabilities are asked for, alone."""
        at = len(slot.tokens)
        tokens = text.ids[at : at + SCORED]
        try:
            rows = self.model.forward([(slot.session, tokens)], every=True)
            if at == 0:
                text.score(0, None)
            for i, row in enumerate(rows[: text.prompt - 1 - at]):
                text.score(at + i + 1, row)
        except Exception as error:
            return self._fail(slot, error)
        slot.tokens += tokens
        if len(slot.tokens) == text.prompt:
            self._draw(slot, text, rows[-1])

    def _draw(self, slot: Slot, text: Text, row: np.ndarray) -> None:
        if not text.drawn:
            self.metrics.tokens.labels("read").inc(text.prompt - text.cached)
            self.metrics.first.observe(time.monotonic() - text.begun)
        try:
            piece = text.draw(row)
        except Exception as error:
            return self._fail(slot, error)
        if text.most:
            self.metrics.tokens.labels("written").inc()
        if piece:
            if piece.finish:
                self._clear(slot)
            self._put(text, piece)

    def _fail(self, slot: Slot, error: Exception) -> None:
        """End a text by an error, and clear its slot's cache."""
        if not isinstance(error, EngineError | MemoryError):
            log.error("a text failed", exc_info=error)
        text = slot.text
        self._clear(slot)
        slot.session.truncate(0)
        slot.tokens.clear()
        if text:
            self._put(text, Piece(error=str(error) or type(error).__name__))

    def _clear(self, slot: Slot) -> None:
        slot.text, slot.used = None, time.monotonic()

    def _put(self, text: Text, piece: Piece) -> None:
        text.sent += 1
        self._outbox.append((text, piece))


def _common(tokens: list[int], ids: list[int], strip: int = 256) -> int:
    """Length of the common prefix of two texts, in tokens."""
    most = min(len(tokens), len(ids))
    start = next((i for i in range(0, most, strip) if tokens[i : i + strip] != ids[i : i + strip]), most)
    return next((i for i in range(start, most) if tokens[i] != ids[i]), most)
