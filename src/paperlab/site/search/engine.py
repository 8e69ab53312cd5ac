"""What any engine behind the ranking can do, and how far its vectors can be trusted."""

import random
from collections.abc import Collection, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from paperlab.site.catalogue.models import Paper
from paperlab.site.search.document import COLUMNS, documents
from paperlab.site.search.encoder import Encoder
from paperlab.site.search.query import EVERYTHING, Within
from paperlab.site.search.words import Asked, asked

if TYPE_CHECKING:
    from paperlab.site.search.vectors import Array

PROBES, PROBED = 64, 10  # papers that an encoder is judged by, and how many neighbours of each


class Engine(Protocol):
    """An index that is open. Papers are known by their keys in the store; of scores the higher is the better."""

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
        """The encoder that the vectors are of, if it is the one that is set and at hand."""
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


def judge(engine: Engine, held: Sequence[int], encoder: Encoder) -> float:
    """How far an encoder can be trusted here, 0 to 1, measured without any judgements of people. held: keys of papers
    that have vectors.

    Titles of stored papers are looked for by words and by meaning, the papers themselves left out. BM25 of the ten
    nearest by meaning over BM25 of the ten best by words, averaged, is .70-.73 for all-MiniLM-L6-v2 on three judged
    collections, .06-.09 for random vectors and .22-.27 for an encoder drowned in noise; .2 and less is no trust, .5
    and more is full trust.
    """
    chosen = random.Random(0).sample(held, min(PROBES, len(held)))
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
