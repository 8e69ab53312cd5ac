"""For you: new papers in the order in which one person is likely to want them, each with the reasons.

A linear classifier over the vectors that the search has of the papers: those that somebody voted for, saved or read
against those that stood in the same lists and that they left. With x the vectors, y = +1 and -1, s the weights of the
examples (both sides weigh the same), all around their weighted mean,

    direction = (X' S X + RIDGE I)^-1 X' S y          ridge regression, in milliseconds with NumPy
    score     = direction . x + offset + MIX * spread * z + what is followed (FOLLOWED)

where z says, in standard deviations, how telling the words of a paper are: those that the liked papers have and the
others have not; spread is the standard deviation of direction . x, so words weigh MIX as much as vectors. Without
vectors (PAPERLAB_ENCODER=none) the words do it alone. Figures beside trending and search: benchmarks/search/for_you.md.
"""

import math
import random
import re
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from heapq import nlargest, nsmallest
from itertools import chain
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from django.db.models import Count, Max

from paperlab.site import tex
from paperlab.site.pages import addresses, feed, text
from paperlab.site.people import mine
from paperlab.site.people.models import OPENED, UNREAD, Follow, Kept, Read, Vote
from paperlab.site.records import record_index
from paperlab.site.search import index, query, rank
from paperlab.site.search.engine import Engine
from paperlab.site.store.models import Paper, Sighting
from paperlab.site.store.revision import revision

if TYPE_CHECKING:
    from paperlab.site.search.vectors import Array

WORTH = {"voted": 1.0, "saved": 1.0, "read": 0.6, "opened": 0.3}  # of one example
DID = {"voted": "voted for", "saved": "saved", "read": "read", "opened": "opened"}
FOLLOWED = {"claim": 2.0, "author": 1.5, "search": 1.0, "family": 0.3}  # added to a score, a negative one being 0
RIDGE = 0.03
ENOUGH = 3  # papers that somebody must have liked before anything is learnt
LIKED = 500  # of them, the latest
LEFT = 1_000  # papers that were left, at most
DAYS = 60  # of whose lists the left ones are
CANDIDATES = 3_000  # papers that are ranked
SEARCHES = 30  # followed searches that are asked, the latest
MIX = 0.5  # what words weigh beside vectors
TELLING = 60  # words that are looked for
REREAD = 300  # papers, best by vectors, whose words are looked at
LEARNT = (200, 400)  # liked papers, and others, whose words are counted
SHARED = 3  # words in a reason
COMMON = 0.2  # of the other papers have a word: it says nothing

KNOWN = 5_000  # papers whose words are kept while a digest is made, about 15 kB each
Texts = dict[int, set[str]]  # the words of papers, by key

_WORD = re.compile(r"[^\W\d_][\w-]{2,}")


@dataclass(frozen=True)
class Reason:
    """Why a paper is here. what: "you voted for", "you follow the author" …; name: of the paper or of what is followed;
    url: of it; words: that both papers have."""

    what: str
    name: str
    url: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"because {self.what} “{self.name}”" + (f": {', '.join(self.words)}" if self.words else "")


@dataclass(frozen=True)
class Pick:
    """One paper. paper: its key in the store; score: 0 is what is as near to what was left as to what was liked."""

    paper: int
    score: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Taste:
    """What was learnt of somebody. liked: {paper: what they did with it}; words: how much more a word is one of the
    liked papers than of those that were left, 0 and more. direction, keys, vectors: None and empty without vectors."""

    liked: dict[int, str]
    words: dict[str, float]
    direction: "Array | None"
    offset: float
    keys: tuple[int, ...]
    vectors: Any


def learn(vectors: "Array", good: Sequence[float], bad: int) -> "tuple[Array, float]":
    """(direction (d,), offset) of the classifier. vectors: (n, d), the liked ones first; good: weight of each of those;
    bad: how many others follow."""
    import numpy as np

    weights = np.concatenate([np.asarray(good, np.float64) / sum(good), np.full(bad, 1.0 / max(1, bad))]) / 2
    wanted = np.concatenate([np.ones(len(good)), -np.ones(bad)])
    x = np.asarray(vectors, np.float64)
    middle, level = weights @ x, float(weights @ wanted)
    x = x - middle
    weighted = x * weights[:, None]
    direction = np.linalg.solve(x.T @ weighted + RIDGE * np.eye(x.shape[1]), weighted.T @ (wanted - level))
    return direction.astype(np.float32), level - float(direction @ middle)


def _liked(user: int) -> dict[int, str]:
    """The papers that somebody likes, the latest first, each with the most that they did with it."""
    done: dict[int, str] = {}
    rows = Vote.objects.filter(user=user).order_by("-pk").values_list("paper", flat=True)
    done |= dict.fromkeys(rows[:LIKED], "voted")
    kept = Kept.objects.filter(collection__user=user).order_by("-pk").values_list("paper", flat=True)
    done |= {paper: "saved" for paper in kept[:LIKED] if paper not in done}
    read = Read.objects.filter(user=user).exclude(state=UNREAD).order_by("-at").values_list("paper", "state")
    done |= {paper: "opened" if state == OPENED else "read" for paper, state in read[:LIKED] if paper not in done}
    return done


def _left(user: int, liked: Iterable[int]) -> list[int]:
    """Papers that stood beside the liked ones, in the lists of their days, and were not taken."""
    keys = list(liked)
    listed = Sighting.objects.filter(paper__in=keys).order_by("-day").values_list("day", flat=True).distinct()
    days = set(listed[:DAYS]) | set(
        Paper.objects.filter(pk__in=keys, sightings=None, published__isnull=False)
        .order_by("-published")
        .values_list("published", flat=True)[:DAYS]
    )
    beside = set(Sighting.objects.filter(day__in=days).values_list("paper", flat=True)[: 4 * LEFT])
    beside |= set(Paper.objects.filter(published__in=days).order_by().values_list("pk", flat=True)[: 4 * LEFT])
    if len(beside) < LEFT and days:  # lists of a few days hold little: what came before them could be seen too
        before = Paper.objects.filter(published__lt=max(days)).order_by("-published", "-pk")
        beside |= set(before.values_list("pk", flat=True)[: LEFT // 2])
    # What somebody marked as unread is for later: it was not left.
    later = Read.objects.filter(user=user, state=UNREAD).values_list("paper", flat=True)
    left = sorted(beside.difference(keys, later))
    return random.Random(user).sample(left, min(LEFT, len(left)))


def words_of(title: str, body: str) -> set[str]:
    """The words of a text, in small letters, each once."""
    return set(_WORD.findall(f"{title} {body[:1500]}".lower()))


def _texts(keys: Iterable[int], known: Texts | None = None) -> Texts:
    """The words of papers. known: those of some, to which what is read now is added."""
    known = {} if known is None else known
    if len(known) > KNOWN:
        known.clear()
    wanted = list(keys)
    if missing := [key for key in wanted if key not in known]:
        rows = Paper.objects.filter(pk__in=missing).values_list("pk", "title", "abstract", "summary")
        known |= {key: words_of(text.plain(title), abstract or summary) for key, title, abstract, summary in rows}
    return {key: known[key] for key in wanted if key in known}


def _telling(good: Mapping[int, set[str]], worth: Mapping[int, float], bad: Mapping[int, set[str]]) -> dict[str, float]:
    """How much each word tells the liked papers from the others: its share among them times the log of the ratio."""
    inside: dict[str, float] = defaultdict(float)
    for key, words in good.items():
        for word in words:
            inside[word] += worth[key]
    outside = Tally(chain.from_iterable(map(set(inside).intersection, bad.values())))
    every = sum(worth[key] for key in good) or 1.0
    told = {}
    for word, count in inside.items():
        here, there = count / every, (outside[word] + 0.5) / (len(bad) + 1)
        if here > there and there < COMMON:
            told[word] = here * math.log(here / there)
    return told


def taste(user: int, engine: Engine, known: Texts | None = None) -> Taste | None:
    """What somebody likes; None where they have done too little for anything to be learnt. known: words of papers."""
    liked = _liked(user)
    if len(liked) < ENOUGH:
        return None
    left = _left(user, liked)
    worth = {key: WORTH[did] for key, did in liked.items()}
    words = _telling(_texts(list(liked)[: LEARNT[0]], known), worth, _texts(left[: LEARNT[1]], known))
    keys, vectors = engine.vectors_of(list(liked))
    others, beside = engine.vectors_of(left)
    if len(keys) < ENOUGH or not others:
        return Taste(liked, words, None, 0.0, (), None)
    import numpy as np

    direction, offset = learn(np.concatenate([vectors, beside]), [worth[key] for key in keys], len(others))
    return Taste(liked, words, direction, offset, tuple(keys), vectors)


def scores(learnt: Taste, engine: Engine, keys: Sequence[int], known: Texts | None = None) -> dict[int, float]:
    """How near papers are to what was liked; those of which nothing is known are left out."""
    found: dict[int, float] = {}
    if learnt.direction is not None:
        near = engine.meaning_scores(learnt.direction, keys)
        found = {key: score + learnt.offset for key, score in near.items()}
    best = nlargest(REREAD, found, key=lambda key: found[key])
    missing = [key for key in keys if key not in found]
    told = _told(learnt, [*best, *missing], known)
    wide = pstdev(told[key] for key in best) if best else 0.0
    if wide:
        middle, spread = fmean(told[key] for key in best), pstdev(found[key] for key in best)
        found |= {key: found[key] + MIX * spread * (told[key] - middle) / wide for key in best}
    # Without a vector, from -1 to 1 as the others are: half of the best is neither near nor far.
    most = max((told[key] for key in missing), default=0.0)
    return found | {key: 2 * told[key] / most - 1 for key in missing if most}


def _told(learnt: Taste, keys: Sequence[int], known: Texts | None) -> dict[int, float]:
    """The sum of how telling the words of each paper are."""
    best = {word: learnt.words[word] for word in nlargest(TELLING, learnt.words, key=lambda word: learnt.words[word])}
    texts = _texts(keys, known)
    return {key: sum(best[word] for word in texts.get(key, set()).intersection(best)) for key in keys}


# -- what is followed --------------------------------------------------------------------------------------------------


def followed(user: int, keys: Sequence[int], first: date, last: date) -> dict[int, tuple[float, list[Reason]]]:
    """{paper: (what is added to its score, why)} of the papers that somebody's follows touch; of claims that were
    checked in these days, also papers that are not among `keys`."""
    follows = list(Follow.objects.filter(user=user).order_by("-pk").values_list("kind", "value"))
    touched: dict[int, tuple[float, list[Reason]]] = {}

    def add(key: int, kind: str, reason: Reason) -> None:
        worth, reasons = touched.get(key, (0.0, []))
        touched[key] = (worth + FOLLOWED[kind], [*reasons, reason])

    authors = {value.casefold(): value for kind, value in follows if kind == "author"}
    families = {value for kind, value in follows if kind == "family"}
    if authors or families:
        for key, family, names in Paper.objects.filter(pk__in=list(keys)).values_list("pk", "family", "authors"):
            for name in dict.fromkeys(one.casefold() for one in tex.names(names)):
                if name in authors:
                    url = addresses.search(author=authors[name])
                    add(key, "author", Reason("you follow the author", authors[name], url))
            if family in families:
                add(key, "family", Reason("you follow the family", family, f"/families/{family}"))
    for value in [value for kind, value in follows if kind == "search"][:SEARCHES]:
        try:
            wish = query.read(parse_qs(value))
        except query.BadQuery:  # kept by an older version
            continue
        for key in rank.among(wish, keys):
            add(key, "search", Reason("you follow the search", str(wish), f"/search?{value}"))
    claims = {value for kind, value in follows if kind == "claim"}
    if claims:
        for key, reason in _checked(claims, first, last):
            add(key, "claim", reason)
    return touched


def _checked(claims: set[str], first: date, last: date) -> list[tuple[int, Reason]]:
    """The papers whose followed claims were checked in these days."""
    slugs: dict[str, list[str]] = {}
    for row in record_index().verdicts.values():
        when = str(row.get("finished") or row["started"])[:10]
        if f"{row['method']}:{row['claim']}" in claims and row["paper"] and str(first) <= when <= str(last):
            slugs.setdefault(row["paper"], []).append(row["claim"])
    keys = Paper.objects.filter(slug__in=slugs).values_list("slug", "pk")
    return [
        (key, Reason("a claim that you follow was checked", claim, f"/papers/{slug}#claims"))
        for slug, key in keys
        for claim in dict.fromkeys(slugs[slug])
    ]


# -- the list ----------------------------------------------------------------------------------------------------------


def candidates(user: int, first: date, last: date) -> list[int]:
    """The papers of these days that somebody has neither voted for nor saved nor read, the newest first."""
    listed = Sighting.objects.filter(day__range=(first, last), paper__withdrawn=False).order_by("-day", "paper")
    keys = dict.fromkeys(listed.values_list("paper", flat=True)[:CANDIDATES])
    dated = Paper.objects.filter(published__range=(first, last), withdrawn=False).order_by("-published", "-pk")
    keys |= dict.fromkeys(dated.values_list("pk", flat=True)[:CANDIDATES])
    return _untaken(user, keys)


def _untaken(user: int, keys: Iterable[int]) -> list[int]:
    """The first of some papers that somebody has neither voted for nor saved nor read."""
    known = (mine.taken(user, what).values_list("paper", flat=True) for what in ("voted", "saved", "read"))
    taken = set(chain.from_iterable(known))
    return [key for key in keys if key not in taken][:CANDIDATES]


def stamp(user: int) -> tuple[Any, ...]:
    """What the list of somebody follows from: it is made anew when this changes."""
    marks = []
    for rows in (
        Vote.objects.filter(user=user), Kept.objects.filter(collection__user=user), Follow.objects.filter(user=user)
    ):  # fmt: skip
        counted = rows.aggregate(count=Count("pk"), last=Max("pk"))
        marks.append((counted["count"], counted["last"]))
    read = Read.objects.filter(user=user).aggregate(count=Count("pk"), last=Max("at"))
    engine = index.engine()
    return (*marks, read["count"], read["last"], revision(), engine.embedded, record_index().mark)


@lru_cache(maxsize=64)
def _taste(user: int, marks: tuple[Any, ...]) -> Taste | None:
    return taste(user, index.engine())


@lru_cache(maxsize=64)
def _ranked(
    user: int, marks: tuple[Any, ...], first: date, last: date
) -> tuple[tuple[int, float, tuple[Reason, ...]], ...]:
    """(paper, score, what is followed) of the papers of these days, the best first."""
    keys = candidates(user, first, last)
    learnt = _taste(user, marks)
    found = scores(learnt, index.engine(), keys) if learnt else {}
    touched = followed(user, keys, first, last)
    every = {key: found.get(key, -1.0) for key in keys}
    every |= {key: max(0.0, every.get(key, 0.0)) + worth for key, (worth, _) in touched.items()}
    if learnt is None:  # nothing is known of the others
        every = {key: score for key, score in every.items() if key in touched}
    order = sorted(every, key=lambda key: (-every[key], -key))
    return tuple((key, every[key], tuple(touched[key][1]) if key in touched else ()) for key in order)


def ready(user: int) -> bool:
    """Whether enough is known of somebody: papers that they liked, or anything that they follow."""
    return Follow.objects.filter(user=user).exists() or len(_liked(user)) >= ENOUGH


def ranked(user: int, first: date, last: date, offset: int = 0, most: int = 30) -> tuple[list[Pick], int]:
    """(a piece of the list, how many there are). first, last: days, both included."""
    marks = stamp(user)
    every = _ranked(user, marks, first, last)
    page = every[offset : offset + most]
    learnt = _taste(user, marks)
    because = _because(learnt, [key for key, _, _ in page]) if learnt else {}
    picks = [
        Pick(key, score, (*reasons, *([because[key]] if key in because and (score > 0 or not reasons) else [])))
        for key, score, reasons in page
    ]
    return picks, len(every)


def picks(user: int, first: date, last: date, most: int = 12) -> list[Pick]:
    """The papers of these days for somebody's feed: only those that are nearer to what they liked than to what they
    left, or that they follow. Empty where too little is known of them."""
    return [pick for pick in ranked(user, first, last, 0, most)[0] if pick.score > 0]


def learnt_picks(
    user: int, keys: Iterable[int], besides: Container[object], most: int = 12, known: Texts | None = None
) -> list[Pick]:
    """Those of some papers for somebody's digest, whose other sections have what they follow: by what they liked alone,
    without what is shown already (`besides`), each with its reason. known: kept from one reader to the next."""
    engine = index.engine()
    if (learnt := taste(user, engine, known)) is None:
        return []
    found = scores(learnt, engine, _untaken(user, keys), known)
    near = [key for key, score in found.items() if score > 0 and key not in besides]
    best = nsmallest(most, near, key=lambda key: (-found[key], -key))
    because = _because(learnt, best, known)
    return [Pick(key, found[key], (because[key],)) for key in best if key in because]


def _because(learnt: Taste, keys: Sequence[int], known: Texts | None = None) -> dict[int, Reason]:
    """For each paper the liked one that is nearest, and the telling words that both have."""
    texts = _texts([*keys, *learnt.liked], known)
    nearest: dict[int, int] = {}
    if learnt.direction is not None:
        placed, vectors = index.engine().vectors_of(keys)
        if placed:
            best = (vectors @ learnt.vectors.T).argmax(1)
            nearest = {key: learnt.keys[at] for key, at in zip(placed, best.tolist(), strict=True)}
    for key in keys:
        if key not in nearest and key in texts:
            common = {one: _common(learnt, texts[key] & texts.get(one, set())) for one in learnt.liked}
            if any(common.values()):
                nearest[key] = max(common, key=lambda one: sum(learnt.words[word] for word in common[one]))
    rows = {row.pk: row for row in Paper.objects.filter(pk__in=set(nearest.values()))}
    reasons = {}
    for key, one in nearest.items():
        if one in rows:
            shared = _common(learnt, texts.get(key, set()) & texts.get(one, set()))
            did = f"you {DID[learnt.liked[one]]}"
            reasons[key] = Reason(did, text.plain(rows[one].title), addresses.paper(rows[one]), tuple(shared[:SHARED]))
    return reasons


def _common(learnt: Taste, words: Iterable[str]) -> list[str]:
    """Of some words those that tell what was liked, the most telling first."""
    known = [word for word in words if word in learnt.words]
    return sorted(known, key=lambda word: (-learnt.words[word], word))


def span(days: int, today: date) -> tuple[date, date]:
    """The last `days` days that end today, or on the last day that has papers where that is longer ago."""
    last = today
    if not feed.places(feed.Span("day", today - timedelta(days - 1), today), 0, 1)[1]:
        last = feed.latest(today) or today
    return last - timedelta(days - 1), last
