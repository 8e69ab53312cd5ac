"""Saved listing pages: the text of a Daily Papers page, as copied from a browser or exported.

Seen in three layouts, each with or without the furniture on top (a "new" badge, an invitation to subscribe,
"Daily Papers", "by AK …", the page's date):

    spaced          title / empty line / abstract / empty line …
    spaced, dated   the same, and after each abstract "• 7 authors", "·", "Oct 10, 2023 1" (the 1 counts comments)
    tight           title and abstract on alternate lines, the button's "Subscribe" glued to the first title

Other small print (votes, arXiv ids, who submitted it) is read too, before or after a title or after an abstract.

Nothing in the text says which line is what, and single lines deceive: a title may be one word, a date, or three
sentences; an abstract may be one short line, or hold empty lines. So lines are not judged one by one: each gets a cost
for being a title, an abstract, more of the abstract, or small print, and the cheapest reading of the whole page is
taken (Viterbi's algorithm over the layouts' grammar). A line that fits nowhere is rejected.

A date without a year is in the year in which the page was saved, which the text does not say: it is kept as written,
and becomes a date only where the page's own date has a year or the caller gives one.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from paperlab.site.store import clean
from paperlab.site.store.item import Item, Page, Ranked, Rejected
from paperlab.site.store.sources import listing_lines as lines_of
from paperlab.site.store.sources.listing_lines import Dated, Line

Pieces = list[tuple[str, str]]


@dataclass
class Entry:
    """One paper of a listing, in the page's order. line: where its title stands, from 1. None: not shown."""

    title: str
    abstract: str = ""
    authors: int | None = None
    dated: Dated = field(default_factory=Dated)
    comments: int | None = None
    votes: int | None = None
    arxiv: str | None = None
    names: str = ""
    by: str = ""
    line: int = 0


@dataclass
class Listing:
    """A page read: its name and date as shown, its papers in order, and (line, text) of what fits nowhere.

    own: it has furniture that only listing pages have.
    """

    entries: list[Entry] = field(default_factory=list)
    name: str = ""
    dated: Dated = field(default_factory=Dated)
    strays: list[tuple[int, str]] = field(default_factory=list)
    own: bool = False


# -- which line is what ------------------------------------------------------------------------------------------------

_END = re.compile(r"[.!。！][\"')\]}]*$")
_WIDE = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _abstractness(text: str) -> float:
    """Log-odds, by eye and then by trial, that a line is an abstract rather than a title.

    Among 59,000 papers of arXiv's, 95 % of the abstracts and 0.3 % of the titles end with a full stop; 99 % of the
    abstracts have more than 368 characters, 99.9 % of the titles less than 175. Trusted less than that: abstracts are
    cut, titles are hostile.
    """
    length = len(text) + 2 * len(_WIDE.findall(text[:400]))  # a sign of Chinese says what three letters do
    score = max((length - 180) / 25, -4.0) if length < 400 else 9.0
    score += 1.5 * min(len(re.findall(r"[.!?][\"')\]]? (?=[A-Z0-9\"'(])|[。！？](?=.)", text)), 4)
    return score + (3.5 if _END.search(text) else -2.0)


def _soft(value: float) -> float:
    """log(1 + exp(value)): what it costs to say the opposite of a log-odds."""
    return value if value > 30 else math.log1p(math.exp(value))


def _doubtful(pieces: Pieces) -> str:
    """What small print is that may as well be a title: "date", "number"; "" for what is surely small print."""
    kinds = tuple(kind for kind, _ in pieces)
    return "date" if kinds in (("date",), ("date", "comments")) else "number" if kinds == ("number",) else ""


# What may stand before each state. ^: the start; H: the page's date; T: title; B: small print under a title;
# A: abstract; P: more of it; M: small print elsewhere; X: stray.
_AFTER = {"H": "^", "T": "^HAPMTBX", "B": "TB", "A": "TB", "P": "AP", "M": "^HAPMX", "X": "^HTBAPMX"}

# What it costs a state that an empty line stands before its line, and that none does, in each layout. grouped: empty
# lines stand between papers only.
_SPACED = {
    "spaced": {"T": (0.0, 4.0), "A": (0.0, 2.0)},
    "tight": {"T": (3.0, 0.0), "A": (3.0, 0.0)},
    "grouped": {"T": (0.0, 5.0), "A": (4.0, 0.0)},
}


@dataclass(frozen=True)
class _Reader:
    """One way to read a page. layout: of _SPACED; under: small print stands between titles and abstracts.

    dated: papers have small print; sure: kinds of it that are doubtful alone (a date, a number) and that this page has
    about as often as papers.
    """

    layout: str
    under: bool
    dated: bool
    sure: frozenset[str]

    def costs(self, line: Line, small: Pieces | None, first: bool) -> dict[str, float]:
        """What each reading of a line costs, before what it follows is known; states that cannot be are left out."""
        score, unspaced = _abstractness(line.text), not line.spaced
        # More of an abstract ends a sentence more often than not, and is set off as papers are not.
        more = 1.0 if self.layout != "grouped" and unspaced == (self.layout == "spaced") else 4.0
        more += 2.0 * (more > 1.0 and not _END.search(line.text))
        costs = {"T": _soft(score), "A": _soft(-score), "P": more, "X": 14.0}
        for state, cost in _SPACED[self.layout].items():
            costs[state] += cost[unspaced]
        if line.counted:
            costs |= {"T": 0.0, "A": 20.0, "P": 20.0}
        if small is None:
            return costs
        kind = _doubtful(small)
        for state in "TAP":
            costs[state] += 12.0 if not kind else 4.0 if kind in self.sure else 0.0
        costs |= {"M": 0.0, "B": 0.0} | ({"H": 0.0} if first and kind == "date" and len(small) == 1 else {})
        return costs

    def step(self, before: str, state: str, small: Pieces | None) -> float:
        """What it costs that `state` follows `before`."""
        if before not in _AFTER[state]:
            return math.inf
        if state == "T":
            alone = 9.0 + 3.0 * (self.dated and before == "T")  # a title without an abstract, without small print
            return alone if before in "TB" else 3.0 if before in "AP" and self.dated and not self.under else 0.0
        if state not in "MB" or before in "MB":
            return 0.0
        if before in "^H":
            return 1.0 if before == "^" else 0.5
        kind = _doubtful(small or [])
        unusual = 1.5 * ((state == "B") != self.under)
        return unusual + (0.0 if not kind or kind in self.sure else 1.5 if self.dated else 4.0)

    def read(self, lines: list[Line], small: list[Pieces | None]) -> tuple[float, list[str]]:
        """The cost of the cheapest reading, and its states."""
        best: dict[str, float] = {"^": 0.0}
        back: list[dict[str, str]] = []
        for at, (line, pieces) in enumerate(zip(lines, small, strict=True)):
            reached: dict[str, float] = {}
            came: dict[str, str] = {}
            for state, cost in self.costs(line, pieces, at == 0).items():
                ways = {before: total + self.step(before, state, pieces) for before, total in best.items()}
                before = min(ways, key=lambda way: ways[way])
                if ways[before] < math.inf:
                    reached[state], came[state] = ways[before] + cost, before
            best = reached
            back.append(came)
        ending = {state: total + 4.0 * (state in "TB") for state, total in best.items()}
        state = min(ending, key=lambda end: ending[end])
        total, states = ending[state], []
        for came in reversed(back):
            states.append(state)
            state = came[state]
        return total, states[::-1]


def _readings(lines: list[Line]) -> tuple[float, list[str]]:
    """The cheapest reading in the layout in which that is cheapest.

    Empty lines show the layout unless the page is very short: before every line, before every other, before none.
    """
    small = [lines_of.pieces(line.text) for line in lines]
    text = [line for line, pieces in zip(lines, small, strict=True) if pieces is None]
    share = sum(line.spaced for line in text[1:]) / max(len(text) - 1, 1)
    papers = max(sum(_abstractness(line.text) > 0 for line in text), 1)
    kinds = [_doubtful(pieces) for pieces in small if pieces is not None]
    sure = frozenset(kind for kind in ("date", "number") if kinds.count(kind) >= max(2, 0.4 * papers))
    dated = bool(sure) or "" in kinds
    far = {"spaced": 0.4 - share, "tight": share - 0.4, "grouped": abs(share - 0.5) - 0.25}
    readings = []
    for layout in _SPACED:
        for under in (False, True) if dated else (False,):
            cost, states = _Reader(layout, under, dated, sure).read(lines, small)
            readings.append((cost + 10.0 * len(lines) * max(far[layout], 0.0) + 0.5 * under, states))
    return min(readings)


# -- the page ----------------------------------------------------------------------------------------------------------


def read(page: str) -> Listing:
    """Read a listing page. page: its text; any line ends. Never fails: what it cannot place is in `strays`."""
    lines, head = lines_of.head(lines_of.unwrapped(list(lines_of.split(clean.text(page)))))
    listing = Listing(name=head.name, own=head.own)
    lines = lines_of.uncounted(lines_of.foot(lines))
    if not lines:
        return listing
    cost, states = _readings(lines)
    if head.doubtful:  # it is the first title if that reads better by far
        more = [head.doubtful, *lines]
        again, others = _readings(more)
        if again + 3.0 < cost:
            lines, states = more, others
    _assemble(listing, lines, states)
    return listing


def _assemble(listing: Listing, lines: list[Line], states: list[str]) -> None:
    """Papers from lines and what they are."""
    gaps: list[Pieces] = [[]]  # small print before each title, and after the last abstract
    under: list[Pieces] = []  # small print between each title and its abstract
    for line, state in zip(lines, states, strict=True):
        if state == "H":
            listing.dated = lines_of.dated(line.text) or Dated()
        elif state == "T":
            listing.entries.append(Entry(title=line.text, line=line.number))
            gaps.append([])
            under.append([])
        elif state in "AP" and listing.entries:
            entry = listing.entries[-1]
            entry.abstract += ("\n\n" if line.spaced and state == "P" else " " if state == "P" else "") + line.text
        elif state in "MB":
            (gaps if state == "M" else under)[-1].extend(lines_of.pieces(line.text) or [])
        else:
            listing.strays.append((line.number, line.text))
    if not listing.entries:
        return
    if listing.dated.text and len(gaps) > 2 and not gaps[-1] and all(_kinds(gap) & {"date"} for gap in gaps[1:-1]):
        gaps[0].insert(0, ("date", listing.dated.text))  # a date before every title: the first is not the page's
        listing.dated = Dated()
    leading = _kinds(_meant(gaps[0]))
    leading |= {"authors", "comments"} if "date" in leading else set()
    ahead = "votes" in leading and "date" not in leading
    for at, gap in enumerate(gaps):
        for kind, value in _meant(gap, ahead=ahead and at < len(listing.entries)):
            before = at == 0 or (kind in leading and at < len(listing.entries))
            _note(listing.entries[at if before else at - 1], kind, value)
    for entry, gap in zip(listing.entries, under, strict=True):
        for kind, value in _meant(gap):
            _note(entry, kind, value)
    ranks = [entry.votes for entry in listing.entries]
    if len(ranks) > 1 and ranks == list(range(1, len(ranks) + 1)):  # the papers are numbered
        for entry in listing.entries:
            entry.votes = None


def _kinds(pieces: Pieces) -> set[str]:
    return {kind for kind, _ in pieces}


def _meant(pieces: Pieces, *, ahead: bool = False) -> Pieces:
    """Small print in which a number alone is read as comments (behind a date or authors) or votes. ahead: votes
    stand before titles and dates do not, so the last number is votes."""
    last = max((at for at, (kind, _) in enumerate(pieces) if kind == "number"), default=-1)
    meant = []
    for at, (kind, value) in enumerate(pieces):
        if kind == "number":
            behind = at > 0 and pieces[at - 1][0] in ("date", "authors") and not (ahead and at == last)
            kind = "comments" if behind else "votes"
        meant.append((kind, value))
    return meant


def _note(entry: Entry, kind: str, value: str) -> None:
    """Write one piece of small print into an entry."""
    if kind == "date":
        entry.dated = lines_of.dated(value) or Dated()
    elif kind == "arxiv" and (known := clean.arxiv_id(value)):
        entry.arxiv = known[0]
    else:
        setattr(entry, kind, value if kind in ("by", "names") else lines_of.count(value))


def looks_like(page: str) -> bool:
    """Whether text is a listing page: two papers or more, or furniture and one or none, and hardly a line that fits
    nowhere."""
    listing = read(page[:200_000])
    entries = listing.entries
    if len(listing.strays) > len(entries) / 4:
        return False
    if listing.own or listing.name or any(entry.authors and entry.dated.text for entry in entries):
        return sum(bool(entry.abstract) for entry in entries) >= 0.5 * len(entries)
    whole = sum(_abstractness(entry.abstract) > 0 for entry in entries)
    return whole >= 2 and whole >= 0.8 * len(entries)


class ListingPages:
    """One saved page as a source of papers in its order.

    content: the page's text. key: the import's identity; the list's is its text. file: its name, for messages.
    day: when the page was saved, which gives dates without a year theirs.
    """

    name = "listing"

    def __init__(self, content: str, key: str = "", *, file: str = "", day: date | None = None) -> None:
        self.content, self.file, self.day = content, file, day
        self.list_key = "listing:" + hashlib.sha256(clean.text(content).strip().encode()).hexdigest()[:32]
        self.key = key or self.list_key
        self.reached: dict[str, Any] = {}

    def pages(self, resume: dict[str, Any], reached: dict[str, Any]) -> Iterator[Page]:
        """The whole listing as one page: its order is one thing."""
        listing = read(self.content)
        year = self.day.year if self.day else listing.dated.year
        shown = {"date": listing.dated.text, "file": self.file}
        called = f"{listing.name or 'Listing'}{f', {listing.dated.text}' if listing.dated.text else ''}"
        page = Page(total=len(listing.entries), resume={"done": True})
        if listing.entries:
            page.ranked = Ranked(self.list_key, called, self.day or listing.dated.on(year), shown)
        for entry in listing.entries:
            page.add(self._item(entry, year), entry.title)
        for number, text in listing.strays:
            page.rejected.append(Rejected("not part of any paper", f"{self.file or 'listing'}:{number}", text))
        yield page

    def _item(self, entry: Entry, year: int | None) -> Item:
        shown = {"date": entry.dated.text, "comments": entry.comments, "authors": entry.authors}
        shown |= {"upvotes": entry.votes, "by": entry.by}
        return Item(
            title=entry.title,
            arxiv=entry.arxiv,
            abstract=entry.abstract,
            authors=clean.names(entry.names) if entry.names else [],
            author_count=entry.authors,
            published_day=entry.dated.on(year),
            upvotes=entry.votes,
            comments=entry.comments,
            shown={name: value for name, value in shown.items() if value not in ("", None)},
            where=f"{self.file or 'listing'}:{entry.line}",
        )
