"""The word index: BM25 over title and text, filters, orders, counts. tantivy, in a folder; the store can rebuild it."""

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tantivy
from tantivy import FieldType, Filter, Occur, Order, TextAnalyzerBuilder, Tokenizer

from paperlab.site.search import cjk
from paperlab.site.search.document import Document, compounds, signed
from paperlab.site.search.query import Within
from paperlab.site.search.spelling import american

TERMS = 48  # different words of a query that are looked for, the rarest first
PROSE = 12  # different words, without stop words; who asks with more writes prose
COUNTED = 50_000  # postings that are gone through to count papers
SINGLY = 300  # keys that are looked up one by one: as a set, all keys of the index are gone through
LONG = 60  # letters; what is longer is no word
THREADS = min(4, os.cpu_count() or 1)  # that write many papers
SMALL, LARGE = 15_000_000, 400_000_000  # bytes that a writer may hold: a few papers, or all of them

Where = tantivy.Query  # a condition that papers must hold


def _analyzer(*, stem: bool) -> Any:
    builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.remove_long(LONG)).filter(Filter.lowercase())
    builder = builder.filter(Filter.ascii_fold())
    if stem:
        builder = builder.filter(Filter.stopword("english")).filter(Filter.stemmer("english"))
    return builder.build()


STEMS, PLAIN = _analyzer(stem=True), _analyzer(stem=False)


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    # Signed: deleting by an unsigned term finds nothing in tantivy-py 0.27.
    builder.add_integer_field("key", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name="stems")
    builder.add_text_field("spelling", tokenizer_name="plain", index_option="basic")  # the title's words as written
    builder.add_text_field("names", tokenizer_name="plain", index_option="basic")
    builder.add_text_field("author", tokenizer_name="plain")
    for name in ("category", "family", "years"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    builder.add_unsigned_field("year", fast=True)
    builder.add_unsigned_field("code", indexed=True, fast=True)
    builder.add_integer_field("day", fast=True)
    builder.add_float_field("trend", fast=True)
    return builder.build()


SCHEMA = _schema()


@dataclass(frozen=True)
class Asked:
    """A query's text as the index knows it. terms: stems, each once; names: compounds. signed: those of the names
    that have a sign ("cplusplus"), without which they are something else; numbered: those that are two words here
    ("qwen 2.5").

    phrases: stems and their places, from 0: the stop words between them, which the index leaves out, take a place.
    prose: more than PROSE different words.
    """

    terms: tuple[str, ...] = ()
    phrases: tuple[tuple[tuple[int, str], ...], ...] = ()
    names: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()
    prose: bool = False

    def __bool__(self) -> bool:
        return bool(self.terms or self.phrases or self.names)


_NUMBERED = re.compile(r"\b[A-Za-z]{2,20} \d{1,3}(?:\.\d{1,2})?\b")


def asked(text: str) -> Asked:
    """What a text asks for. "in quotes": the words in this order; a quote without its partner is ignored.

    In a text of more than PROSE different words quotes are punctuation, as in an abstract or a question in prose.
    """
    paired = cjk.pairs(text)
    parts = american(paired).replace("“", '"').replace("”", '"').split('"')
    if len(parts) % 2 == 0:
        parts[-2:] = [" ".join(parts[-2:])]
    terms = tuple(dict.fromkeys(STEMS.analyze(" ".join(parts))))
    phrases = tuple(phrase for part in parts[1::2] if len(phrase := placed(part)) > 1)
    count = len(
        terms if paired is text else set(STEMS.analyze(american(text)))
    )  # without pairs: a run of Chinese is one
    with_sign = signed(text)[:8]
    numbered = [re.sub(r"\W", "", match[0]).lower() for match in _NUMBERED.finditer(text)][:4]
    names = dict.fromkeys([*compounds(paired)[:8], *with_sign, *numbered])
    prose = count > PROSE
    return Asked(terms, () if prose else phrases, tuple(names), tuple(with_sign), tuple(numbered), prose)


def stemmed(word: str) -> list[str]:
    """The stems that the index has of a word."""
    return list(STEMS.analyze(american(cjk.pairs(word))))


def placed(text: str) -> tuple[tuple[int, str], ...]:
    """The stems of a text with their places, the first at 0; places of stop words are skipped."""
    words = enumerate(PLAIN.analyze(text))
    stems = [(place, stem) for place, word in words for stem in STEMS.analyze(word)]
    return tuple((place - stems[0][0], stem) for place, stem in stems)


class Damaged(RuntimeError):
    """The files of an index cannot be read."""


class Words:
    """An open word index. Many processes may read; who writes holds the lock of the whole search index."""

    def __init__(self, folder: Path) -> None:
        """Open it, or make it. Raises Damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.index = tantivy.Index(SCHEMA, str(folder), reuse=True)
        except BaseException as error:  # tantivy says ValueError, or panics, which is no Exception
            if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
                raise
            raise Damaged(f"{folder}: {' '.join(str(error).split())[:200]}") from error
        self.index.register_tokenizer("stems", STEMS)
        self.index.register_tokenizer("plain", PLAIN)
        self.index.config_reader("manual")
        self.reload()

    def reload(self) -> None:
        """See what was committed since."""
        self.index.reload()
        self.searcher = self.index.searcher()

    def __len__(self) -> int:
        return int(self.searcher.num_docs)

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, documents: Iterable[Document], gone: Iterable[int] = (), *, large: bool = False) -> int:
        """Put documents in place of those of the same key, then take the keys `gone` out, and commit.

        Returns how many were written. A process killed within this leaves the index as it was before.
        """
        writer = self.index.writer(LARGE, THREADS) if large else self.index.writer(SMALL, 1)
        writer.garbage_collect_files()  # what a killed writer left: a file of a name that this one needs would end it
        count = 0
        for paper in documents:
            writer.delete_documents_by_term("key", paper.key)
            writer.add_document(_document(paper))
            count += 1
        for key in gone:
            writer.delete_documents_by_term("key", key)
        writer.commit()
        if large:
            writer.wait_merging_threads()
        self.reload()
        return count

    # -- reading ---------------------------------------------------------------------------------------------------

    def where(self, within: Within) -> Where | None:
        """The filters as a condition; None where there are none."""
        query = within.query
        every: list[Where] = []
        for name in ("family", "category"):
            if values := getattr(query, name):
                every.append(tantivy.Query.term_set_query(SCHEMA, name, list(values)))
        if query.author:
            every.append(_any([_author(name) for name in query.author]))
        first, last = query.years
        if (first, last) != (None, None):
            least = 1 if first is None else first  # 0 is a year that nobody knows
            every.append(tantivy.Query.range_query(SCHEMA, "year", FieldType.Unsigned, least, last))
        if query.code:
            every.append(tantivy.Query.term_query(SCHEMA, "code", 1))
        if within.keys is not None:
            every.append(_keys(within.keys))
        if within.without:
            parts = [(Occur.Must, query) for query in every or [everything()]]
            return tantivy.Query.boolean_query([*parts, (Occur.MustNot, _keys(within.without))])
        return _every(every) if every else None

    def best(self, words: Asked, where: Where | None, limit: int, *, strict: bool = False) -> list[tuple[int, float]]:
        """(key, BM25) of the papers that match best. strict: all words must occur, not only one."""
        return self._scored(self._query(words, where, strict=strict), limit)

    def scores(self, words: Asked, keys: Collection[int]) -> dict[int, float]:
        """BM25 of these papers; those without any of the words are left out."""
        return dict(self._scored(self._query(words, _keys(keys)), len(keys))) if keys else {}

    def listed(self, words: Asked, where: Where | None, order: str, limit: int, offset: int = 0) -> list[int]:
        """Keys of papers that hold the condition and every word, by "day" or "trend", the highest first."""
        query = self._query(words, where, strict=True) if words else where or tantivy.Query.all_query()
        answer = self.searcher.search(query, limit, False, order, offset, Order.Desc)
        return self._keys_at([address for _, address in answer.hits])

    def count(self, words: Asked, where: Where | None, *, strict: bool) -> int:
        """How many papers hold the condition and every word (strict), or at least one; an estimate if many do."""
        if words and not strict and not words.phrases and (many := self._estimate(words)):
            return many if where is None else round(many / len(self) * self.count(Asked(), where, strict=False))
        query = self._query(words, where, strict=strict) if words else where
        if query is None:
            return len(self)
        return int(self.searcher.search(query, 1, True).count or 0)  # type: ignore[attr-defined]

    def _estimate(self, words: Asked) -> int:
        """Papers with at least one of the words, taking words as independent; 0 where there are few enough to count."""
        counts = [self.searcher.doc_freq("text", term) for term in words.terms]
        if sum(counts) <= COUNTED:
            return 0
        return round(len(self) * (1 - math.prod(max(0.0, 1 - n / len(self)) for n in counts)))

    def keys(self, where: Where, limit: int) -> list[int]:
        """Keys of papers that hold a condition, up to a limit."""
        answer = self.searcher.search(tantivy.Query.const_score_query(where, 1.0), limit, False)
        return self._keys_at([address for _, address in answer.hits])

    def facets(self, words: Asked, where: Where | None, *, strict: bool) -> dict[str, dict[str, int]]:
        """{"family" | "category" | "year": {value: papers}} over what `count` counts, the largest first."""
        query = self._query(words, where, strict=strict) if words else where
        # Without a query the counts would be those of replaced papers too.
        options = {"filter_query": everything() if query is None else query}
        counts_by_field = {
            name: dict(self.searcher.terms_with_prefix(field, "", limit=40, **options))
            for name, field in (("family", "family"), ("category", "category"), ("year", "years"))
        }
        return {
            name: {value: n for value, n in counted.items() if n and value} for name, counted in counts_by_field.items()
        }

    def known(self, word: str) -> bool:
        """Whether any paper holds a word (as written; its stem counts)."""
        stems = stemmed(word)
        return not stems or any(self.searcher.doc_freq("text", stem) for stem in stems) or self._named(word)

    def near(self, word: str) -> str:
        """The word of a title that a misspelt one most likely means; "" if none is near."""
        plain = (PLAIN.analyze(word) or [""])[0]
        counts = dict(self.searcher.terms_with_prefix("spelling", plain[:1], limit=50_000)) if plain else {}
        return near(plain, list(counts), counts.__getitem__)

    def _named(self, word: str) -> bool:
        return any(self.searcher.doc_freq("names", name) for name in PLAIN.analyze(word))

    def _query(self, words: Asked, where: Where | None, *, strict: bool = False) -> Where:
        terms = words.terms
        if len(terms) > TERMS:
            terms = tuple(sorted(terms, key=lambda term: self.searcher.doc_freq("text", term))[:TERMS])
        kind = Occur.Must if strict else Occur.Should
        parts = []
        for term in terms:
            part = tantivy.Query.term_query(SCHEMA, "text", term)
            name = tantivy.Query.term_query(SCHEMA, "names", term)
            if not self.searcher.doc_freq("names", term):
                parts.append((kind, part))
            elif strict:  # "qbert" for Q-BERT; a stem is good enough for a name
                parts.append((kind, _any([part, name])))
            else:  # plain terms side by side: tantivy skips what cannot be among the best only for those
                parts += [(kind, part), (kind, name)]
        for one in words.names:
            must = one in words.signed and self.searcher.doc_freq("names", one)
            part = tantivy.Query.term_query(SCHEMA, "names", one)
            if one in words.numbered:  # it stands for all of the words that it joins
                part = tantivy.Query.boost_query(part, 3.0)
            parts.append((kind if must else Occur.Should, part))
        every = [tantivy.Query.phrase_query(SCHEMA, "text", list(phrase)) for phrase in words.phrases]
        every += [tantivy.Query.boolean_query(parts)] if parts else []
        if where is not None:
            every.append(tantivy.Query.const_score_query(where, 0.0))
        return _every(every)

    def _scored(self, query: Where, limit: int) -> list[tuple[int, float]]:
        hits = self.searcher.search(query, max(1, limit), False).hits
        keys = self._keys_at([address for _, address in hits])
        return [(key, float(score)) for key, (score, _) in zip(keys, hits, strict=True)]

    def _keys_at(self, addresses: list[Any]) -> list[int]:
        return self.searcher.fast_field_values("key", addresses)  # type: ignore[return-value]


def near(word: str, words: Sequence[str], papers: Callable[[str], int]) -> str:
    """Of some words the one of the most papers that begins so, else the nearest; "" if none is near.

    Of equally near ones it is that of the most papers.
    """
    from rapidfuzz import distance, process

    if len(word) < 4 or word.isdecimal():
        return ""
    begun = [(count, other) for other in words if other.startswith(word) and (count := papers(other))]
    if begun:
        return max(begun)[1]
    most = 1 if len(word) < 6 else 2
    close = process.extract(word, words, scorer=distance.OSA.distance, score_cutoff=most, limit=20)
    counted = [(distance, -papers(other), other) for other, distance, _ in close]
    return min((row for row in counted if row[1]), default=(0, 0, ""))[2]


def everything() -> Where:
    """The condition that every paper holds."""
    return tantivy.Query.all_query()


def _every(queries: list[Where]) -> Where:
    return queries[0] if len(queries) == 1 else tantivy.Query.boolean_query([(Occur.Must, query) for query in queries])


def _any(queries: list[Where]) -> Where:
    return (
        queries[0] if len(queries) == 1 else tantivy.Query.boolean_query([(Occur.Should, query) for query in queries])
    )


def _keys(keys: Collection[int]) -> Where:
    if 0 < len(keys) <= SINGLY:
        terms = [tantivy.Query.term_query(SCHEMA, "key", key) for key in keys]
        return tantivy.Query.boolean_query([(Occur.Should, term) for term in terms])
    return tantivy.Query.term_set_query(SCHEMA, "key", list(keys))


def _author(name: str) -> Where:
    parts = PLAIN.analyze(name)
    if not parts:
        return tantivy.Query.empty_query()
    if len(parts) == 1:
        return tantivy.Query.term_query(SCHEMA, "author", parts[0])
    return tantivy.Query.phrase_query(SCHEMA, "author", parts)


def _document(paper: Document) -> Any:
    archives = (category.partition(".")[0] for category in paper.categories)
    return tantivy.Document.from_dict(
        {
            "key": paper.key,
            "text": paper.text,
            "spelling": cjk.pairs(paper.title),
            "names": paper.names,
            "author": list(paper.authors),
            "category": list(dict.fromkeys([*paper.categories, *archives])),
            "family": paper.family,
            "years": str(paper.year or ""),
            "year": paper.year,
            "code": int(paper.code),
            "day": paper.day,
            "trend": paper.trend,
        },
        SCHEMA,
    )
