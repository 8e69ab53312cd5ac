"""Clean text from outside before it is stored: control characters, spaces, ids, dates, addresses. Pages escape it."""

import hashlib
import html
import re
import unicodedata
from datetime import UTC, date, datetime, time
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

from paperlab.site import tex

NAME_LIMIT = 500
URL_LIMIT = 2_000
PIECE = 256  # characters that are normalized at once
FIRST_YEAR = 1665  # the first issue of the Philosophical Transactions

# C0 and C1 controls but tab and newline; bidirectional overrides and isolates, which would reorder the page around
# them; the byte order mark; noncharacters; surrogates that JSON escapes let through and no database takes.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)


def text(value: str) -> str:
    """Any text in Unicode's composed form (NFC), without controls, with "\\n" for every line end."""
    if value.isascii() and value.isprintable():
        return value
    plain = value.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n").replace("\u2028", "\n")
    return _normalized("NFC", _UNWANTED.sub("", plain.replace("\u2029", "\n\n")))


def _normalized(form: Literal["NFC", "NFKD"], value: str) -> str:
    """Unicode's normal form in pieces, each ended before a character that begins anew: on a long run of accents the
    whole at once takes time with its square (100,000 of them: 100 s)."""
    parts, at = [], 0
    while at < len(value):
        end = min(at + PIECE, len(value))
        last = min(end + 32, len(value))
        while end < last and (unicodedata.category(value[end])[0] == "M" or "\u1160" <= value[end] <= "\u11ff"):
            end += 1
        parts.append(unicodedata.normalize(form, value[at:end]))
        at = end
    return "".join(parts)


def line(value: str) -> str:
    """Text of one line: every run of white space is one space."""
    if _is_simple(value):
        return value
    return tex.spaced(text(value))


def _is_simple(value: str) -> bool:
    """Whether a text is such that nothing here changes it, as most are: only letters that are seen, single spaces."""
    return value.isascii() and value.isprintable() and "  " not in value and value[:1] != " " != value[-1:]


def paragraphs(value: str, *, indented: bool = False) -> str:
    """Text whose paragraphs are kept, with an empty line between two, and whose other line breaks are spaces.

    indented: an indented line begins a paragraph too, as in arXiv's abstracts.
    """
    if _is_simple(value):
        return value
    plain = text(value).strip()
    if "\n" not in plain:
        return tex.spaced(plain)
    parts = re.split(r"\n[^\S\n]*\n\s*|\n[^\S\n]+(?=\S)" if indented else r"\n[^\S\n]*\n\s*", plain)
    return "\n\n".join(joined for part in parts if (joined := tex.spaced(part)))


_SIGNS = re.compile(r"[\W_]+")
_LATEX = re.compile(r"\\[a-zA-Z]+|[\\${}~^_]")


def title_key(title: str) -> str:
    """What two spellings of one title share: a hash of its letters and digits, without case, accents, TeX, spaces."""
    plain = _LATEX.sub("", title)
    folded = plain.lower() if plain.isascii() else _normalized("NFKD", plain).casefold()
    kept = _SIGNS.sub("", folded) or " ".join(title.split())  # a title of signs alone still differs from another
    return hashlib.blake2b(kept.encode("utf-8", "replace"), digest_size=16).hexdigest()


_NEW_ID = r"\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}"
_OLD_ID = r"[a-z][a-z-]*(?:\.[a-z]{2})?/\d{2}(?:0[1-9]|1[0-2])\d{3}"
_SITES = (
    r"(?:https?://)?(?:(?:www\.|export\.|browse\.|ar5iv\.(?:labs\.)?)?arxiv\.org/(?:abs|pdf|html|format)|ar5iv\.org/(?:abs|html)"
    r"|(?:www\.)?(?:huggingface|hf)\.co/papers|(?:www\.)?alphaxiv\.org/(?:abs|pdf))/"
)
_DOI = r"(?:(?:https?://)?(?:www\.|dx\.)?doi\.org/|doi:\s*)?10\.48550/arxiv\."
_STAMP = r"\s*\[[a-z][a-z.-]*\](?:\s+\d{1,2}\s+[a-z]{3,9}\s+\d{4})?"  # as printed on the side of a PDF
_ARXIV = re.compile(
    rf"(?:{_SITES}|{_DOI}|oai:arxiv\.org:|arxiv[:\s]\s*)?({_NEW_ID}|{_OLD_ID})(?:v([1-9]\d{{0,2}}))?(?:\.pdf)?/?"
    rf"(?:{_STAMP})?",
    re.IGNORECASE,
)


def arxiv_id(value: str) -> tuple[str, int | None] | None:
    """The bare id and the version in "2403.02775v2", "math.AG/0601001", "arXiv: …", an address, arXiv's DOI, or the
    stamp "arXiv:2403.02775v2 [cs.CL]"; None otherwise.

    An old id loses its subject class, as arXiv itself drops it: math.AG/0601001 is math/0601001.
    """
    match = _ARXIV.fullmatch(value.strip().partition("?")[0].partition("#")[0])
    if not match:
        return None
    bare = match[1].lower()
    if "/" in bare:
        archive, _, number = bare.partition("/")
        bare = f"{archive.partition('.')[0]}/{number}"
    return bare, int(match[2]) if match[2] else None


def address(value: object) -> str:
    """An http or https address as it was given; "" for anything else (javascript:, data:, relative, too long)."""
    if not isinstance(value, str) or len(value) > URL_LIMIT:
        return ""
    bare = line(value)
    try:
        parts = urlsplit(bare)
        named = parts.hostname
    except ValueError:
        return ""
    return bare if parts.scheme in ("http", "https") and named and " " not in bare else ""


_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_SUFFIX = re.compile(r"(?:jr|sr|ii|iii|iv|ph\.?d|m\.?d)\.?", re.IGNORECASE)
_GROUP = re.compile(r"(?:for|on behalf of) (?:the )?(.+ (?:collaborations?|team|group|consortium))", re.IGNORECASE)
_SEVERAL = re.compile(r"\band(?= \S+ (?:Collaborations|Teams|Groups)\b)")


_AFTER = re.compile(r"\s*(?:$|[,;(]|and\s)")  # what a bracket behind a name is followed by


def key(text: str) -> int:
    """The key of a row; 0, which no row has, for what cannot be one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def names(values: object) -> list[str]:
    """Authors' names from a list of strings, a list of objects with `name`, or one string with commas and "and".

    Without HTML, their TeX read, without affiliations in brackets ("A. Einstein (1), J. Doe (Rome, Italy)"); a group
    before a colon or that somebody signs for is a name of its own; "Jr." belongs to who stands before it.
    """
    if isinstance(values, str):
        plain = " ".join(_without_brackets(_text(values)).replace("\0", "").split())
        plain = _SEVERAL.sub("\0", plain)  # "ATLAS and CMS Collaborations" is one name, or none
        parts = re.split(r"\s*,\s+(?:and\s+)?|\s+and\s+|\s*;\s*|(?<=\w):\s+", plain)
        single: list[str] = []
        for part in parts:
            if single and _SUFFIX.fullmatch(part.strip()):
                single[-1] = f"{single[-1]}, {part.strip()}"
            else:
                single.append(part.replace("\0", "and"))
        values = single
    if not isinstance(values, list | tuple):
        return []
    if _are_simple_names(values):
        return list(values)
    bare = [value.get("name") if isinstance(value, dict) else value for value in values]
    cleaned = [line(_without_brackets(_text(value)))[:NAME_LIMIT] for value in bare if isinstance(value, str)]
    return [name for one in cleaned if (name := tex.plain(one))]


def _are_simple_names(values: list[object] | tuple[object, ...]) -> bool:
    """Whether all are names already, as most lists are: one look at all of them."""
    if set(map(type, values)) != {str}:
        return False
    together = " ".join(values)  # type: ignore[arg-type]
    simple = _is_simple(together) and tex.is_plain(together) and not any(sign in together for sign in "<&(")
    return simple and together != "" and max(map(len, values)) <= NAME_LIMIT  # type: ignore[arg-type]


def _text(name: str) -> str:
    """A name without HTML, which some feeds have in it."""
    if "<" not in name and "&" not in name:
        return name
    return _TAG.sub("", html.unescape(_TAG.sub("", name)))


def _without_brackets(text: str) -> str:
    """Without what stands in round brackets behind a name, affiliations and their numbers; a nickname within a name
    stays, a bracket that is never closed too, and a group that somebody signs for is put behind a comma."""
    if "(" not in text:
        return text
    parts, start, depth, opened = [], 0, 0, 0
    for mark in re.finditer(r"[()]", text):
        depth = depth + 1 if mark[0] == "(" else max(0, depth - 1)
        if mark[0] == "(" and depth == 1:
            opened = mark.start()
        elif depth == 0 and opened >= start and _AFTER.match(text[mark.end() : mark.end() + 50]):
            group = _GROUP.fullmatch(text[opened + 1 : mark.start()].strip()[:300])
            parts.append(text[start:opened].rstrip() + (f", {group[1]}" if group else ""))
            start = mark.end()
    return "".join([*parts, text[start:]])


def moment(value: object) -> datetime | None:
    """A date or time as sources write them (ISO 8601, RFC 2822, seconds since 1970), in UTC; None if it is none.

    A date alone is midnight; a year or a month alone is no date (see `year`). None too
    where the year cannot be a paper's: before 1665 or more than a year ahead.
    """
    at: datetime | None = None
    if isinstance(value, datetime):
        at = value
    elif isinstance(value, date):
        at = datetime.combine(value, time())
    elif isinstance(value, str):
        bare = value.strip()[:64]
        try:
            at = datetime.fromisoformat(bare)
        except ValueError:
            try:
                at = parsedate_to_datetime(bare)
            except (ValueError, TypeError, IndexError, OverflowError):
                return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value == value and abs(value) < 1e8:  # no seconds, unless of before 1973: a year, or a day as 20240501
            return moment(str(int(value))) if abs(value) >= 1e7 else None
        try:
            at = datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    if at is None:
        return None
    try:
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if FIRST_YEAR <= at.year <= datetime.now(UTC).year + 1 else None


def year(value: object) -> int | None:
    """The year in 2024, "2024", "2024-05"; None otherwise, also where it cannot be a paper's."""
    if isinstance(value, float) and value == value and abs(value) < 1e4:
        value = int(value)
    known = re.fullmatch(r"(\d{4})(?:-\d{2})?", str(value).strip()[:20]) if isinstance(value, int | str) else None
    return int(known[1]) if known and FIRST_YEAR <= int(known[1]) <= datetime.now(UTC).year + 1 else None


def count(value: object) -> int | None:
    """A whole number of votes, stars or comments that is not negative and fits a database; None otherwise."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value.strip()[:20])
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return int(value) if 0 <= value < 2**31 else None
