"""The vector index: nearest neighbours by a scan of short int8 prefixes, then of the full vectors behind the best.

Files: `rows` (key and text's hash, 16 bytes a row), `full` (the vectors, float16), `prefix` (int8), `axes.npz`. A row
is only ever appended; a later row of the same key replaces an earlier one. `rows` is written last, so what a killed
process left behind it is cut off by the next writer.

The prefix: vectors are turned onto the principal axes of those that are stored, and the first PREFIX coordinates kept
as int8. Their products rank well enough that the true neighbours are among the first CANDIDATES, which are then scored
by their full vectors. It is made when there are FROM vectors, and again at every eightfold growth; below that the full
vectors are scanned.
"""

import itertools
import os
import time
import zipfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numkong
import numpy as np

Array = np.ndarray[Any, Any]

PREFIX = 128  # coordinates at most
CANDIDATES = 1_500  # rows whose full vectors are looked at
FROM = 20_000  # vectors from which on the prefix pays
GROWTH = 8
SAMPLE = 50_000  # vectors that the axes are made of
PART = 65_536  # rows turned at a time
ROW = np.dtype([("key", "<i8"), ("hash", "<u8")])
GONE = 0  # the hash of a row that says: no vector any more

_threads = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="vectors")


class Vectors:
    """Open vector files. Many processes may read; who writes holds the lock of the whole search index."""

    def __init__(self, folder: Path, dimension: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dimension, self.short = folder, dimension, min(PREFIX, dimension)
        self._open()

    def _forget(self) -> None:
        self.count = 0
        self.made: int | None = None
        self.keys = np.zeros(0, np.int64)
        self.hashes = np.zeros(0, np.uint64)
        self.alive = np.zeros(0, bool)
        self.row: dict[int, int] = {}
        self.axes: Array | None = None

    def __len__(self) -> int:
        return int(self.alive.sum())

    def held(self) -> list[int]:
        """The keys that have a vector."""
        return [key for key, row in self.row.items() if self.alive[row]]

    def reload(self) -> bool:
        """See the rows that were appended since. False if that is not enough, because the axes were made anew or rows
        are fewer than before: they must be opened again."""
        if self._stamp() != self.made or self._whole() < self.count:
            return False
        try:
            self._extend()
        except ValueError:  # a file is shorter than the rows say
            return False
        return True

    def _open(self) -> None:
        """Read all from the files. Axes may be made anew meanwhile: then once more."""
        for _ in range(100):
            self._forget()
            self.made = self._stamp()
            try:
                if self.made is not None:
                    with np.load(self.folder / "axes.npz") as kept:
                        self.axes = kept["axes"]
                        self.scale, self.middle = float(kept["scale"]), kept["middle"]
                self._extend()
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                if self._stamp() == self.made:  # not in the making, but damaged: all vectors are scanned without them
                    with suppress(OSError):
                        (self.folder / "axes.npz").unlink()
                continue
            if self._stamp() == self.made:
                return
            time.sleep(0.01)
        raise OSError(f"{self.folder}: the vectors cannot be read; `paperlab index --anew` makes them again")

    def _whole(self) -> int:
        """How many rows there are with their vectors."""
        files = [(self.folder / "rows", ROW.itemsize), (self.folder / "full", 2 * self.dimension)]
        return min(file.stat().st_size // size if file.exists() else 0 for file, size in files)

    def _extend(self) -> None:
        count = self._whole()
        if count == self.count:
            return
        # Another thread may be reading: the vectors are there before the rows that point to them.
        self.full = np.memmap(self.folder / "full", np.float16, "r", shape=(count, self.dimension))
        if self.axes is not None:
            self.prefix = np.memmap(self.folder / "prefix", np.int8, "r", shape=(count, self.short))
        new = np.fromfile(self.folder / "rows", ROW, offset=self.count * ROW.itemsize, count=count - self.count)
        keys = new["key"].astype(np.int64)
        self.keys, self.hashes = np.concatenate([self.keys, keys]), np.concatenate([self.hashes, new["hash"]])
        latest = dict(zip(keys.tolist(), range(self.count, count), strict=True))
        alive = np.zeros(count, bool)
        alive[: self.count] = self.alive
        alive[[self.row[key] for key in latest if key in self.row]] = False
        alive[list(latest.values())] = True
        alive[self.hashes == GONE] = False
        self.alive, self.dead = alive, np.flatnonzero(~alive)
        self.row.update(latest)
        self.count = count
        if self.axes is None:
            self.middle = np.asarray(self.full[alive], np.float32).mean(0) if alive.any() else np.zeros(self.dimension)

    def _stamp(self) -> int | None:
        try:
            return (self.folder / "axes.npz").stat().st_mtime_ns
        except OSError:
            return None

    # -- writing ---------------------------------------------------------------------------------------------------

    def missing(self, hashes: dict[int, int]) -> list[int]:
        """Those keys of {key: hash of the text} whose text has no vector yet."""
        return [key for key, told in hashes.items() if (at := self.row.get(key)) is None or self.hashes[at] != told]

    def append(self, keys: Sequence[int], hashes: Sequence[int], vectors: Array) -> None:
        """Add vectors (n, dimension) of length 1, on the disk when this returns."""
        self._cut()
        rows = np.zeros(len(keys), ROW)
        rows["key"], rows["hash"] = keys, hashes
        _append(self.folder / "full", vectors.astype(np.float16))
        if self.axes is not None:
            _append(self.folder / "prefix", self._short(vectors))
        _append(self.folder / "rows", rows)
        self._extend()
        if self.count >= max(FROM, GROWTH * self._made_of()):
            self._turn()

    def remove(self, keys: Sequence[int]) -> None:
        """Take vectors out, those of unknown keys too."""
        known = [key for key in keys if key in self.row and self.hashes[self.row[key]] != GONE]
        if known:
            self.append(known, [GONE] * len(known), np.zeros((len(known), self.dimension), np.float32))

    def _made_of(self) -> int:
        if self.axes is None:
            return 0
        with np.load(self.folder / "axes.npz") as kept:
            return int(kept["count"])

    def _cut(self) -> None:
        """Take off what a killed writer left behind the last whole row."""
        if not self.reload():
            self._open()
        for name, size in (("rows", ROW.itemsize), ("full", 2 * self.dimension), ("prefix", self.short)):
            file = self.folder / name
            if file.exists() and file.stat().st_size > self.count * size:
                os.truncate(file, self.count * size)

    def _turn(self) -> None:
        """Make the axes, and the prefix of every row, in new files that get their names at the end."""
        chosen = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(self.alive))[:SAMPLE])
        sample = np.asarray(self.full[chosen], np.float32)
        _, axes = np.linalg.eigh(np.cov(sample.T))
        axes = np.ascontiguousarray(axes[:, ::-1][:, : self.short], np.float32)
        scale = 127 / float(np.quantile(np.abs(sample @ axes).max(1), 0.999))
        self.axes, self.scale = axes, scale
        partial = self.folder / "prefix.partial"
        with open(partial, "wb") as stream:
            for start in range(0, self.count, PART):
                stream.write(self._short(np.asarray(self.full[start : start + PART], np.float32)).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        made = self.folder / "axes.partial.npz"
        np.savez(made, axes=axes, scale=scale, middle=sample.mean(0), count=self.count)
        # A reader between the two renames would read one with the other's numbers: without axes it scans all.
        (self.folder / "axes.npz").unlink(missing_ok=True)
        os.replace(partial, self.folder / "prefix")
        os.replace(made, self.folder / "axes.npz")
        self._open()

    def _short(self, vectors: Array) -> Array:
        assert self.axes is not None
        return np.clip(np.rint(vectors @ self.axes * self.scale), -127, 127).astype(np.int8)

    # -- reading ---------------------------------------------------------------------------------------------------

    def best(self, vector: Array, limit: int, among: Collection[int] | None = None) -> list[tuple[int, float]]:
        """(key, cosine) of the nearest vectors, nearest first. among: only these keys, without an index."""
        if among is not None:
            found = list(self.scores(vector, among).items())
            return sorted(found, key=lambda row: (-row[1], row[0]))[:limit]
        if not self.count:
            return []
        if self.axes is None:
            near = _nearest(self.full, vector.astype(np.float16), self.dead, limit)
        else:
            # The query is scaled by itself: only the order counts here.
            turned = vector @ self.axes
            short = np.rint(turned * (127 / max(float(np.abs(turned).max()), 1e-9))).astype(np.int8)
            near = _nearest(self.prefix, short, self.dead, max(CANDIDATES, 2 * limit))
        cosines = np.asarray(self.full[near], np.float32) @ vector
        order = np.lexsort((self.keys[near], -cosines))[:limit]
        return [(int(self.keys[near[i]]), float(cosines[i])) for i in order if self.alive[near[i]]]

    def scores(self, vector: Array, keys: Collection[int]) -> dict[int, float]:
        """Cosine of these papers; those without a vector are left out."""
        held = [(key, at) for key in keys if (at := self.row.get(key)) is not None and self.alive[at]]
        if not held:
            return {}
        cosines = np.asarray(self.full[[at for _, at in held]], np.float32) @ vector
        return {key: float(cosine) for (key, _), cosine in zip(held, cosines, strict=True)}

    def vector(self, key: int) -> Array | None:
        """A paper's vector, float32, or None."""
        at = self.row.get(key)
        return None if at is None or not self.alive[at] else np.asarray(self.full[at], np.float32)

    def background(self, vector: Array) -> float:
        """The mean cosine of a vector to what is stored: what a paper of no relation has."""
        return float(vector @ self.middle)


def _append(file: Path, content: Array) -> None:
    with open(file, "ab") as stream:
        stream.write(np.ascontiguousarray(content).tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _nearest(rows: Array, vector: Array, dead: Array, limit: int) -> Array:
    """Row numbers of the largest inner products, in no order; the scan is split over threads."""
    parts = min(_threads._max_workers, max(1, len(rows) // 20_000))
    edges = [len(rows) * part // parts for part in range(parts + 1)]

    def scan(start: int, stop: int) -> tuple[Array, Array]:
        products = np.asarray(numkong.cdist(vector[None], rows[start:stop], "inner"))[0]
        inside = dead[np.searchsorted(dead, start) : np.searchsorted(dead, stop)] if len(dead) else dead
        products[inside - start] = -np.inf
        near = np.argpartition(-products, limit)[:limit] if limit < len(products) else np.arange(len(products))
        return near + start, products[near]

    spans = list(itertools.pairwise(edges))
    found = [scan(*span) for span in spans] if parts == 1 else list(_threads.map(lambda span: scan(*span), spans))
    near, products = (np.concatenate(some) for some in zip(*found, strict=True))
    return near if len(near) <= limit else near[np.argpartition(-products, limit)[:limit]]
