"""What the engines behind the ranking have in common: what they can do, how far they have come, who may write them,
and how far their vectors can be trusted."""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

import filelock
from django.db import connection
from django.db.models import Q

from paperlab.site.search.document import COLUMNS, documents
from paperlab.site.search.encoder import Encoder
from paperlab.site.search.query import EVERYTHING, Within
from paperlab.site.search.words import Asked, asked
from paperlab.site.store.models import Paper

if TYPE_CHECKING:
    from paperlab.site.search.vectors import Array

LAYOUT = 6  # rises when what is indexed changes; an index of another layout is rebuilt
LOCK = 7_203_911  # of the database, for writers on several machines
PROBES, PROBED = 64, 10  # papers that an encoder is judged by, and how many neighbours of each


Progress = Callable[[str, int, int], None]  # "words" or "vectors", papers done, papers in all


class Busy(RuntimeError):
    """Another process is writing the index."""


class Unreachable(RuntimeError):
    """The server that PAPERLAB_SEARCH names does not do what is asked; the message says what it says."""


@dataclass(frozen=True)
class State:
    """How far the index follows the store: (revision, key) of the last paper taken in. trust: see `Embedded.trust`."""

    layout: int = LAYOUT
    generation: str = ""
    words: tuple[int, int] = (0, 0)
    vectors: tuple[int, int] = (0, 0)
    encoder: str = ""
    trust: float = 0.0
    judged: int = 0  # vectors that there were when the trust was measured


def setting() -> str:
    """The server that holds the index: PAPERLAB_SEARCH, "" for files on this machine."""
    return os.environ.get("PAPERLAB_SEARCH", "").strip()


def parsed(text: str) -> State | None:
    """A state as it was kept; None for what this version cannot read: cut off, of another version, of other types."""
    try:
        fields = json.loads(text)
        reached = {name: tuple(fields[name]) for name in ("words", "vectors")}
        state = State(**{**fields, **reached})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    whole = [state.layout, state.judged, *state.words, *state.vectors]
    right = (
        all(type(number) is int and 0 <= number < 2**63 for number in whole)
        and len(state.words) == len(state.vectors) == 2
        and type(state.trust) in (int, float)
        and 0 <= state.trust <= 1
        and all(isinstance(word, str) for word in (state.generation, state.encoder))
    )
    return state if right and state.layout == LAYOUT and re.fullmatch(r"\d{4,9}", state.generation) else None


def after(reached: tuple[int, int]) -> Q:
    """The papers that changed since."""
    # One range of the index with an exception; with an OR the database scans the store.
    return Q(revision__gte=reached[0]) & ~Q(revision=reached[0], pk__lte=reached[1])


def amiss(keys: Iterable[int], reached: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Keys of an index whose papers are no more (rows that were joined to another, or deleted in the admin, leave no
    revision), and of papers that it should have by now and has not (its files were damaged)."""
    live = Paper.objects.filter(withdrawn=False)
    indexed = set(keys)
    gone = indexed.difference(live.values_list("pk", flat=True))
    lost = set(live.exclude(after(reached)).values_list("pk", flat=True)) - indexed
    return sorted(gone), sorted(lost)


def ahead(reached: tuple[int, int]) -> int:
    """How many papers changed since."""
    return Paper.objects.filter(after(reached)).count()


def text_hash(passage: str) -> int:
    """Hash of a text, by which one that was embedded already is recognised: 64 bits, never 0."""
    return int.from_bytes(hashlib.blake2b(passage.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1


@contextmanager
def writing(folder: Path, wait: float) -> Iterator[None]:
    """Be the only writer of the index: of this machine, and of all that share a PostgreSQL. Raises Busy after `wait`
    seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "write.lock", timeout=wait), _alone():
            yield
    except filelock.Timeout as error:
        raise Busy("another process is writing the search index; it will bring it up to date") from error


@contextmanager
def _alone() -> Iterator[None]:
    """Only writer of an index on a server, which other machines may write too: by a lock in the database they share."""
    if not setting() or connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        if not cursor.fetchone()[0]:
            raise Busy("another machine is writing the search index; it will bring it up to date")
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


class Engine(Protocol):
    """An index that is open. Papers are known by their keys in the store; of scores the higher is the better.
    state: how far it follows the store."""

    state: State

    @property
    def size(self) -> int:
        """Papers whose words are indexed."""
        ...

    @property
    def embedded(self) -> int:
        """Papers whose meaning is indexed."""
        ...

    @property
    def trouble(self) -> str:
        """Why a part of it cannot be used, for readers; "" if all can."""
        ...

    @property
    def trust(self) -> float:
        """How far the encoder can be trusted on these papers, 0 to 1 (see `judge`)."""
        ...

    def encoder(self) -> Encoder | None:
        """The encoder that the vectors are of, if it is the one that is set and can be loaded."""
        ...

    def words(self, text: Asked, within: Within, limit: int, *, strict: bool = False) -> list[tuple[int, float]]:
        """(key, BM25), best first, of papers within. strict: that hold every word."""
        ...

    def word_scores(self, text: Asked, keys: Collection[int]) -> dict[int, float]:
        """BM25 of these papers, without those that hold none of the words."""
        ...

    def meaning(self, vector: "Array", within: Within, limit: int) -> list[tuple[int, float]]:
        """(key, cosine) of papers within, nearest first."""
        ...

    def meaning_scores(self, vector: "Array", keys: Collection[int]) -> dict[int, float]:
        """Cosine of these papers, without those that have no vector."""
        ...

    def background(self, vector: "Array") -> float:
        """Mean cosine to all papers."""
        ...

    def vector(self, key: int) -> "Array | None":
        """A paper's vector."""
        ...

    def vectors_of(self, keys: Collection[int]) -> "tuple[list[int], Array]":
        """(keys of those papers that have a vector, their vectors (n, dimension) float32, in that order)."""
        ...

    def listed(self, text: Asked, within: Within, order: str, limit: int, offset: int = 0) -> list[int]:
        """Keys in the order "day" or "trend", highest first, of papers within that hold every word."""
        ...

    def total(self, text: Asked, within: Within, *, strict: bool) -> int:
        """How many papers within hold every word (strict) or any word."""
        ...

    def facets(self, text: Asked, within: Within, *, strict: bool) -> dict[str, dict[str, int]]:
        """Papers by "family", "category" and "year", over what `total` counts, the largest first."""
        ...

    def known(self, word: str) -> bool:
        """Whether any paper holds the word."""
        ...

    def near(self, word: str) -> str:
        """The known word that a misspelt one most likely means, or ""."""
        ...


def judge(engine: Engine, embedded_keys: Sequence[int], encoder: Encoder) -> float:
    """How far an encoder can be trusted here, 0 to 1, measured without any judgements of people. embedded_keys: of
    papers that have vectors.

    Titles of stored papers are looked for by words and by meaning, the papers themselves left out. BM25 of the ten
    nearest by meaning over BM25 of the ten best by words, averaged, is .70-.73 for all-MiniLM-L6-v2 on three judged
    collections, .06-.09 for random vectors and .22-.27 for an encoder drowned in noise; .2 and less is no trust, .5
    and more is full trust.
    """
    chosen = random.Random(0).sample(embedded_keys, min(PROBES, len(embedded_keys)))
    ratios = []
    for paper in documents(Paper.objects.filter(pk__in=chosen).values_list(*COLUMNS)):
        title = " ".join((paper.title or paper.text).split()[:24])
        near = engine.meaning(encoder.query(title), EVERYTHING, PROBED + 1)
        keys = [key for key, _ in near if key != paper.key][:PROBED]
        text = asked(title)
        best = [score for key, score in engine.words(text, EVERYTHING, PROBED + 1) if key != paper.key][:PROBED]
        if best and keys:
            ratios.append(sum(engine.word_scores(text, keys).values()) / len(keys) / (sum(best) / len(best)))
    return min(1.0, max(0.0, (fmean(ratios) - 0.2) / 0.3)) if ratios else 1.0
