"""Papers and an encoder for tests of the search: small, and the same every time."""

import hashlib
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from api_papers import item, take

WORDS = """
quantization pruning distillation attention transformer diffusion speech vision graph retrieval language
model training inference sparse dense layer weight gradient kernel memory cache token image video audio
policy reward agent planning search ranking translation summary dialogue safety privacy fairness noise
robust scaling law data benchmark optimal convex entropy codec vector matrix tensor rank spectral wavelet
fourier bayes prior posterior
""".split()  # noqa: SIM905


class Fake:
    """An encoder whose vectors are hashed bags of words: equal texts are equal, shared words are near."""

    def __init__(self, name: str = "fake", dimension: int = 64) -> None:
        self.name, self.dimension = name, dimension

    def query(self, text: str) -> Any:
        """(dimension,), float32, of length 1."""
        vector = np.full(self.dimension, 1e-3, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            seed = int.from_bytes(
                hashlib.blake2b(f"{self.name} {word}".encode("utf-8", "replace"), digest_size=4).digest(), "little"
            )
            vector += np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)
        return vector / np.linalg.norm(vector)

    def passages(self, texts: Sequence[str]) -> Any:
        """(n, dimension), float32."""
        return np.stack([self.query(text) for text in texts])


def paper(number: int, **facts: Any) -> Any:
    """A paper of words drawn by its number."""
    draw = random.Random(number)
    told = {
        "title": f"{' '.join(draw.choices(WORDS, k=4))} {number}".capitalize(),
        "abstract": " ".join(draw.choices(WORDS, k=30)) + ".",
        "authors": [f"{draw.choice(['Ada', 'Bo', 'Cyd', 'Dee'])} {draw.choice(['Lovelace', 'Hopper', 'Noether'])}"],
        "categories": draw.choice((["cs.CL"], ["cs.LG", "stat.ML"], ["math.OC", "cs.LG"])),
    }
    return item(number, **{**told, **facts})


def fill(count: int, start: int = 1) -> None:
    """Store papers start to start + count - 1."""
    take([paper(number) for number in range(start, start + count)])


def found(text: str = "", **filters: Any) -> list[int]:
    """Keys of what is found, best first."""
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    return [hit.paper for hit in search(Query(text, **filters)).hits]


def key(number: int) -> int:
    """The store's key of a paper of `paper` or `item`."""
    from paperlab.site.store.models import Paper

    return Paper.objects.get(arxiv=f"2401.{number:05d}").pk


def content() -> dict[str, Any]:
    """What the index says of every paper: found by which words, under which filters, in which order, with which vector.
    BM25 is left out: papers that were replaced count in its statistics until their segment is merged."""
    from paperlab.site.search import index
    from paperlab.site.search.query import EVERYTHING, Query, Within
    from paperlab.site.search.words import Asked, asked

    engine = index.engine()
    everything = engine.listed(Asked(), EVERYTHING, "day", 10_000)
    said: dict[str, Any] = {"size": engine.size, "papers": sorted(everything), "embedded": engine.embedded}
    for word in (*WORDS, "wombat"):
        said[word] = sorted(key for key, _ in engine.words(asked(word), EVERYTHING, 10_000))
    for told in (Query(category=("cs.LG",)), Query(author=("ada",)), Query(years=(2024, 2024)), Query(code=True)):
        said[str(told.params())] = sorted(engine.listed(Asked(), Within(told), "day", 10_000))
    said["facets"] = engine.facets(Asked(), EVERYTHING, strict=True)
    vectors = {key: engine.vector(key) for key in everything}
    said["vectors"] = {key: vector.tolist() for key, vector in vectors.items() if vector is not None}
    return said
