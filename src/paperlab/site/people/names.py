"""Names beside comments: what they may hold, which are the site's own, and which look like one another.

Two names look alike if they have a skeleton in common (Unicode Technical Standard #39, "Confusable Detection"), in
which each character is replaced by the one that stands for all that look like it. Capitals are as small letters.
"""

import re
import unicodedata
from functools import cache
from importlib.resources import files
from itertools import groupby

from django.urls import URLPattern, URLResolver, get_resolver

from paperlab.site.store import clean

LIMIT = 40  # characters
MARKS = 3  # accents on one letter; more of them grow into the lines above
SIGNS = " '’.-_·0123456789"  # beside letters and their accents
# Letters and accents that nobody sees: joiners, fillers and selectors (of the property Default_Ignorable_Code_Point).
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Scripts that are written together in one word; every other name is of one script.
_TOGETHER = (
    {"LATIN", "CJK", "HIRAGANA", "KATAKANA"},
    {"LATIN", "CJK", "HANGUL"},
    {"LATIN", "CJK", "BOPOMOFO"},
)
# Words of those who run the site, refused wherever they stand in a name; its staff may use them.
OFFICE = (
    "admin", "administrator", "moderator", "moderators", "official", "paperlab", "root", "staff", "sysadmin",
    "webmaster",
)  # fmt: skip
RESERVED = (
    "abuse", "anonymous", "bot", "deleted", "everybody", "everyone", "help", "here", "info", "localhost", "mod", "mods",
    "nobody", "none", "null", "owner", "postmaster", "reader", "security", "support", "system", "team", "undefined",
    "user", "you",
)  # fmt: skip


class BadName(ValueError):
    """A name that nobody, or not this person, can have; the message says why."""


@cache
def _prototypes() -> dict[int, str]:
    """What stands for each character that looks like another."""
    table = files("paperlab.site.people").joinpath("confusables.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.split("\n") if "\t" in line]
    # Small capitals, which the table leaves out as nobody writes with them: "\u1d00dmin".
    small = {
        code: name[-1].lower()
        for code in range(0x250, 0x1DC0)
        if re.fullmatch("LATIN LETTER SMALL CAPITAL [A-Z]", name := unicodedata.name(chr(code), ""))
    }
    return small | {ord(sign): prototype for prototype, signs in rows for sign in signs}


def _look(text: str) -> str:
    """The skeleton of UTS #39."""
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFD", decomposed.translate(_prototypes()))


def skeletons(name: str) -> set[str]:
    """What all names share that look like this one: two names look alike if they share one of these.

    One is of the name as it is written, one of its small letters: Cyrillic "ВОВ" looks like "BOB", "Вов" does not.
    i and l are one, for the capital of the first looks like the second. Points, dashes and apostrophes do not count; a
    space does.
    """
    plain = unicodedata.normalize("NFKC", name)
    found = set()
    for written in (plain, plain.casefold()):
        look = _look(_look(written).casefold()).casefold().replace("i", "l")
        kept = "".join(sign for sign in look if sign == " " or unicodedata.category(sign)[0] in "LMN")
        found.add(" ".join(kept.split()))
    return found - {""}


def _plain(name: str) -> set[str]:
    """Skeletons without spaces and accents, as the site's own words are compared."""
    return {
        "".join(sign for sign in look if sign != " " and unicodedata.category(sign)[0] != "M")
        for look in skeletons(name)
    } - {""}


def _first_segments(patterns: list[URLPattern | URLResolver]) -> set[str]:
    found = set()
    for one in patterns:
        path = str(one.pattern).lstrip("^/")
        if not path and isinstance(one, URLResolver):
            found |= _first_segments(one.url_patterns)
        elif first := re.match(r"[\w.-]+", path.replace("\\", "")):
            found |= {first[0], first[0].partition(".")[0]}
    return found


@cache
def _own() -> tuple[set[str], set[str]]:
    """The site's words as they look: those of its staff, and all."""
    office = {look for word in OFFICE for look in _plain(word)}
    others = (*RESERVED, *_first_segments(get_resolver().url_patterns))
    return office, office | {look for word in others for look in _plain(word)}


def _is_reserved(name: str) -> bool:
    _, words = _own()
    for whole in _plain(name):
        # "admin 2"; and "reader 12" in any writing of its digits, for l and O are 1 and 0 to the eye
        if {whole, whole.rstrip("0123456789")} & words or re.fullmatch("reader[0-9lo]*", whole):
            return True
    return poses(name)


def poses(title: str) -> bool:
    """Whether a title reads as if those who run the site had written it: a word of their office in it, in any writing.

    Titles are of groups and collections, where "papers" or "team" is a word as any other."""
    office, _ = _own()
    # A word ends where its script does too: CJK is written beside Latin letters without a space.
    scripts = ("".join(each) for _, each in groupby(title, lambda sign: sign.isalnum() and (_scripts(sign) or {""})))
    return any(_plain(word) & office for word in (title, *re.split(r"[\W_]", title), *scripts))


def _scripts(name: str) -> set[str]:
    """The scripts of a name's letters, by the first word of their names in Unicode."""
    found = {unicodedata.name(sign, "UNKNOWN").split()[0].split("-")[0] for sign in name if sign.isalpha()}
    return {{"IDEOGRAPHIC": "CJK"}.get(one, one) for one in found} - {"MODIFIER"}


def read(text: str, *, staff: bool = False) -> str:
    """A name in its one form (NFKC), "" for none. Raises BadName, which says what to change.

    staff: the name is of somebody who runs the site, and may say so.
    """
    name = clean.line(unicodedata.normalize("NFKC", text[: 10 * LIMIT]))
    if not name:
        return ""
    if len(name) > LIMIT:
        raise BadName(f"the name has {len(name)} characters; at most {LIMIT} are allowed")
    if "@" in name:
        raise BadName("everybody sees the name: no e-mail address can be one")
    for sign in name:
        if _INVISIBLE.match(sign) or not (unicodedata.category(sign)[0] in "LM" or sign in SIGNS):
            raise BadName(f"{sign!r} cannot be in a name; letters, digits 0 to 9, spaces and ' . - _ can")
    if not any(sign.isalpha() for sign in name) or not skeletons(name):  # clicks are letters that look like "!"
        raise BadName("a name needs a letter")
    if unicodedata.category(name[0])[0] == "M" or re.search(
        f"[^\0]{{{MARKS + 1}}}", "".join("x" if unicodedata.category(sign) == "Mn" else "\0" for sign in name)
    ):
        raise BadName(f"a letter can have {MARKS} accents, and none stands alone")
    scripts = _scripts(name)
    if len(scripts) > 1 and not any(scripts <= some for some in _TOGETHER):
        both = " and ".join(sorted(one.capitalize() for one in scripts))
        raise BadName(f"the name mixes {both} letters; use the letters of one script")
    if not staff and _is_reserved(name):
        raise BadName(f"{name!r} is a name of the site itself, or looks like one; choose another")
    return name
