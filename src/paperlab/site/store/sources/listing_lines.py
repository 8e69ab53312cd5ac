"""What single lines of a saved listing page say: a paper's authors, date, comments, votes, id; the page's furniture."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

from paperlab.site.store import clean


@dataclass(frozen=True)
class Dated:
    """A date as written, and its parts. None: not shown."""

    text: str = ""
    month: int | None = None
    day: int | None = None
    year: int | None = None

    def on(self, year: int | None) -> date | None:
        """The day, in `year` where the text itself has none; None without any."""
        year = self.year or year
        try:
            return date(year, self.month, self.day) if year and self.month and self.day else None
        except ValueError:  # 29 February of a common year
            return None


@dataclass(frozen=True)
class Line:
    """A line that is not empty. number: from 1; spaced: an empty line stands before it; counted: "3." was taken off."""

    number: int
    text: str
    spaced: bool
    counted: bool = False


# -- a paper's small print ---------------------------------------------------------------------------------------------

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*"
_DATES = (
    re.compile(rf"(?P<month>{_MONTH})\.? (?P<day>[0-3]?\d)(?:,? (?P<year>(?:19|20)\d\d))?", re.IGNORECASE),
    re.compile(rf"(?P<day>[0-3]?\d) (?P<month>{_MONTH})\.?,?(?: (?P<year>(?:19|20)\d\d))?", re.IGNORECASE),
    re.compile(r"(?P<year>(?:19|20)\d\d)-(?P<month>[01]\d)-(?P<day>[0-3]\d)"),
)
_COUNT = r"(\d{1,3}(?:,\d{3})+|\d{1,7})"
_PIECES = {  # each must be the whole piece; its group is the value
    "authors": re.compile(r"(\d{1,5}) authors?", re.IGNORECASE),
    "comments": re.compile(rf"(?:{_COUNT} comments?|comments?:? ?{_COUNT})", re.IGNORECASE),
    "votes": re.compile(
        rf"(?:{_COUNT} ?(?:up-?votes?|votes?|▲)|(?:up-?votes?|votes?|▲|👍):? ?{_COUNT})", re.IGNORECASE
    ),
    "number": re.compile(rf"(?:#{_COUNT}|{_COUNT}[.)]?)"),
    "by": re.compile(r"(?:submitted|posted|shared) by:? ?(\S.*)", re.IGNORECASE),
    "names": re.compile(r"authors?: ?(\S.*)", re.IGNORECASE),
    "": re.compile(r"up-?votes?|comments?|[▲👍]", re.IGNORECASE),
}
_DOT = re.compile(r" ?[·•|] ?")


def dated(text: str) -> Dated | None:
    """A line that is a date and nothing else."""
    text = re.sub(r"^(?:published|submitted|updated)(?: on)?:? ", "", text, flags=re.IGNORECASE)
    for form in _DATES:
        if match := form.fullmatch(text):
            named = match["month"].lower()
            month = int(named) if named.isdigit() else _MONTHS.index(named[:3]) + 1
            last = 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31
            if 1 <= month <= 12 and 1 <= int(match["day"]) <= last:
                return Dated(text, month, int(match["day"]), int(match["year"]) if match["year"] else None)
    return None


def count(text: str) -> int:
    """A number as pages print it: 1,234."""
    return int(text.replace(",", ""))


def pieces(text: str) -> list[tuple[str, str]] | None:
    """What a line of small print says, e.g. [("authors", "7"), ("date", "Oct 10, 2023"), ("number", "1")] for
    "• 7 authors · Oct 10, 2023 1"; an empty list for a dot; None where any part of the line is something else."""
    if len(text) > 300:
        return None
    names = _PIECES["names"].fullmatch(text) or _PIECES["by"].fullmatch(text)
    if names and not re.search(r"[·•|]", text):
        return [("names" if names.re is _PIECES["names"] else "by", names[1])]
    parts: list[tuple[str, str]] = []
    for part in _DOT.split(re.sub(r"^[*–-] (?=\d{1,5} authors?)", "", text)):
        part = part.strip()
        if not part:
            continue
        piece = _piece(part)
        if piece is None:  # "Oct 10, 2023 1": the comments stand behind the date
            start, _, last = part.rpartition(" ")
            comments = re.fullmatch(_COUNT, last)
            if not (dated(start) and comments):
                return None
            parts += [("date", start), ("comments", comments[1])]
        elif piece[0]:
            behind = piece[0] == "number" and parts  # "7 authors · Mar 10 · 4"
            parts.append(("comments", piece[1]) if behind else piece)
    return parts


def _piece(part: str) -> tuple[str, str] | None:
    if dated(part):
        return "date", part
    for kind, form in _PIECES.items():
        if match := form.fullmatch(part):
            return kind, next((value for value in match.groups() if value), "")
    return ("arxiv", part) if clean.arxiv_id(part) else None


# -- the page's furniture ----------------------------------------------------------------------------------------------

# Above the first paper, in this order, each piece at most once. What is out of order is a title.
_HEAD = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?:hugging face|🤗 hugging face|hugging face's logo)",
        r"(?:search models, datasets, users\.*)",
        *("models", "datasets", "spaces", "(?:buckets|community|posts)", "docs", "(?:solutions|enterprise)", "pricing"),
        *("log in", "sign up", "new"),
        r"get trending papers in your email inbox once a day!?",
        r"get trending papers in your email inbox!?",
        r"subscribe",
        r"(?:daily|trending|top|weekly|monthly) papers",
        r"by ?(?:ak|@?_?akhaliq)(?: and the research community)?",
        *("by", "ak", "and the research community"),
        *("(?:search papers|search)", "daily", "weekly", "monthly", "trending papers"),
        r"(?:no|0) (?:papers|results)(?: were)?(?: found| yet)?(?: (?:for|matching) .{1,200})?[.!]?",
        r"(?:search )?results (?:for|matching) .{1,200}",
    )
)
_WORDS = [form.pattern for form in _HEAD]
_SUBSCRIBE = _WORDS.index("subscribe")
_NAME = _SUBSCRIBE + 1
_OWN = (_SUBSCRIBE - 2, _SUBSCRIBE - 1)  # the invitations: no paper's title begins so
_FOOT = re.compile(
    r"(?:(?:previous|next|«|»|‹|›|system theme|light|dark|(?:©|\(c\)) ?(?:\d{4} )?hugging face|hugging face|company|tos"
    r"|terms(?: of service)?|privacy(?: policy)?|about(?: us)?|careers|jobs|press|contact|website|models|datasets"
    r"|spaces|pricing|docs|enterprise|load more|show more|back to top|page|of|\d{1,5}|…|\.\.\.)(?: ?[·•|] ?| |$))+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Head:
    """What stands above the first paper. name: of the page, as shown; own: there is furniture that only such pages
    have; doubtful: the last line of it, where that may as well be the first title ("New")."""

    name: str = ""
    own: bool = False
    doubtful: Line | None = None


def head(lines: list[Line]) -> tuple[list[Line], Head]:
    """The lines after the furniture, a "Subscribe" glued to the first title taken off; and what the furniture says."""
    piece, name, own, doubtful = 0, "", False, None
    for at, line in enumerate(lines):
        rest = line.text
        while rest:
            for index in range(piece, len(_HEAD)):
                match = _HEAD[index].match(rest)
                if match and (match.end() == len(rest) or _glued(rest[match.end() :], index, own)):
                    break
            else:
                break
            piece = index + 1
            sure = index in _OWN or (index > _NAME and "community" in match[0].lower())
            own |= sure
            doubtful = None if sure else Line(line.number, rest, True)
            name = match[0] if index == _NAME else name
            rest = rest[match.end() :].lstrip()
        if rest:
            whole = rest == line.text
            rest_lines = [Line(line.number, rest, line.spaced or not whole), *lines[at + 1 :]]
            return rest_lines, Head(name, own, doubtful if whole else None)
    return [], Head(name, own, doubtful)


def _glued(rest: str, index: int, own: bool) -> bool:
    """Whether furniture piece `index` may stand before `rest` on one line: before more furniture; or, the button and
    what no title begins with, glued to the first title."""
    if index in _OWN:
        return True
    if index == _SUBSCRIBE and own and (not rest[0].isspace() or pieces(rest.strip()) is not None):
        return True
    if index == _NAME + 1 and dated(rest.lstrip()):
        return True
    return index >= _SUBSCRIBE - 3 and any(form.match(rest.lstrip()) for form in _HEAD[index + 1 :])


def foot(lines: list[Line]) -> list[Line]:
    """The lines before a page's foot: at the very end only words of a foot and page numbers, and one word at least."""
    end = len(lines)
    while end and _FOOT.fullmatch(lines[end - 1].text):
        end -= 1
    while end < len(lines) and not re.search("[a-z]", lines[end].text, re.IGNORECASE):
        end += 1  # a number alone is a count of comments
    return lines[:end]


# -- lines -------------------------------------------------------------------------------------------------------------


def split(page: str) -> Iterator[Line]:
    """The page's lines that are not empty, "Submitted by" joined with the name on the next line."""
    spaced, waiting = True, ""
    for number, raw in enumerate(page.split("\n"), 1):
        bare = " ".join(raw.strip("\u200b\u2060").split())
        if not bare:
            spaced = True
            continue
        if re.fullmatch(r"(?:subscribe)?(?:submitted|posted|shared) by:?", bare, re.IGNORECASE):
            waiting = f"{bare} "
            continue
        yield Line(number, waiting + bare, spaced)
        spaced, waiting = False, ""
    if waiting:
        yield Line(number, waiting.strip(), spaced)


def unwrapped(lines: list[Line]) -> list[Line]:
    """Lines that were broken to fit a width, made whole: a line is full if the next one's first word would not have
    fitted. Only where most lines without an empty line between them are so; else the lines as they are."""
    width = max((len(line.text) for line in lines if " " in line.text), default=0)  # a long address is not broken

    def full(line: Line, after: Line) -> bool:
        room = len(line.text) + 1 + len(after.text.partition(" ")[0]) > width
        return not after.spaced and room and pieces(line.text) is None

    text = [(line, after) for line, after in pairwise(lines) if not after.spaced and pieces(after.text) is None]
    if not 40 <= width <= 200 or sum(full(*pair) for pair in text) < max(0.6 * len(text), 1):
        return lines
    whole = lines[:1]
    for line, after in pairwise(lines):
        if full(line, after):
            whole[-1] = Line(whole[-1].number, f"{whole[-1].text} {after.text}", whole[-1].spaced)
        else:
            whole.append(after)
    return whole


_COUNTED = re.compile(r"(?:#|\[|\()?(\d{1,4})[.):\]]+ +(\S.*)")


def uncounted(lines: list[Line]) -> list[Line]:
    """Titles numbered "1. …", "2. …", without their numbers; the lines as they are where that is not so from the
    first title on, or where there is only one paper's worth and it does not begin with 1."""
    matches = [(at, int(match[1]), match[2]) for at, line in enumerate(lines) if (match := _COUNTED.match(line.text))]
    first = next((at for at, line in enumerate(lines) if pieces(line.text) is None), -1)
    if not matches or matches[0][0] != first:
        return lines
    expected, counts = matches[0][1], []
    for at, number, rest in matches:
        if number == expected:
            counts.append((at, rest))
            expected += 1
    if len(counts) < 2 and matches[0][1] != 1:
        return lines
    bare = list(lines)
    for at, rest in counts:
        bare[at] = Line(lines[at].number, rest, lines[at].spaced, counted=True)
    return bare
