"""The vector index: short codes rank all vectors roughly, then the full vectors of the best decide.

Files: `rows` (key and text's hash, 16 bytes a row), `full` (the vectors, float16) and `codes.<n>`. A row is only ever
appended; a later row of the same key replaces an earlier one. `rows` is written last, so what a killed process left
behind it is cut off by the next writer.

The codes are FAISS's 4-bit product quantization in its fast-scan layout (Jégou, Douze and Schmid 2011, "Product
quantization for nearest neighbor search"; André, Kermarrec and Le Scouarnec 2015, "Cache locality is not enough"): a
quarter of a byte per coordinate, so a million vectors are 48 MB. The true neighbours are nearly always among the first
CANDIDATES by codes. They are trained when there are FROM vectors, on <n> of them, and again at every eightfold growth;
rows that have no codes yet are few and compared one by one.
"""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CANDIDATES = 2_000  # rows whose full vectors are looked at
FROM = 20_000  # vectors from which on codes pay; also how many rows may be without
GROWTH = 8
SAMPLE = 20_000  # vectors that the codes are trained on
ROUNDS = 10  # of k-means
PART = 65_536  # rows read at a time
ROW = np.dtype([("key", "<i8"), ("hash", "<u8")])
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # looked up in half the time of astype
GONE = 0  # the hash of a row that says: no vector any more


def _faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(1)  # queries run at the same time; threads within one would only wait for each other
    return faiss


class Vectors:
    """Open vector files. Many processes may read; who writes holds the lock of the whole search index."""

    def __init__(self, folder: Path, dimension: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dimension = folder, dimension
        self._open()

    def __len__(self) -> int:
        return int(self.alive.sum())

    def live_keys(self) -> list[int]:
        """The keys that have a vector."""
        return [key for key, row in self.row.items() if self.alive[row]]

    def reload(self) -> bool:
        """See the rows that were appended since. False if that is not enough, because there are new codes or fewer rows
        than before: they must be opened again."""
        if self._stamp() != self.made or self._whole() < self.count:
            return False
        try:
            self._extend()
        except ValueError:  # a file is shorter than the rows say
            return False
        return True

    def _open(self) -> None:
        """Read all from the files. Codes that cannot be read, or are of more rows than there are, are left out."""
        self.count, self.covered = 0, 0
        self.keys, self.hashes = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        self.alive, self.dead = np.zeros(0, bool), np.zeros(0, np.int64)
        self.tail = np.zeros((0, self.dimension), np.float32)
        self.row: dict[int, int] = {}
        self.codes: Any = None
        self.made = self._stamp()
        if self.made:
            with suppress(RuntimeError, OSError):  # the writer puts new ones in their place
                self.codes = _faiss().read_index(str(self.folder / self.made[0]))
        if self.codes is not None and (self.codes.ntotal > self._whole() or self.codes.d != self.dimension):
            self.codes = None
        self.covered = self.codes.ntotal if self.codes is not None else 0
        self.middle = np.zeros(self.dimension, np.float32)
        self._extend()
        if self.count:
            some = np.flatnonzero(self.alive)[:: max(1, self.count // 5_000)]
            self.middle = np.asarray(self.full[some], np.float32).mean(0) if len(some) else self.middle

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
        first = max(self.count, self.covered)
        if first < count:
            self.tail = np.concatenate([self.tail, np.asarray(self.full[first:count], np.float32)])
        self.count = count
        if self.codes is None:
            self.middle = self.tail[alive].mean(0) if alive.any() else self.middle

    def _stamp(self) -> tuple[str, int] | None:
        """Which codes there are: those trained on most vectors."""
        files = [(int(path.suffix[1:]), path) for path in self.folder.glob("codes.*") if path.suffix[1:].isdecimal()]
        if not files:
            return None
        try:
            return max(files)[1].name, max(files)[1].stat().st_mtime_ns
        except OSError:
            return None

    # -- writing ---------------------------------------------------------------------------------------------------

    def missing(self, hashes: dict[int, int]) -> list[int]:
        """Those keys of {key: hash of the text} whose text has no vector yet."""
        return [key for key, digest in hashes.items() if (at := self.row.get(key)) is None or self.hashes[at] != digest]

    def append(self, keys: Sequence[int], hashes: Sequence[int], vectors: Array) -> None:
        """Add vectors (n, dimension) of length 1, on the disk when this returns."""
        self._cut()
        rows = np.zeros(len(keys), ROW)
        rows["key"], rows["hash"] = keys, hashes
        _append(self.folder / "full", vectors.astype(np.float16))
        _append(self.folder / "rows", rows)
        self._extend()
        if len(self.tail) >= FROM:
            self._encode()

    def remove(self, keys: Sequence[int]) -> None:
        """Take vectors out, those of unknown keys too."""
        known = [key for key in keys if key in self.row and self.hashes[self.row[key]] != GONE]
        if known:
            self.append(known, [GONE] * len(known), np.zeros((len(known), self.dimension), np.float32))

    def _cut(self) -> None:
        """Take off what a killed writer left behind the last whole row."""
        if not self.reload():
            self._open()
        for name, size in (("rows", ROW.itemsize), ("full", 2 * self.dimension)):
            file = self.folder / name
            if file.exists() and file.stat().st_size > self.count * size:
                os.truncate(file, self.count * size)

    def _encode(self) -> None:
        """Give every row codes, in a new file that gets its name at the end."""
        faiss = _faiss()
        trained = int(self.made[0].partition(".")[2]) if self.made and self.codes is not None else 0
        if self.codes is None or self.count >= GROWTH * trained:
            trained = self.count
            chosen = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(self.alive))[:SAMPLE])
            parts = next(n for n in range(max(1, self.dimension // 4), 0, -1) if self.dimension % n == 0)
            codes = faiss.IndexPQFastScan(self.dimension, parts, 4, faiss.METRIC_INNER_PRODUCT)
            codes.pq.cp.niter, codes.pq.cp.min_points_per_centroid = ROUNDS, 1
            codes.train(np.asarray(self.full[chosen], np.float32))
        else:
            codes = faiss.read_index(str(self.folder / f"codes.{trained}"))  # readers in this process keep theirs
        for start in range(codes.ntotal, self.count, PART):
            codes.add(np.asarray(self.full[start : min(start + PART, self.count)], np.float32))
        partial = self.folder / "codes.partial"
        faiss.write_index(codes, str(partial))
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, self.folder / f"codes.{trained}")
        for old in self.folder.glob("codes.*"):
            if old.name != f"codes.{trained}":
                old.unlink(missing_ok=True)
        self._open()

    # -- reading ---------------------------------------------------------------------------------------------------

    def best(self, vector: Array, limit: int, among: Collection[int] | None = None) -> list[tuple[int, float]]:
        """(key, cosine) of the nearest vectors, nearest first. among: only these keys, without an index."""
        if among is not None:
            scored = list(self.scores(vector, among).items())
            return sorted(scored, key=lambda row: (-row[1], row[0]))[:limit]
        alive, keys, tail = self.alive, self.keys, self.tail
        rows, cosines = np.arange(self.covered, self.covered + len(tail)), _products(tail, vector)
        if self.codes is not None:
            wanted = max(CANDIDATES, 2 * limit)
            _, near = self.codes.search(vector[None], min(wanted + min(len(self.dead), wanted), self.covered))
            near = near[0][near[0] >= 0]
            rows = np.concatenate([near, rows])
            cosines = np.concatenate([_products(self.full[near], vector), cosines])
        inside = alive[rows]
        rows, cosines = rows[inside], cosines[inside]
        order = np.lexsort((keys[rows], -cosines))[:limit]
        return list(zip(keys[rows[order]].tolist(), cosines[order].tolist(), strict=True))

    def scores(self, vector: Array, keys: Collection[int]) -> dict[int, float]:
        """Cosine of these papers; those without a vector are left out."""
        present = [(key, at) for key in keys if (at := self.row.get(key)) is not None and self.alive[at]]
        if not present:
            return {}
        cosines = _products(self.full[[at for _, at in present]], vector)
        return {key: float(cosine) for (key, _), cosine in zip(present, cosines, strict=True)}

    def vector(self, key: int) -> Array | None:
        """A paper's vector, float32, or None."""
        at = self.row.get(key)
        return None if at is None or not self.alive[at] else np.asarray(self.full[at], np.float32)

    def several(self, keys: Collection[int]) -> tuple[list[int], Array]:
        """(keys of those papers that have a vector, their vectors (n, dimension) float32, in that order)."""
        present = [(key, at) for key in keys if (at := self.row.get(key)) is not None and self.alive[at]]
        rows = self.full[[at for _, at in present]] if present else np.zeros((0, self.dimension), np.float32)
        return [key for key, _ in present], np.asarray(rows, np.float32)

    def background(self, vector: Array) -> float:
        """The mean cosine of a vector to what is stored: what a paper of no relation has."""
        return float(vector @ self.middle)


def _products(rows: Array, vector: Array) -> Array:
    """Inner products, (n,) float32. Not by `@`: BLAS would wake threads that compete with other queries."""
    rows = HALVES.take(rows.view(np.uint16)) if rows.dtype == np.float16 else np.asarray(rows, np.float32)
    return np.einsum("ij,j->i", rows, np.asarray(vector, np.float32))


def _append(file: Path, content: Array) -> None:
    with open(file, "ab") as stream:
        stream.write(np.ascontiguousarray(content).tobytes())
        stream.flush()
        os.fsync(stream.fileno())
