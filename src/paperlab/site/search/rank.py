"""The ranking: one function for the command line, the API, pages and mail.

An exact arXiv id, slug or title comes first. The rest is ranked by words and by meaning together: each side's scores
are put on a scale from 0 (what an unrelated paper has) to 1 (its best hit for this query), and

    score = (1 - w) * BM25 / BM25 of the best  +  w * (cosine - background) / (cosine of the best - background)

with w = trust / 2, where trust is measured on the stored papers themselves (`engine.judge`): an encoder that is bad
here takes no part, instead of pulling the words down as it does in rank fusion. Figures: benchmarks/search/quality.md.
"""

import contextlib
import re
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from typing import Any

from paperlab.core.methods import abstract_only, methods
from paperlab.core.paper import papers
from paperlab.core.standings import MIXED, NOT_RUN, counts, main, one_word
from paperlab.site import tex
from paperlab.site.search import cjk, index
from paperlab.site.search.engine import Engine
from paperlab.site.search.query import DEPTH, EVERYTHING, TEXT_LIMIT, Hit, Query, Results, Snippet, Why, Within
from paperlab.site.search.spelling import american
from paperlab.site.search.words import STEMS, Asked, asked
from paperlab.site.store import clean
from paperlab.site.store.models import Paper
from paperlab.site.store.prepared import Prepared

POOL = 100  # papers that each side puts forward
WEIGHT = 0.5  # of meaning, fully trusted
SNIPPET = 240  # characters
MENDED = 0.3  # of a text's words have to be unknown for slips to be mended
LAG = 2_000  # papers that a search itself takes into the word index when nobody else does

_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="search")


def search(
    query: Query,
    *,
    facets: bool = False,
    only: frozenset[int] | None = None,
    without: frozenset[int] = frozenset(),
) -> Results:
    """Papers for a query, best first. facets: count them by family, category and year too. only, without: keys of the
    only papers that are looked at, and of papers that are not. Raises nothing of its own: `notes` lists what could not
    be searched."""
    begun = time.perf_counter()
    notes: list[str] = []
    text = clean.line(query.text[: 2 * TEXT_LIMIT])
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT]
        notes.append(f"only the first {TEXT_LIMIT:,} characters were looked for")
    _follow(notes)
    engine = index.engine()
    checked = _keys(query)
    keys = checked if only is None else only if checked is None else checked & only
    within = Within(query, keys, without)
    known = clean.arxiv_id(text)
    if known and (exact_hits := _exact(text, within, engine)):
        hits = [(key, 2.0, Why(exact)) for key, exact in exact_hits.items()][query.offset :][: query.limit]
        return Results(_shown(hits, Asked()), len(exact_hits), notes=tuple(notes), seconds=time.perf_counter() - begun)
    if known:
        notes.append(f"no paper of arXiv id {known[0]} is stored; run `paperlab fetch arxiv:{known[0]}` to fetch it")
    suggestion = _suggestion(engine, text)
    if suggestion:
        notes.append("no paper contains a word of the query; a similar word was searched instead")
        text = suggestion
    words = asked(text)
    if words.phrases and not engine.trouble and not engine.total(words, within, strict=False):
        notes.append("no paper contains the phrase in quotes; its words were searched separately")
        words = replace(words, phrases=())
    strict = query.sort != "relevance" or not text
    if strict:
        hits, total = _listed(engine, words, within), engine.total(words, within, strict=True)
    else:
        hits, total = _ranked(engine, text, words, within, notes)
    counted = engine.facets(words, within, strict=strict) if facets else {}
    if engine.trouble and engine.trouble not in notes:  # met only now
        notes.append(engine.trouble)
    return Results(
        hits=_shown(hits, words),
        total=max(total, query.offset + len(hits)),
        facets=counted,
        suggestion=suggestion,
        notes=tuple(notes),
        seconds=time.perf_counter() - begun,
    )


def related(paper: int, limit: int = 10) -> tuple[Hit, ...]:
    """Papers near in meaning to a stored one, nearest first, itself left out; by its title's words without vectors."""
    _follow([])
    engine = index.engine()
    vector = engine.vector(paper)
    if vector is not None:
        near = [row for row in engine.meaning(vector, EVERYTHING, limit + 1) if row[0] != paper]
        ranked = [(key, cosine, Why(meaning=cosine, meaning_rank=rank)) for rank, (key, cosine) in enumerate(near, 1)]
    else:
        title = Paper.objects.filter(pk=paper).values_list("title", flat=True).first()
        words = asked((title or "").replace('"', " "))
        near = [row for row in engine.words(words, EVERYTHING, limit + 1) if row[0] != paper] if words else []
        ranked = [(key, score, Why(words=score, words_rank=rank)) for rank, (key, score) in enumerate(near, 1)]
    return _shown(ranked[:limit], Asked())


def among(query: Query, keys: Collection[int]) -> list[int]:
    """Those of some papers that a query is about, best first: for who follows a search and is told what is new.

    They hold its filters and every word of its text (of prose: stand among the first of the whole store), or they are
    as near to it in meaning as papers that hold its words are. All are looked through: the first hits of the whole
    store, cut to the new papers, would leave out nearly all of these. Slips are not mended: who follows a name that no
    paper holds yet waits for it.
    """
    _follow([])
    engine, text, checked = index.engine(), clean.line(query.text[:TEXT_LIMIT]), _keys(query)
    within = Within(query, frozenset(keys) if checked is None else checked & frozenset(keys))
    if not within.keys:
        return []
    words = asked(text)
    if not text:
        return engine.listed(words, within, "day", len(within.keys))
    if not words:  # signs, or words too long for the index: every paper would hold them
        return []
    if words.prose:
        bm25 = {key: score for key, score in engine.words(words, Within(query), POOL) if key in within.keys}
    else:
        bm25 = dict(engine.words(words, within, len(within.keys), strict=True))
    vector, cosines = _vector(engine, text, []), {}
    if vector is not None:
        near = {} if words.phrases else _as_near(engine, vector, words, within)
        bm25 |= engine.word_scores(words, [key for key in near if key not in bm25])
        cosines = engine.meaning_scores(vector, {*bm25, *near})
    scores = fused(bm25, cosines, engine.background(vector) if vector is not None else 0.0, WEIGHT * engine.trust)
    return sorted(scores, key=lambda key: (-scores[key], key))


def _as_near(engine: Engine, vector: Any, words: Asked, within: Within) -> dict[int, float]:
    """The papers within that are nearer in meaning than the middle one of those of the whole store that hold the words
    best; where none does, than all but POOL papers. None for a word that no paper holds: its meaning is anybody's
    guess."""
    holding = engine.words(words, EVERYTHING, POOL, strict=True)
    if holding:
        least = median(engine.meaning_scores(vector, [key for key, _ in holding]).values() or [1.0])
    elif all(engine.total(Asked((term,)), EVERYTHING, strict=True) for term in words.terms):
        least = min((cosine for _, cosine in engine.meaning(vector, EVERYTHING, POOL)), default=1.0)
    else:
        return {}
    assert within.keys is not None
    held = engine.listed(Asked(), within, "day", len(within.keys)) if within.query.filtered else within.keys
    return {key: cosine for key, cosine in engine.meaning_scores(vector, held).items() if cosine >= least}


def _follow(notes: list[str]) -> None:
    """Take into the word index what the store has more, if that is quick and nobody else is at it."""
    if trouble := index.engine().trouble:
        notes.append(trouble)
    lag = index.behind(LAG + 1)
    if lag <= 0:
        return
    if lag > LAG:
        notes.append(
            "the search index is damaged or missing and is being rebuilt; try again in a few minutes"
            if index.lost()
            else "the search index is not up to date: run `paperlab index` to update it"
        )
        return
    with contextlib.suppress(index.Busy):
        index.refresh(meaning=False, check=False, wait=0)


def _keys(query: Query) -> frozenset[int] | None:
    """The papers that hold the filters on checks, which the index does not know; None without such a filter."""
    if not (query.runnable or query.verdict):
        return None
    checked = {method.card.paper for method in methods().values() if method.card.paper and method.card.checks}
    slugs = [slug for slug in checked if slug in papers() and (not query.verdict or _came_out(slug, query.verdict))]
    return frozenset(Paper.objects.filter(slug__in=slugs).values_list("pk", flat=True))


def _came_out(slug: str, wanted: Sequence[str]) -> bool:
    counted = counts(main(slug))
    words = set(counted) or (set() if abstract_only(slug) else {NOT_RUN})
    if one_word(counted) == MIXED:
        words.add(MIXED)
    return not words.isdisjoint(wanted)


Ranked = list[tuple[int, float, Why]]
Scored = list[tuple[int, float]]


def _listed(engine: Engine, words: Asked, within: Within) -> Ranked:
    query = within.query
    order = "trend" if query.sort == "trending" else "day"
    return [(key, 0.0, Why()) for key in engine.listed(words, within, order, query.limit, query.offset)]


def _ranked(engine: Engine, text: str, words: Asked, within: Within, notes: list[str]) -> tuple[Ranked, int]:
    """The page that is asked for, and how many papers hold a word."""
    query = within.query
    pending = _threads.submit(_by_words, engine, words, within)
    vector = _vector(engine, text, notes)
    near = _threads.submit(engine.meaning, vector, within, POOL) if vector is not None else None
    first = _exact(text, within, engine)
    by_words, total = pending.result()
    by_meaning = near.result() if near else []
    bm25, cosines = dict(by_words), dict(by_meaning)
    word_rank = {key: rank for rank, (key, _) in enumerate(by_words, 1)}
    meaning_rank = {key: rank for rank, (key, _) in enumerate(by_meaning, 1)}
    if vector is not None:
        cosines |= engine.meaning_scores(vector, [key for key in {*bm25, *first} if key not in cosines])
        if words:
            bm25 |= engine.word_scores(words, [key for key in {*cosines, *first} if key not in bm25])
    if words.phrases:  # what does not hold a phrase is no hit, however near it is
        cosines = {key: cosine for key, cosine in cosines.items() if key in bm25}
    scores = fused(bm25, cosines, engine.background(vector) if vector is not None else 0.0, WEIGHT * engine.trust)
    scores |= dict.fromkeys(first, 2.0)
    ranked = sorted(scores, key=lambda key: (-scores[key], key))
    if query.offset + query.limit > len(ranked) and len(by_words) == POOL:
        # Behind what both sides put forward come the other papers with the words, so that every page is of one ranking.
        deep = engine.words(words, within, DEPTH)
        bm25, word_rank = {**dict(deep), **bm25}, {key: rank for rank, (key, _) in enumerate(deep, 1)} | word_rank
        scores = {key: 0.0 for key, _ in deep} | scores
        inside = set(ranked)
        ranked += [key for key, _ in deep if key not in inside]
    ranked = ranked[:DEPTH]
    page = [
        (
            key,
            scores[key],
            Why(first.get(key, ""), bm25.get(key), word_rank.get(key), cosines.get(key), meaning_rank.get(key)),
        )
        for key in ranked[query.offset : query.offset + query.limit]
    ]
    return page, total


def _by_words(engine: Engine, words: Asked, within: Within) -> tuple[Scored, int]:
    """What the words put forward, and how many papers hold one."""
    return (engine.words(words, within, POOL), engine.total(words, within, strict=False)) if words else ([], 0)


def fused(bm25: dict[int, float], cosines: dict[int, float], background: float, weight: float) -> dict[int, float]:
    """Scores from 0 to 1 by the formula above. Without vectors words count alone, without words vectors do; a paper
    that has no vector yet is judged by its words."""
    if not bm25:
        weight = 1.0
    most = max(bm25.values(), default=0.0) or 1.0
    reach = max(max(cosines.values(), default=0.0) - background, 1e-9)
    scores = {}
    for key in {*bm25, *cosines}:
        scores[key] = bm25.get(key, 0.0) / most
        if key in cosines:
            near = max(0.0, cosines[key] - background) / reach
            scores[key] = (1 - weight) * scores[key] + weight * near
    return scores


def _vector(engine: Engine, text: str, notes: list[str]) -> Any:
    """The text's vector; None where meaning takes no part."""
    encoder = engine.encoder()
    if encoder is None and not engine.trouble:
        notes.append("only words were searched, not meaning: run `paperlab index` to compute the vectors")
    if encoder is None or engine.trust == 0.0:
        return None
    return encoder.query(american(text.replace('"', " ")))


_SAME = Prepared(
    lambda value, column: Paper.objects.filter(withdrawn=False, **{column: value}).order_by("pk").values_list("pk")[:20]
)


def _exact(text: str, within: Within, engine: Engine) -> dict[int, str]:
    """Papers within whose arXiv id, slug or title the text is."""
    known = clean.arxiv_id(text)
    bare = text.strip().lower().replace("_", "-").replace(" ", "-")
    wanted = [("slug", "slug", bare[:120]), ("title", "title_key", clean.title_key(text.strip(' "')))]
    if known:
        wanted.insert(0, ("arXiv id", "arxiv", known[0]))
    hits: dict[int, str] = {}
    for what, column, value in wanted:
        hits |= {key: what for key in _SAME.column(value, column=column) if key not in hits}
    if hits and (within.query.filtered or within.keys is not None or within.without):
        keys = frozenset(hits) if within.keys is None else within.keys & frozenset(hits)
        inside = engine.listed(Asked(), Within(within.query, keys, within.without), "day", len(hits))
        hits = {key: what for key, what in hits.items() if key in inside}
    return hits


_WORD = re.compile(rf"[^\W\d_{cjk.LETTERS}]{{4,40}}")  # of a script that has spaces: those of others have no slips


def _suggestion(engine: Engine, text: str) -> str:
    """The text with words that no paper holds replaced by near ones; "" if there is nothing to mend.

    Only where such words are a good part of the text: in a sentence the others find the papers, and a rare name that
    is not stored yet is more likely than a slip (judged claims of biology lose .010 nDCG if all are mended).
    """
    written = _WORD.findall(text[:300])
    unknown = {word for word in written if not engine.known(word)}
    if not unknown or len(unknown) < MENDED * len(written):
        return ""
    near = {word: engine.near(word) or word for word in unknown}
    new = _WORD.sub(lambda match: near.get(match[0], match[0]), text)
    return new if new != text else ""


_TEXTS = Prepared(
    lambda keys: Paper.objects.filter(pk__in=keys).order_by().values_list("pk", "title", "abstract", "summary")
)


def _shown(ranked: Ranked, words: Asked) -> tuple[Hit, ...]:
    """Hits with title and snippet; papers that left the store meanwhile are left out."""
    rows = {row[0]: row[1:] for row in _TEXTS.rows([key for key, _, _ in ranked])}
    pattern = _pattern(words)
    hits = []
    for key, score, why in ranked:
        if key in rows:
            title, abstract, summary = rows[key]
            body = tex.plain((abstract or summary)[: tex.LIMIT])
            hits.append(Hit(key, score, why, mark(tex.plain(title), pattern), snippet(body, pattern)))
    return tuple(hits)


Pattern = tuple[re.Pattern[str] | None, re.Pattern[str] | None]  # for words, and for pairs of letters of Chinese


def _pattern(words: Asked) -> Pattern | None:
    # A stem is the beginning of its words but for a last i that was y ("famili").
    pairs = [term for term in words.terms if cjk.is_cjk(term)]
    stems = {stem[:-1] if stem.endswith("i") and len(stem) > 3 else stem for stem in set(words.terms).difference(pairs)}
    # Of small text, and with the set of first letters in front, which `re` looks for quickly.
    first = "".join(sorted({stem[0] for stem in stems}))
    rest = [f"(?<={stem[0]}){_either(stem)[1:]}" for stem in sorted(stems, key=lambda stem: (-len(stem), stem))]
    pattern = re.compile(rf"[{first}](?<=\b.)(?:{'|'.join(rest)})\w*") if stems else None
    return (pattern, re.compile(cjk.matching(pairs)) if pairs else None) if words.terms else None


def _spans(text: str, pattern: Pattern | None) -> list[tuple[int, int]]:
    """Where the words begin and end in a text."""
    words, pairs = pattern or (None, None)
    small = cjk.blank(text).replace("İ", "I").lower()  # of the same length
    found = [match.span() for match in words.finditer(small)] if words else []
    return sorted([*found, *(match.span() for match in pairs.finditer(text))]) if pairs else found


def _either(stem: str) -> str:
    """A pattern for a stem in British and American spelling."""
    return re.sub("or$", "ou?r", re.sub("(?<=[iy])z", "[sz]", re.escape(stem)))


def mark(text: str, pattern: Pattern | None) -> Snippet:
    """Text in pieces, those that match the pattern marked."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in _spans(text, pattern):
        if not set(STEMS.analyze(text[start:end])):
            continue
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    pieces.append((text[at:], False))
    return tuple(piece for piece in pieces if piece[0])


def snippet(text: str, pattern: Pattern | None, size: int = SNIPPET) -> Snippet:
    """The part of a text, about `size` characters, that holds the most different matches; its beginning without any."""
    if len(text) <= size:
        return mark(text, pattern)
    matches = [(begin, text[begin:end].lower()) for begin, end in _spans(text, pattern)]
    best, start = 0, 0
    for first, _ in matches:
        different = len({word for at, word in matches if first <= at < first + size - 20})
        if different > best:
            best, start = different, first
    start = max(0, min(start - 30, len(text) - size))
    if start:
        start = text.find(" ", start, start + 30) + 1 or start
    end = start + size
    if end < len(text):
        end = max(text.rfind(" ", end - 30, end), end - 30)
    pieces = mark(text[start:end], pattern)
    before, after = ((("… ", False),) if start else ()), ((" …", False),) if end < len(text) else ()
    return (*before, *pieces, *after)
