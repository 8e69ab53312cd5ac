"""The search index of this machine: words and vectors in files beside the database, kept in step with the store.

    search/state.json          which generation is read, up to where words and vectors follow the store
    search/<generation>/words  tantivy          search/<generation>/vectors-<encoder>

One process writes at a time (search/write.lock). The state is written after what it tells of, so a killed writer's work
is done again, which changes nothing. A rebuild fills a new generation and then puts it in the state.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import filelock

from paperlab.core.home import home
from paperlab.site.catalogue.models import Counter, Paper
from paperlab.site.search import encoder as encoders
from paperlab.site.search.document import COLUMNS, documents, stored
from paperlab.site.search.query import Within
from paperlab.site.search.words import Asked, Words, asked, everything

if TYPE_CHECKING:
    from paperlab.site.search.vectors import Array, Vectors

LAYOUT = 1  # rises when what is indexed changes; an index of another layout is built anew
BULK = 20_000  # papers in one commit of the word index
EMBEDDED = 64  # papers in one append to the vectors
FEW = 3_000  # papers that hold a filter: their vectors are compared one by one
PROBES, PROBED = 64, 10  # papers that the encoder is judged by, and how many neighbours of each

Progress = Callable[[str, int, int], None]  # "words" or "vectors", papers done, papers in all


class Busy(RuntimeError):
    """Another process is writing the index."""


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


def folder() -> Path:
    """Where the index lies."""
    return home() / "search"


def state() -> State:
    """The state on the disk; a new one where there is none, or none that this version can read."""
    try:
        told = json.loads((folder() / "state.json").read_text(encoding="utf-8"))
        found = State(**{**told, "words": tuple(told["words"]), "vectors": tuple(told["vectors"])})
    except (OSError, ValueError, TypeError, KeyError):
        return State()
    return found if found.layout == LAYOUT and (folder() / found.generation / "words").is_dir() else State()


def keep(new: State) -> None:
    """Put a state on the disk, whole or not at all."""
    partial = folder() / "state.partial"
    with open(partial, "w", encoding="utf-8") as stream:
        json.dump(asdict(new), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, folder() / "state.json")


def behind() -> int:
    """How many changes the store is ahead of the word index; 0 is in step."""
    last = Counter.objects.filter(name="revision").values_list("value", flat=True).first() or 0
    return int(last) - state().words[0]


@contextmanager
def _writer(wait: float) -> Iterator[None]:
    folder().mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder() / "write.lock", timeout=wait)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        raise Busy("another process is writing the search index; it will bring it up to date") from error


# -- writing -----------------------------------------------------------------------------------------------------------


def refresh(*, meaning: bool = True, anew: bool = False, wait: float = 600, progress: Progress | None = None) -> None:
    """Bring the index up to the store: words first, then vectors. Safe to interrupt; goes on where it stopped.

    meaning: also vectors, the encoder being fetched if need be. anew: build it from nothing; the old one answers until
    the new one is ready. Raises Busy, and EncoderError or PackageError when the words are done but no vectors can be.
    """
    with _writer(wait):
        now = state()
        target = now if now.generation and not anew else State(generation=_next(now.generation))
        target = _write_words(target, progress, switch=target.generation == now.generation)
        keep(target)
        _clean(target.generation)
        if meaning and encoders.setting() != "none":
            _write_vectors(target, encoders.load(), progress)


def _next(generation: str) -> str:
    taken = [int(path.name) for path in folder().glob("[0-9]*") if path.name.isdecimal()]
    new = f"{max([0, *taken]) + 1:04d}"
    return new if new != generation else f"{int(new) + 1:04d}"


def _clean(generation: str) -> None:
    for path in folder().glob("[0-9]*"):
        if path.name != generation:  # a process that still reads it keeps its open files
            shutil.rmtree(path, ignore_errors=True)


def _write_words(now: State, progress: Progress | None, *, switch: bool) -> State:
    """Take in what changed. switch: tell readers after every commit, not only at the end."""
    words = Words(folder() / now.generation / "words")
    total = _ahead(now.words) if progress else 0
    done = 0
    pending: list[tuple] = []

    def commit() -> None:
        nonlocal now, done
        withdrawn = [row[0] for row in pending if row[COLUMNS.index("withdrawn")]]
        words.write(documents(pending), withdrawn, large=len(pending) > 1_000)
        now = replace(now, words=(pending[-1][1], pending[-1][0]))
        done += len(pending)
        pending.clear()
        if switch:
            keep(now)
        if progress:
            progress("words", done, total)

    for rows in stored(now.words):
        pending += rows
        if len(pending) >= BULK:
            commit()
    if pending:
        commit()
    live = Paper.objects.filter(withdrawn=False)
    if len(words) != live.count():  # rows that were joined to another, or deleted in the admin, leave no revision
        gone = set(words.keys(everything(), max(1, len(words)))) - set(live.values_list("pk", flat=True))
        words.write([], gone)
    return now


def _ahead(after: tuple[int, int]) -> int:
    from django.db.models import Q

    return Paper.objects.filter(Q(revision=after[0], pk__gt=after[1]) | Q(revision__gt=after[0])).count()


def text_hash(passage: str) -> int:
    """What tells whether a text was embedded already: 64 bits, never 0."""
    return int.from_bytes(hashlib.blake2b(passage.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1


def vectors_folder(generation: str, encoder: str) -> Path:
    """Where the vectors of an encoder lie."""
    return folder() / generation / f"vectors-{hashlib.sha256(encoder.encode()).hexdigest()[:12]}"


def _write_vectors(now: State, encoder: encoders.Encoder, progress: Progress | None) -> None:
    from paperlab.site.search.vectors import Vectors

    if now.encoder != encoder.name:
        now = replace(now, encoder=encoder.name, vectors=(0, 0), trust=0.0, judged=0)
    vectors = Vectors(vectors_folder(now.generation, encoder.name), encoder.dimension)
    total, done = (_ahead(now.vectors) if progress else 0), 0
    for rows in stored(now.vectors):
        papers = list(documents(rows))
        vectors.remove([row[0] for row in rows if row[COLUMNS.index("withdrawn")]])
        hashes = {paper.key: text_hash(paper.passage) for paper in papers}
        missing = set(vectors.missing(hashes))
        wanted = [paper for paper in papers if paper.key in missing]
        if progress:
            done += len(papers) - len(wanted)
        for start in range(0, len(wanted), EMBEDDED):
            part = wanted[start : start + EMBEDDED]
            made = encoder.passages([paper.passage for paper in part])
            vectors.append([paper.key for paper in part], [hashes[paper.key] for paper in part], made)
            if progress:
                done += len(part)
                progress("vectors", done, total)
        now = replace(now, vectors=(rows[-1][1], rows[-1][0]))
        keep(now)
    live = Paper.objects.filter(withdrawn=False)
    if len(vectors) != live.count():
        vectors.remove(sorted(set(vectors.row) - set(live.values_list("pk", flat=True))))
    if len(vectors) >= 2 * max(PROBES, now.judged):
        words = Words(folder() / now.generation / "words")
        now = replace(now, trust=judge(words, vectors, encoder), judged=len(vectors))
    keep(now)


def judge(words: Words, vectors: "Vectors", encoder: encoders.Encoder) -> float:
    """How far an encoder can be trusted here, 0 to 1, measured without any judgements of people.

    Titles of stored papers are looked for by words and by meaning, the papers themselves left out. BM25 of the ten
    nearest by meaning over BM25 of the ten best by words, averaged, is .70-.73 for all-MiniLM-L6-v2 on three judged
    collections, .06-.09 for random vectors and .22-.27 for an encoder drowned in noise; .2 and less is no trust, .5
    and more is full trust.
    """
    held = [key for key, row in vectors.row.items() if vectors.alive[row]]
    chosen = random.Random(0).sample(held, min(PROBES, len(held)))
    ratios = []
    for paper in documents(Paper.objects.filter(pk__in=chosen).values_list(*COLUMNS)):
        title = " ".join((paper.title or paper.text).split()[:24])
        near = [key for key, _ in vectors.best(encoder.query(title), PROBED + 1) if key != paper.key][:PROBED]
        best = [score for key, score in words.best(asked(title), None, PROBED + 1) if key != paper.key][:PROBED]
        if best and near:
            scored = words.scores(asked(title), near)
            ratios.append(sum(scored.values()) / len(near) / (sum(best) / len(best)))
    return min(1.0, max(0.0, (fmean(ratios) - 0.2) / 0.3)) if ratios else 1.0


# -- reading -----------------------------------------------------------------------------------------------------------


class Embedded:
    """The index as the ranking asks it. The methods are those of any engine behind the ranking (see `engine`)."""

    def __init__(self) -> None:
        self.state = State()
        self.opened: tuple[Path, int] | None = None
        self.files: Words | None = None
        self.vectors: Vectors | None = None

    def reload(self) -> "Embedded":
        """See what was written since; costs a look at one file."""
        file = folder() / "state.json"
        try:
            stamp = file.stat().st_mtime_ns
        except OSError:
            stamp = 0
        if (file, stamp) == self.opened:
            return self
        if self.opened and self.opened[0] != file:
            self.__init__()  # type: ignore[misc]
        now = state()
        if not now.generation:
            self.__init__()  # type: ignore[misc]
            return self
        if self.files is None or now.generation != self.state.generation:
            self.files = Words(folder() / now.generation / "words")
        else:
            self.files.reload()
        if now.encoder and encoders.at_hand():
            from paperlab.site.search.vectors import Vectors

            if self.vectors is None or (now.generation, now.encoder) != (self.state.generation, self.state.encoder):
                self.vectors = Vectors(vectors_folder(now.generation, now.encoder), encoders.load().dimension)
            else:
                self.vectors.reload()
        self.state, self.opened = now, (file, stamp)
        return self

    @property
    def size(self) -> int:
        """Papers whose words are indexed."""
        return len(self.files) if self.files else 0

    def encoder(self) -> encoders.Encoder | None:
        """The encoder that the vectors are of, if it is the one that is set and at hand."""
        if self.vectors is None or not len(self.vectors):
            return None
        loaded = encoders.load()
        return loaded if loaded.name == self.state.encoder else None

    @property
    def trust(self) -> float:
        """How far the encoder can be trusted on these papers, 0 to 1 (see `judge`); too few papers: fully."""
        return self.state.trust if self.state.judged else 1.0

    def words(self, text: Asked, within: Within, limit: int, *, strict: bool = False) -> list[tuple[int, float]]:
        """(key, BM25), best first, of papers within."""
        return self.files.best(text, self.files.where(within), limit, strict=strict) if self.files else []

    def word_scores(self, text: Asked, keys: Collection[int]) -> dict[int, float]:
        """BM25 of these papers, without those that hold none of the words."""
        return self.files.scores(text, keys) if self.files else {}

    def meaning(self, vector: "Array", within: Within, limit: int) -> list[tuple[int, float]]:
        """(key, cosine) of papers within, nearest first."""
        if self.vectors is None or self.files is None:
            return []
        where = self.files.where(within)
        if where is None:
            return self.vectors.best(vector, limit)
        holding = self.files.count(Asked(), where, strict=False)
        if holding <= FEW:
            return self.vectors.best(vector, limit, self.files.keys(where, FEW))
        # Many papers hold the filters: enough of the nearest do too, if one looks far enough.
        reach = min(len(self.vectors), int(2 * limit * max(1.0, len(self.vectors) / holding)), 20_000)
        near = self.vectors.best(vector, reach)
        keys = frozenset(key for key, _ in near)
        inside = self.files.where(replace(within, keys=keys if within.keys is None else keys & within.keys))
        allowed = set(self.files.keys(inside, reach)) if inside is not None else keys
        return [(key, cosine) for key, cosine in near if key in allowed][:limit]

    def meaning_scores(self, vector: "Array", keys: Collection[int]) -> dict[int, float]:
        """Cosine of these papers, without those that have no vector."""
        return self.vectors.scores(vector, keys) if self.vectors else {}

    def background(self, vector: "Array") -> float:
        """Mean cosine to all papers."""
        return self.vectors.background(vector) if self.vectors else 0.0

    def vector(self, key: int) -> "Array | None":
        """A paper's vector."""
        return self.vectors.vector(key) if self.vectors else None

    def listed(self, text: Asked, within: Within, order: str, limit: int, offset: int = 0) -> list[int]:
        """Keys in the order "day" or "trend" of papers within that hold every word."""
        return self.files.listed(text, self.files.where(within), order, limit, offset) if self.files else []

    def total(self, text: Asked, within: Within, *, strict: bool) -> int:
        """How many papers within hold every word (strict) or any word."""
        return self.files.count(text, self.files.where(within), strict=strict) if self.files else 0

    def facets(self, text: Asked, within: Within, *, strict: bool) -> dict[str, dict[str, int]]:
        """Papers by family, category and year, over what `total` counts."""
        return self.files.facets(text, self.files.where(within), strict=strict) if self.files else {}

    def known(self, word: str) -> bool:
        """Whether any paper holds the word."""
        return self.files is None or self.files.known(word)

    def near(self, word: str) -> str:
        """The known word that a misspelt one most likely means, or ""."""
        return self.files.near(word) if self.files else ""


_opened = Embedded()


def engine() -> Embedded:
    """What answers queries on this machine, as of now."""
    return _opened.reload()
