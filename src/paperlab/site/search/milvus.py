"""The index on a Milvus server (PAPERLAB_SEARCH=http://host:19530), the way past one machine: an `Engine`.

Three collections a generation: papers (stems with BM25, facts), vectors (with the same facts), words (of titles, for
misspelt ones); and one of states, which says which generation is read and up to where it follows the store. Any number
of site processes read; one writes, by a lock file and, on PostgreSQL, by a lock in the database. What is written
is written under the paper's key and the state afterwards, so a killed writer's work is done again, which changes
nothing. A path ending in .db opens Milvus Lite inside the process, for trying and for tests: one process alone.

Stems are made here, as for the index on files, and sent in order; a stop word leaves a point in its place, which no
analyzer counts. What is different from the index on files: the server's BM25 (the constants are the same, k1 1.2 and
b 0.75, lengths are not rounded; Milvus Lite counts papers by segment); names ("qbert" for Q-BERT) are words of the
text; a query's words are all looked for, however many; vectors are found by HNSW, not by a whole scan; facets count the
first WINDOW papers; a text is cut at 60,000 bytes of stems; readers see a change when the server does (bounded
staleness).
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from paperlab.site.search import encoder as encoders
from paperlab.site.search.engine import State, Unreachable, parsed
from paperlab.site.search.query import DEPTH, LIMIT, Within
from paperlab.site.search.words import PLAIN, Asked, near, stemmed

if TYPE_CHECKING:
    from paperlab.site.search.vectors import Array

PREFIX = "paperlab_"
STATES = f"{PREFIX}states"
FRESH = 0.5  # seconds for which a state is not asked for again
WINDOW = 16_000  # rows in one answer; the server gives 16,384

_opening = threading.Lock()


@cache
def _client(uri: str) -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        from paperlab.core.install import hint

        raise Unreachable(f"PAPERLAB_SEARCH: Milvus's client is not installed: {hint('milvus')}") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs whole tracebacks of what it raises
    try:
        server = MilvusClient(uri, timeout=10)
        for name in server.list_collections():  # Milvus Lite forgets at its end what is loaded
            if name.startswith(PREFIX):
                server.load_collection(name)
        return server
    except Exception as error:  # its errors have no common base
        raise unreachable(uri, error) from error


def client(uri: str) -> Any:
    """A connection to the server, one for the process. Raises Unreachable."""
    with _opening:
        return _client(uri)


def unreachable(uri: str, error: Exception) -> Unreachable:
    """What a client's error says, as one of ours."""
    return Unreachable(f"PAPERLAB_SEARCH {uri}: {' '.join(str(error).split())[:300]}")


def quoted(values: Iterable[Any]) -> str:
    """A list as the server's expressions write it."""
    return json.dumps(list(values), ensure_ascii=False)


NOTHING = "key in []"


class Milvus:
    """An open index on a server, as one state of it was."""

    def __init__(self, uri: str) -> None:
        self.uri, self.server = uri, client(uri)
        self.state, self.middle = State(), [0.0]
        self.loaded: encoders.Encoder | None = None
        self.trouble = ""
        self.writing = False  # then what the server refuses is raised, else it is the trouble of a reader
        try:
            if self.server.has_collection(STATES):
                rows = {row["key"]: row["said"] for row in self.rows(STATES, "key in [1, 2]", ["key", "said"])}
                self.state = parsed(rows.get(1, "")) or self.state
                self.middle = json.loads(rows.get(2, "[0.0]"))
            if self.state.generation and not self.server.has_collection(self.name("papers")):
                self.state = State()
                self.trouble = f"PAPERLAB_SEARCH {uri}: its papers are gone; `paperlab index` brings all of them again"
        except Exception as error:  # the client's errors have no common base
            raise unreachable(uri, error) from error
        if self.state.encoder and encoders.available():
            try:
                loaded = encoders.load()
                self.loaded = loaded if loaded.name == self.state.encoder else None
            except encoders.EncoderError as error:
                self.trouble = str(error)

    def name(self, what: str) -> str:
        """The collection of "papers", "vectors" or "words"."""
        return f"{PREFIX}{what}_{self.state.generation}"

    def rows(self, name: str, where: str, fields: Sequence[str], limit: int = WINDOW) -> list[dict[str, Any]]:
        """Fields of the rows of a collection that hold a condition."""
        return list(self._ask("query", name, filter=where, output_fields=list(fields), limit=limit))

    def _ask(self, what: str, name: str, **options: Any) -> Any:
        try:
            return getattr(self.server, what)(name, **options)
        except Exception as error:
            if self.writing:
                raise
            self.trouble = str(unreachable(self.uri, error))
            return []

    def _count(self, name: str, where: str = "") -> int:
        if not self.state.generation:
            return 0
        rows = self._ask("query", name, filter=where, output_fields=["count(*)"])
        return int(rows[0]["count(*)"]) if rows else 0

    def _search(
        self, name: str, field: str, what: Any, where: str, limit: int, **options: Any
    ) -> list[tuple[int, float]]:
        if not self.state.generation or limit < 1:
            return []
        answer = self._ask(
            "search", name, data=[what], anns_field=field, filter=where, limit=min(limit, WINDOW),
            search_params=options, output_fields=["key"],
        )  # fmt: skip
        return [(int(hit["key"]), float(hit["distance"])) for hits in answer for hit in hits]

    @property
    def size(self) -> int:
        """Papers whose words are indexed."""
        return self._count(self.name("papers"))

    @property
    def embedded(self) -> int:
        """Papers whose meaning is indexed."""
        return self._count(self.name("vectors")) if self.state.encoder else 0

    @property
    def trust(self) -> float:
        """How far the encoder can be trusted on these papers, 0 to 1."""
        return self.state.trust if self.state.judged else 1.0

    def encoder(self) -> encoders.Encoder | None:
        """The encoder that the vectors are of, if it is the one that is set and can be loaded."""
        return self.loaded

    def words(self, text: Asked, within: Within, limit: int, *, strict: bool = False) -> list[tuple[int, float]]:
        """(key, BM25), best first, of papers within. strict: that hold every word."""
        query_text = " ".join(dict.fromkeys((*text.terms, *text.names)))
        where = _every([*_where(within), *(_text(text, strict=True) if strict else _phrases(text))])
        # Milvus Lite gives the negative.
        hits = [(key, abs(score)) for key, score in self._search(self.name("papers"), "bm25", query_text, where, limit)]
        return sorted(hits, key=lambda row: (-row[1], row[0]))

    def word_scores(self, text: Asked, keys: Collection[int]) -> dict[int, float]:
        """BM25 of these papers, without those that hold none of the words."""
        return dict(self.words(text, Within(keys=frozenset(keys)), len(keys)))

    def meaning(self, vector: "Array", within: Within, limit: int) -> list[tuple[int, float]]:
        """(key, cosine) of papers within, nearest first."""
        if self.loaded is None:
            return []
        options = {"params": {"ef": max(128, 2 * limit)}}
        hits = self._search(self.name("vectors"), "vector", vector.tolist(), _every(_where(within)), limit, **options)
        return sorted(hits, key=lambda row: (-row[1], row[0]))

    def meaning_scores(self, vector: "Array", keys: Collection[int]) -> dict[int, float]:
        """Cosine of these papers, without those that have no vector."""
        import numpy as np

        if self.loaded is None or not keys:
            return {}
        rows = self.rows(self.name("vectors"), f"key in {quoted(keys)}", ["key", "vector"])
        return {row["key"]: float(np.asarray(row["vector"], np.float32) @ vector) for row in rows}

    def background(self, vector: "Array") -> float:
        """Mean cosine to all papers, by a sample of them."""
        return float(vector @ self.middle) if len(self.middle) == len(vector) else 0.0

    def vector(self, key: int) -> "Array | None":
        """A paper's vector."""
        import numpy as np

        rows = self.rows(self.name("vectors"), f"key == {int(key)}", ["vector"]) if self.loaded else []
        return np.asarray(rows[0]["vector"], np.float32) if rows else None

    def vectors_of(self, keys: Collection[int]) -> "tuple[list[int], Array]":
        """(keys of those papers that have a vector, their vectors (n, dimension) float32)."""
        import numpy as np

        rows = self.rows(self.name("vectors"), f"key in {quoted(keys)}", ["key", "vector"]) if self.loaded else []
        vectors = [np.asarray(row["vector"], np.float32) for row in rows]
        return [int(row["key"]) for row in rows], np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def listed(self, text: Asked, within: Within, order: str, limit: int, offset: int = 0) -> list[int]:
        """Keys in the order "day" or "trend", highest first, of papers within that hold every word."""
        where = _every([*_where(within), *_text(text, strict=True)])
        # The server orders by distance alone: by a vector of day and trend. All pages are cut from one answer.
        most = max(offset + limit, DEPTH + LIMIT)
        axis = [1.0, 0.0] if order == "day" else [0.0, 1.0]
        hits = self._search(self.name("papers"), "orders", axis, where, most)
        return [key for key, _ in sorted(hits, key=lambda row: (-row[1], row[0]))][offset : offset + limit]

    def total(self, text: Asked, within: Within, *, strict: bool) -> int:
        """How many papers within hold every word (strict) or any word."""
        return self._count(self.name("papers"), _every([*_where(within), *_text(text, strict=strict)]))

    def facets(self, text: Asked, within: Within, *, strict: bool) -> dict[str, dict[str, int]]:
        """Papers by "family", "category" and "year", over the first WINDOW of what `total` counts."""
        where = _every([*_where(within), *_text(text, strict=strict)])
        fields = ["family", "category", "year"]
        rows = self.rows(self.name("papers"), where, fields) if self.state.generation else []
        counted: dict[str, Counter[str]] = {name: Counter() for name in fields}
        for row in rows:
            counted["family"].update([row["family"]] if row["family"] else [])
            counted["category"].update(row["category"])
            counted["year"].update([str(row["year"])] if row["year"] else [])
        return {name: dict(counts.most_common(40)) for name, counts in counted.items()}

    def known(self, word: str) -> bool:
        """Whether any paper holds the word."""
        stems = stemmed(word)
        return not stems or not self.state.generation or self._holding(stems) > 0

    def near(self, word: str) -> str:
        """The known word that a misspelt one most likely means, or ""."""
        plain = (PLAIN.analyze(word) or [""])[0]
        if not plain or not self.state.generation:
            return ""
        rows = self.rows(self.name("words"), f'word like "{plain[:1]}%"', ["word"])
        return near(plain, [row["word"] for row in rows], lambda word: self._holding(stemmed(word)))

    def _holding(self, stems: Sequence[str]) -> int:
        return self._count(self.name("papers"), f"text_match(stems, {json.dumps(' '.join(stems))})") if stems else 0


_last: tuple[float, Milvus] | None = None


def engine(uri: str) -> Milvus:
    """The index on a server, as it was at most FRESH seconds ago. Raises Unreachable."""
    global _last
    last = _last  # another thread may forget it
    if last is None or last[1].uri != uri or time.monotonic() - last[0] > FRESH:
        last = _last = (time.monotonic(), Milvus(uri))
    return last[1]


def forget() -> None:
    """Ask the server again: its state is known to be another."""
    global _last
    _last = None


# -- conditions --------------------------------------------------------------------------------------------------------


def _every(parts: Sequence[str]) -> str:
    return " and ".join(f"({part})" for part in parts)


def _where(within: Within) -> list[str]:
    query = within.query
    parts = [f"family in {quoted(query.family)}"] if query.family else []
    if query.category:
        parts.append(f"array_contains_any(category, {quoted(query.category)})")
    if query.author:
        names = [" ".join(PLAIN.analyze(name)) for name in query.author]
        parts.append(" or ".join(f'author like "% {name} %"' for name in names if name) or NOTHING)
    first, last = query.years
    if (first, last) != (None, None):
        parts.append(f"year >= {1 if first is None else first}" + ("" if last is None else f" and year <= {last}"))
    if query.code:
        parts.append("code == true")
    if within.keys is not None:
        parts.append(f"key in {quoted(within.keys)}")
    if within.without:
        parts.append(f"key not in {quoted(within.without)}")
    return parts


def _phrases(text: Asked) -> list[str]:
    return [f'stems like "% {in_order(phrase)} %"' for phrase in text.phrases]


def in_order(phrase: Sequence[tuple[int, str]]) -> str:
    """Stems at their places, points at those of stop words."""
    stems = dict(phrase)
    return " ".join(stems.get(place, ".") for place in range(max(stems, default=-1) + 1))


def _text(text: Asked, *, strict: bool) -> list[str]:
    wanted = list(dict.fromkeys(text.terms)) if strict and text.terms else [" ".join((*text.terms, *text.names))]
    return _phrases(text) + [f"text_match(stems, {json.dumps(words, ensure_ascii=False)})" for words in wanted if words]
