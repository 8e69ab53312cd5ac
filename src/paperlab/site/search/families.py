"""Families of papers that are not bundled: a guess from words, meaning and arXiv's categories, with a confidence.

A ridge classifier (one against the rest) over TF-IDF of stems and, where there are any, the stored vectors. It is
learnt in half a second from the bundled catalogue, whose families people gave, and from the sentences of SUBJECTS,
which also say what no family is about. Below CONFIDENT a paper gets none, as half of a daily list does;
benchmarks/families.md holds the figures. What a person corrected is never guessed over.
"""

import hashlib
import math
from collections import Counter as Counted
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from django.db import transaction

from paperlab.core.paper import FAMILIES, papers
from paperlab.site import alive
from paperlab.site.search import encoder as encoders
from paperlab.site.search import index
from paperlab.site.search.document import BATCH, COLUMNS, stored
from paperlab.site.search.engine import Engine
from paperlab.site.search.words import STEMS
from paperlab.site.store import write
from paperlab.site.store.models import Counter, Paper

Array = np.ndarray[Any, Any]

CONFIDENT = 0.6  # least share of right guesses, of those that are as sure, at which a family is given
RIDGE = 0.5
MEANING = 2.0  # weight of vectors against words
WORDS_LIMIT = 4_000  # characters of an abstract that are read
SUBJECTS: dict[str, tuple[str, ...]] = {
    "": (
        "agents that plan, use tools, browse the web and operate a computer", "multi-agent systems and their workflows",
        "a benchmark of reasoning, mathematics or exams for large language models", "time series forecasting",
        "robots, manipulation, embodied control and autonomous driving", "medical diagnosis and clinical records",
        "social bias, politics and culture in language models", "autonomous scientific research and discovery",
        "machine unlearning, jailbreaks, privacy and safety of models", "recommender systems and user behaviour",
        "technical report of a family of open language models", "chain-of-thought prompting and in-context learning",
        "graph neural networks, molecules and proteins", "games, simulation and world models for planning",
        "a dataset or benchmark for headline generation and machine translation of minority languages",
        "knowledge graphs, question answering and memory of language models",
    ),
    "alignment": ("reinforcement learning from human feedback and preference optimisation, DPO",
                  "reinforcement learning with verifiable rewards for reasoning, GRPO, PPO", "reward models"),
    "asr": ("automatic speech recognition, word error rate", "streaming transcription with transducers and CTC"),
    "attention": ("linear, sparse or efficient attention for long context", "key-value cache and attention heads"),
    "code": ("code generation by language models", "software engineering: resolving issues, repairing programs",
             "completion of programs, compilers, Verilog and SQL"),
    "codec": ("neural audio codec with residual vector quantization", "speech tokens at a low bitrate"),
    "data": ("selecting, filtering and mixing training data", "a corpus for pretraining", "synthetic training data"),
    "decoding": ("sampling and decoding strategies for text generation", "beam search, temperature, truncation"),
    "distillation": ("knowledge distillation from a teacher to a student", "on-policy distillation of small models"),
    "elastic": ("early exit, layer skipping and depth that adapts to the input", "nested models of many sizes"),
    "embedding": ("text embeddings and dense retrieval, rerankers", "sentence encoders trained by contrast"),
    "inference-systems": ("serving large language models: batching, scheduling, throughput", "GPU kernels and memory"),
    "interpretability": ("mechanistic interpretability, circuits, sparse autoencoders, probing",
                         "what neurons and layers of a transformer represent"),
    "loss": ("a loss function for training language models", "label smoothing and softmax alternatives"),
    "low-rank": ("low-rank adaptation, LoRA, parameter-efficient fine-tuning", "factorising weight matrices by SVD"),
    "merging": ("merging models by averaging weights, task vectors",),
    "moe": ("mixture of experts with routing", "sparse experts, load balancing"),
    "multimodal": ("large vision-language models that answer questions on images", "video understanding by multimodal "
                   "models", "audio-visual omni-modal language models", "multimodal retrieval of images by text"),
    "optimisation": ("optimisers, learning rates and schedules for training", "scaling laws of training"),
    "pruning": ("pruning weights, heads or layers of large language models", "unstructured and 2:4 sparsity"),
    "quantization": ("post-training quantization of weights and activations to low bits", "4-bit and binary weights",
                     "training and inference in FP8 and FP4 precision"),
    "speculative": ("speculative decoding with a draft model", "generating several tokens at once, verified"),
    "speech-representation": ("self-supervised speech representations, wav2vec, HuBERT",),
    "speech-understanding": ("spoken language understanding and speech language models", "emotion, speakers, dialogue"),
    "theory": ("expressive power and learnability of transformers, proofs", "generalisation bounds"),
    "tokenization": ("subword tokenizers, byte pair encoding, vocabularies", "byte-level models without a tokenizer"),
    "tts": ("text-to-speech synthesis, voice cloning, vocoders", "expressive speech generation"),
    "vision": ("text-to-image diffusion models and image editing", "video generation and editing by diffusion",
               "3D reconstruction, Gaussian splatting, avatars and novel views", "object detection and segmentation",
               "image super-resolution and restoration", "vision transformers for image classification",
               "personalised image generation", "camera control and motion in generated video",
               "depth estimation from a single video or image, optical flow", "human image animation and motion",
               "benchmark and quality of generated images and videos", "reward models for image and video generation",
               "4D reconstruction of dynamic scenes, neural rendering, radiance fields",
               "diffusion transformers for video, autoencoders of images"),
}  # fmt: skip

# Of a paper whose categories are known: a family is possible only with one of these (an archive stands for all of it).
_NEEDS = {
    **dict.fromkeys(
        ("asr", "codec", "speech-representation", "speech-understanding", "tts"), ("cs.SD", "eess.AS", "eess.SP")
    ),
    "vision": ("cs.CV", "cs.GR", "eess.IV", "cs.MM"),
    "multimodal": ("cs.CV", "cs.MM", "cs.SD", "eess.AS", "cs.GR", "cs.RO"),
}
# And likelier with one of these.
_HINTS = {"code": ("cs.SE", "cs.PL"), "embedding": ("cs.IR",), "inference-systems": ("cs.DC", "cs.AR", "cs.OS"),
          "vision": ("cs.GR", "eess.IV"), "optimisation": ("math.OC",), "theory": ("stat.TH", "cs.CC")}  # fmt: skip
HINT = 0.1
CLASSES = ("", *FAMILIES)


@dataclass(frozen=True)
class Guess:
    """family: the likeliest; confidence: the share of right guesses among those that are as sure, 0 to 1."""

    family: str
    confidence: float

    @property
    def given(self) -> str:
        """The family that the paper gets: "" where the guess is not sure enough."""
        return self.family if self.confidence >= CONFIDENT else ""


def _terms(title: str, body: str) -> Counted[str]:
    stems = STEMS.analyze(f"{title} . {title} . {body[:WORDS_LIMIT]}")
    return Counted([*stems, *map(" ".join, pairwise(stems))])


class Model:
    """The classifier. titles, bodies: of n papers; labels: (n,), places in CLASSES; vectors: (n, d) of length 1, or
    None to learn from words alone."""

    def __init__(self, titles: Sequence[str], bodies: Sequence[str], labels: Array, vectors: Array | None) -> None:
        counted = [_terms(title, body) for title, body in zip(titles, bodies, strict=True)]
        spread = Counted(term for terms in counted for term in terms)
        known = sorted(term for term, n in spread.items() if n > 1)
        self.place = {term: i for i, term in enumerate(known)}
        self.weight = np.log(len(titles) / np.array([spread[term] for term in known], np.float32))
        words = np.stack([self._words(terms) for terms in counted])
        kernel = words @ words.T
        self.middle = None if vectors is None else vectors.mean(0)
        if vectors is not None:
            vectors = self._centred(vectors)
            kernel = kernel + MEANING * vectors @ vectors.T
        wanted = np.eye(len(CLASSES))[labels]
        inverse = np.linalg.inv(kernel + RIDGE * np.eye(len(titles)))
        dual = inverse @ wanted
        self.by_word = (words.T @ dual).astype(np.float32)
        self.by_vector = None if vectors is None else (MEANING * vectors.T @ dual).astype(np.float32)
        # The score that each paper would get from a model learnt without it, in closed form.
        self.left_out = wanted - dual / np.diag(inverse)[:, None]
        self._calibrate(labels)

    def _words(self, terms: Counted[str]) -> Array:
        row = np.zeros(len(self.place), np.float32)
        for term, n in terms.items():
            if (at := self.place.get(term)) is not None:
                row[at] = (1 + math.log(n)) * self.weight[at]
        return row / max(float(np.linalg.norm(row)), 1e-9)

    def _centred(self, vectors: Array) -> Array:
        moved = vectors - self.middle
        return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)

    def _calibrate(self, labels: Array) -> None:
        """A logistic curve from how sure a guess is to whether it is right, fitted on the scores of papers left out."""
        sure = np.stack([np.ones(len(labels)), _sure(self.left_out)], 1)
        right = (self.left_out.argmax(1) == labels).astype(float)
        curve = np.zeros(2)
        for _ in range(20):  # Newton; a little ridge, where every guess is right
            p = 1 / (1 + np.exp(-sure @ curve))
            slope = sure.T @ (right - p) - 1e-3 * curve
            curve = curve + np.linalg.solve((sure * (p * (1 - p))[:, None]).T @ sure + 1e-3 * np.eye(2), slope)
        self.curve = curve

    def confidence(self, scores: Array) -> Array:
        """(n,) of (n, classes)."""
        return 1 / (1 + np.exp(-(self.curve[0] + self.curve[1] * _sure(scores))))

    def guess(self, title: str, body: str, vector: Array | None, categories: Sequence[str] = ()) -> Guess:
        """Of one paper. vector: (d,) of length 1; needed if the model learnt from vectors."""
        scores = self._words(_terms(title, body)) @ self.by_word
        if self.by_vector is not None and vector is not None:
            scores = scores + self._centred(vector[None])[0] @ self.by_vector
        for place, family in enumerate(CLASSES):
            if categories and family in _NEEDS and not _any(categories, _NEEDS[family]):
                scores[place] = 0.0
            elif _any(categories, _HINTS.get(family, ())):
                scores[place] += HINT
        return Guess(CLASSES[int(scores.argmax())], float(self.confidence(scores[None])[0]))


def _sure(scores: Array) -> Array:
    """How sure a guess is: its score, and half of how far it is ahead of the second."""
    top = np.sort(scores, 1)
    return top[:, -1] + 0.5 * (top[:, -1] - top[:, -2])


def _any(categories: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(category in wanted for category in categories)


@cache
def examples() -> tuple[list[str], list[str], Array]:
    """What is learnt from: titles, bodies, labels (places in CLASSES): the bundled papers, then SUBJECTS."""
    ours = list(papers().values())
    said = [(family, sentence) for family, sentences in SUBJECTS.items() for sentence in sentences]
    labels = [CLASSES.index(paper.family) for paper in ours] + [CLASSES.index(family) for family, _ in said]
    titles = [paper.title for paper in ours] + [sentence for _, sentence in said]
    bodies = [f"{paper.method} {paper.summary}" for paper in ours] + [""] * len(said)
    return titles, bodies, np.array(labels)


# -- the store ---------------------------------------------------------------------------------------------------------

LAST = 2**62  # a key behind all others
_learnt: dict[str, Model] = {}
PERSON, GUESSED = "person", "guessed"  # who gave a family, in a paper's `origins`; the catalogue's has no entry


def origin(paper: Paper) -> tuple[str, str]:
    """Who gave a paper its family, and how sure that was: (PERSON, ""), (GUESSED, "0.83"), ("", "") for the catalogue's
    or none."""
    who, said = paper.origins.get("family", ("", ""))
    return str(who), str(said)


def correct(paper: Paper, family: str) -> None:
    """Set a paper's family, "" for none, for good: neither a guess nor a later catalogue replaces it. Raises
    ValueError."""
    if family not in CLASSES:
        raise ValueError(f"no family {family[:40]!r}; one of: {', '.join(FAMILIES)}, or none")
    with transaction.atomic():
        revision = write.lock()
        row = Paper.objects.get(pk=paper.pk)
        row.family, row.origins = family, {**row.origins, "family": [PERSON, ""]}
        row.save(update_fields=["family", "origins"])
        write.number([row], revision)


def assign() -> int:
    """Guess the families of the papers that changed since the last time; how many got another one.

    Papers wait for their vectors where there is an encoder. Learns the classifier at first need.
    """
    engine = index.engine()
    meaning = engine.encoder()
    model, name = _model(engine, meaning)
    reached, changed = Counter.objects.get_or_create(name=name)[0].value, 0
    for rows in stored((reached, LAST)):
        alive.sign()
        if meaning is not None:
            rows = [row for row in rows if row[1] <= engine.state.vectors[0]]
        if not rows:
            break
        changed += _assign([dict(zip(COLUMNS, row, strict=True)) for row in rows], model, engine)
        # A full batch may end within a revision: that one is looked at again.
        Counter.objects.filter(pk=name).update(value=max(reached, rows[-1][1] - (len(rows) == BATCH)))
    return changed


def _assign(rows: list[dict[str, Any]], model: Model, engine: Engine) -> int:
    ours = papers()
    found: dict[int, tuple[str, list[str] | None]] = {}
    for row in rows:
        key, known = row["pk"], ours.get(row["slug"] or "")
        if known is not None:
            found[key] = known.family, None
            continue
        vector = engine.vector(key) if model.by_vector is not None else None
        if model.by_vector is not None and vector is None:  # withdrawn
            continue
        guess = model.guess(row["title"], row["abstract"] or row["summary"], vector, row["categories"])
        found[key] = guess.given, [GUESSED, f"{guess.confidence:.2f}"] if guess.given else None
    with transaction.atomic():
        revision = write.lock()
        changed = []
        for start in range(0, len(rows), write.CHUNK):
            keys = [row["pk"] for row in rows[start : start + write.CHUNK]]
            for paper in Paper.objects.filter(pk__in=keys).only("pk", "family", "origins"):
                family, by = found.get(paper.pk, (paper.family, None))
                if origin(paper)[0] == PERSON or paper.family == family:
                    continue
                paper.family = family
                paper.origins = {**{name: who for name, who in paper.origins.items() if name != "family"},
                                 **({"family": by} if by else {})}  # fmt: skip
                changed.append(paper)
        Paper.objects.bulk_update(changed, ["family", "origins"], batch_size=write.BATCH)
        write.number(changed, revision)
    return len(changed)


def _model(engine: Engine, meaning: encoders.Encoder | None) -> tuple[Model, str]:
    """The classifier, and the name under which the store keeps how far it has come: another one begins anew."""
    titles, bodies, labels = examples()
    said = repr((titles, bodies, labels.tolist(), CONFIDENT, meaning.name if meaning else ""))
    name = f"families:{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    if name not in _learnt:
        vectors = _example_vectors(engine, meaning, titles, bodies) if meaning else None
        _learnt[name] = Model(titles, bodies, labels, vectors)
    return _learnt[name], name


def _example_vectors(engine: Engine, meaning: encoders.Encoder, titles: list[str], bodies: list[str]) -> Array:
    """Vectors of the examples: those that are stored, and new ones of the others."""
    keys = dict(Paper.objects.filter(slug__isnull=False).values_list("slug", "pk"))
    vectors = [engine.vector(keys[slug]) if slug in keys else None for slug in papers()]
    vectors += [None] * (len(titles) - len(vectors))
    texts = [". ".join(filter(None, pair)) for pair in zip(titles, bodies, strict=True)]
    missing = [i for i, vector in enumerate(vectors) if vector is None]
    for i, made in zip(missing, meaning.passages([texts[i] for i in missing]), strict=True):
        vectors[i] = made
    return np.stack([vector for vector in vectors if vector is not None])
