"""The search index of this machine: words and vectors in files in the data folder, kept in step with the store.

    search/state.json          which generation is read, up to where words and vectors follow the store
    search/<generation>/words  tantivy          search/<generation>/vectors-<encoder>

One process writes at a time (search/write.lock). The state is written last, so a killed writer's work is
done again, which changes nothing. A rebuild fills a new generation and then puts it in the state.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paperlab.core.home import home
from paperlab.site.search import encoder as encoders
from paperlab.site.search.document import BATCH, COLUMNS, documents, stored
from paperlab.site.search.engine import (
    PROBES,
    Busy,
    Engine,
    Progress,
    State,
    Unreachable,
    after,
    ahead,
    amiss,
    judge,
    parsed,
    setting,
    text_hash,
    writing,
)
from paperlab.site.search.query import Within
from paperlab.site.search.words import Asked, Damaged, Words, everything
from paperlab.site.store.models import Paper
from paperlab.site.store.revision import revision

if TYPE_CHECKING:
    from paperlab.site.search.milvus import Milvus
    from paperlab.site.search.vectors import Array, Vectors

logger = logging.getLogger(__name__)
BULK = 20_000  # papers in one commit of the word index
EMBEDDED = 64  # papers in one append to the vectors
FEW = 3_000  # papers that hold a filter: their vectors are compared one by one


def folder() -> Path:
    """Where the index lies."""
    return home() / "search"


def state() -> State:
    """The state on the disk; a new one where there is none, or none that this version can read."""
    try:
        now = parsed((folder() / "state.json").read_text(encoding="utf-8"))
        return now if now and (folder() / now.generation / "words" / "meta.json").is_file() else State()
    except (OSError, ValueError):
        return State()


def lost() -> bool:
    """Whether there is no index on files that can be read: none yet, or its state is damaged, or of another version."""
    return not setting() and not state().generation


def _said_lost() -> None:
    """Say that an index is built anew, where there was one."""
    if any(folder().glob("[0-9]*")):
        logger.warning("the state of the search index in %s cannot be read; the index is built anew", folder())


def keep(new: State) -> None:
    """Put a state on the disk, whole or not at all."""
    partial = folder() / "state.partial"
    with open(partial, "w", encoding="utf-8") as stream:
        json.dump(asdict(new), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, folder() / "state.json")


def behind(most: int = 1_000_000) -> int:
    """How many changed papers the word index has not seen, counted up to `most`; 0 is in step."""
    now = state()
    if setting():
        try:
            now = _on_server().state
        except Unreachable:
            return 0
    reached = now.words
    last = revision()
    return Paper.objects.filter(after(reached)).order_by()[:most].count() if last > reached[0] else 0


# -- writing -----------------------------------------------------------------------------------------------------------


def refresh(
    *,
    meaning: bool = True,
    rebuild: bool = False,
    check: bool = True,
    wait: float = 600,
    progress: Progress | None = None,
    more: Callable[[], bool] | None = None,
) -> None:
    """Bring the index up to the store: words first, then vectors. Safe to interrupt; goes on where it stopped.

    meaning: also vectors, the encoder being fetched if need be. rebuild: start from nothing; the old one answers until
    the new one's words are there. check: also look for papers that left the store without a trace, which takes half a
    minute among a million if there are any. more: called when all that is stored has been read, while others still
    store; it waits for a moment and says whether they do. Raises Busy, and EncoderError or PackageError when the words
    are done but no vectors can be.
    """
    with writing(folder(), wait):
        if setting():
            from paperlab.site.search import milvus_writing

            return milvus_writing.refresh(setting(), meaning=meaning, rebuild=rebuild, progress=progress)
        now = state()
        if now.generation:
            try:
                Words(folder() / now.generation / "words")
            except Damaged:
                rebuild = True
        target = now if now.generation and not rebuild else State(generation=_next(now.generation))
        if not now.generation:
            _said_lost()
            _adopt_vectors(target.generation)
        # Where nothing else answers, what is there of a new index does.
        switch = not now.generation or target.generation == now.generation
        target = _write_words(target, progress, switch=switch, check=check, more=more)
        keep(target)
        _clean(target.generation)
        if meaning and encoders.setting() != "none":
            _write_vectors(target, encoders.load(), progress)


def _next(generation: str) -> str:
    taken = [int(path.name) for path in folder().glob("[0-9]*") if path.name.isdecimal()]
    new = f"{max([0, *taken]) + 1:04d}"
    return new if new != generation else f"{int(new) + 1:04d}"


def _adopt_vectors(generation: str) -> None:
    """Move the vectors of the last generation, whose state is lost, to the new one: each knows which text it is of, so
    none is made again that is right."""
    known = sorted((path for path in folder().glob("[0-9]*") if path.name < generation), reverse=True)
    for path in known[:1]:
        for vectors in path.glob("vectors-*"):
            (folder() / generation).mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                vectors.rename(folder() / generation / vectors.name)


def _clean(generation: str) -> None:
    for path in folder().glob("[0-9]*"):
        if path.name != generation:  # a process that still reads it keeps its open files
            shutil.rmtree(path, ignore_errors=True)


def _changes(reached: tuple[int, int], more: Callable[[], bool] | None) -> Iterator[list[tuple]]:
    """The store's rows in the order of their changes, from behind (revision, key) until there are no more."""
    going = True
    while going:
        going = more is not None and more()
        for rows in stored(reached):
            yield rows
            reached = rows[-1][1], rows[-1][0]


def _write_words(
    now: State, progress: Progress | None, *, switch: bool, check: bool, more: Callable[[], bool] | None
) -> State:
    """Take in what changed. switch: let readers use it after every commit, not only at the end."""
    words = Words(folder() / now.generation / "words")
    total = ahead(now.words) if progress else 0
    done, place = 0, COLUMNS.index("withdrawn")
    changes = _changes(now.words, more)

    def bulk(rows: list[tuple] | None, gone: set[int]) -> Iterator[tuple]:
        """The rows of one commit as they come, those `rows` first; keys of papers that are withdrawn go into `gone`."""
        nonlocal now, done
        least = done + BULK
        while rows:
            for row in rows:  # one that changes meanwhile comes twice
                (gone.add if row[place] else gone.discard)(row[0])
            yield from rows
            now, done = replace(now, words=(rows[-1][1], rows[-1][0])), done + len(rows)
            rows = next(changes, None) if done < least else None

    while rows := next(changes, None):
        withdrawn: set[int] = set()
        words.write(documents(bulk(rows, withdrawn)), withdrawn, large=more is not None or len(rows) > 1_000)
        if switch:
            keep(now)
        if progress:
            progress("words", done, total)
    if check and len(words) != Paper.objects.filter(withdrawn=False).count():
        gone, lost = amiss(words.keys(everything(), max(1, len(words))), now.words)
        for start in range(0, len(lost), BATCH):
            words.write(documents(Paper.objects.filter(pk__in=lost[start : start + BATCH]).values_list(*COLUMNS)))
        if gone:
            words.write([], gone)
    return now


def vectors_folder(generation: str, encoder: str) -> Path:
    """Where the vectors of an encoder lie."""
    return folder() / generation / f"vectors-{hashlib.sha256(encoder.encode()).hexdigest()[:12]}"


def _write_vectors(now: State, encoder: encoders.Encoder, progress: Progress | None) -> None:
    from paperlab.site.search.vectors import Vectors

    if now.encoder != encoder.name:
        now = replace(now, encoder=encoder.name, vectors=(0, 0), trust=0.0, judged=0)
    vectors = Vectors(vectors_folder(now.generation, encoder.name), encoder.dimension)
    total, done = (ahead(now.vectors) if progress else 0), 0

    def embed(rows: list[tuple]) -> None:
        nonlocal done
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

    for rows in stored(now.vectors):
        embed(rows)
        now = replace(now, vectors=(rows[-1][1], rows[-1][0]))
        keep(now)
    if len(vectors) != Paper.objects.filter(withdrawn=False).count():
        gone, lost = amiss(vectors.live_keys(), now.vectors)
        vectors.remove(gone)
        for start in range(0, len(lost), BATCH):
            embed(list(Paper.objects.filter(pk__in=lost[start : start + BATCH]).values_list(*COLUMNS)))
    if len(vectors) >= 2 * max(PROBES, now.judged):
        reading = Embedded()
        reading.files, reading.vectors = Words(folder() / now.generation / "words"), vectors
        now = replace(now, trust=judge(reading, vectors.live_keys(), encoder), judged=len(vectors))
    keep(now)


# -- reading -----------------------------------------------------------------------------------------------------------


class Embedded:
    """The index as the ranking asks it, as one state of it was: an `Engine`. trouble: why a part is missing, or ""."""

    def __init__(self) -> None:
        self.state = State()
        self.opened: tuple[Path, int] | None = None
        self.files: Words | None = None
        self.vectors: Vectors | None = None
        self.loaded: encoders.Encoder | None = None
        self.trouble = ""

    def reload(self) -> "Embedded":
        """This one, or one that sees what was written since; costs a look at one file. Who holds the old one can go on
        with it."""
        file = folder() / "state.json"
        try:
            stamp = file.stat().st_mtime_ns
        except OSError:
            stamp = 0
        if (file, stamp) == self.opened:
            return self
        new, now = Embedded(), state()
        if not now.generation:
            return new
        same = self.opened is not None and self.opened[0] == file and now.generation == self.state.generation
        try:
            if same and self.files:
                self.files.reload()
            new.files = self.files if same and self.files else Words(folder() / now.generation / "words")
        except Damaged:
            return self._damaged(now)
        if not len(new.files) and Paper.objects.filter(withdrawn=False).exclude(after(now.words)).exists():
            return self._damaged(now)  # it should hold papers by now
        if now.encoder and encoders.available():
            from paperlab.site.search.vectors import Vectors

            try:
                new.loaded = encoders.load()
            except encoders.EncoderError as error:
                new.trouble = str(error)
            else:
                if same and self.vectors and self.state.encoder == now.encoder and self.vectors.reload():
                    new.vectors = self.vectors
                elif new.loaded.name == now.encoder:
                    new.vectors = Vectors(vectors_folder(now.generation, now.encoder), new.loaded.dimension)
        new.state, new.opened = now, (file, stamp)
        return new

    def _damaged(self, now: State) -> "Embedded":
        """Nothing, and a state from which the next writer rebuilds."""
        with suppress(Busy), writing(folder(), 0):
            if state() == now:
                (folder() / "state.json").unlink(missing_ok=True)
        new = Embedded()
        new.trouble = "the files of the search index were damaged; it is built anew, `paperlab index` makes all of it"
        return new

    @property
    def size(self) -> int:
        """Papers whose words are indexed."""
        return len(self.files) if self.files else 0

    @property
    def embedded(self) -> int:
        """Papers whose meaning is indexed."""
        return len(self.vectors) if self.vectors is not None else 0

    def encoder(self) -> encoders.Encoder | None:
        """The encoder that the vectors are of, if it is the one that is set and can be loaded."""
        return self.loaded if self.vectors is not None and len(self.vectors) else None

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

    def vectors_of(self, keys: Collection[int]) -> "tuple[list[int], Array]":
        """(keys of those papers that have a vector, their vectors (n, dimension) float32, in that order)."""
        import numpy as np

        return self.vectors.several(keys) if self.vectors is not None else ([], np.zeros((0, 0), np.float32))

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
_opening = threading.Lock()


def _on_server() -> "Milvus":
    from paperlab.site.search import milvus

    return milvus.engine(setting())


def engine() -> Engine:
    """What answers queries, as of now. A server that cannot be reached is its `trouble`."""
    global _opened
    if setting():
        try:
            return _on_server()
        except Unreachable as error:
            nothing = Embedded()
            nothing.trouble = str(error)
            return nothing
    with _opening:
        _opened = _opened.reload()
        return _opened
