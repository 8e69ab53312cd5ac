"""Reads the TeX in titles, names, abstracts and BibTeX from outside: prose with some commands in it, no documents.

One scanner makes pieces (text, formulas, the begin and end of emphasis and links); pages, mail, the search index and
BibTeX write them out, each its own way. Linear in the text, whatever stands in it, and nothing is lost: what is no
TeX stays as it is, and of a command that only the authors' own file defines, the name is kept.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple
from unicodedata import normalize

from paperlab.site import maths


class Piece(NamedTuple):
    """A part of a text. kind: "text", "maths", "display" (a formula on a line of its own), "open", "close", "link",
    "unlink". value: the text, the formula's TeX, the element (em, strong, code, sub, sup) or the address. start, end:
    where it stands in the source."""

    kind: str
    value: str
    start: int
    end: int


LIMIT = 20_000  # characters that are read; the longest of 59,000 abstracts has 3,488. What is behind stays as it is
SIGNS = 2_000  # commands, dollar signs, braces ... that are read, likewise
_SIGN = re.compile(r"\\|\$|~|\{|\}|`|--|''|_\{|\^\{")  # each begins with a letter of its own: a quick search
_SIGNED = ("\\", "$", "{", "}", "~", "`", "--", "''")  # one of these is in whatever has such a sign
_TOKEN = re.compile(
    r"\\(?P<name>[a-zA-Z]+)\*?|\\(?P<sign>.)|(?P<dollar>\$\$?)"
    r"|(?P<shift>[_^])(?=\{)|(?P<brace>[{}])|(?P<tie>~)|(?P<quote>``|''|`)|(?P<dash>---?)",
    re.DOTALL,
)
_ADDRESS = re.compile(r"https?://\S*\Z")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_DOLLARS = re.compile(r"\\.|\$", re.DOTALL)
_SPACE = re.compile(r"\s*")
_EMPTY = re.compile(r"\s*\{\}|\\?[ \t]+|")
_OPTION = re.compile(r"\s*\[[^\][{}$]{0,80}\]")

_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
            "c": "\u0327", "v": "\u030c", "H": "\u030b", "u": "\u0306", "k": "\u0328", "r": "\u030a", "b": "\u0331",
            "d": "\u0323", "t": "\u0361"}  # fmt: skip
_ACCENTED = re.compile(r"\s*\{\s*\\?([^\W\d_])?\s*\}|\s*\\([ij])(?![a-zA-Z])\s*|\s*([^\W\d_])")
_APOSTROPHE = re.compile(r"(?:s|t|re|ve|ll|d|m)\b")  # "model\'s" from JSON that was escaped twice
_LETTERS = {"o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å",
            "AA": "Å", "i": "ı", "j": "ȷ", "dh": "ð", "DH": "Ð", "th": "þ", "TH": "Þ", "dj": "đ", "DJ": "Đ",
            "ng": "ŋ", "NG": "Ŋ", "S": "§", "P": "¶", "dots": "…", "ldots": "…", "textellipsis": "…", "deg": "°",
            "degree": "°", "textdegree": "°", "textmu": "µ", "textasciitilde": "~", "textasciicircum": "^",
            "textbackslash": "\\", "textemdash": "—", "textendash": "–", "textquotedblleft": "“", "slash": "/",
            "textquotedblright": "”", "textquoteleft": "‘", "textquoteright": "’", "textquotesingle": "'",
            "textquotedbl": '"', "textless": "<", "textgreater": ">", "textbar": "|", "textunderscore": "_",
            "textbraceleft": "{", "textbraceright": "}", "textdollar": "$", "textbullet": "•", "copyright": "©",
            "textregistered": "®", "texttrademark": "™", "pounds": "£", "euro": "€", "texteuro": "€", "dag": "†",
            "ddag": "‡", "LaTeX": "LaTeX", "TeX": "TeX", "ie": "i.e.", "eg": "e.g.", "etal": "et al.", "etc": "etc.",
            "wrt": "w.r.t.", "vs": "vs.", "item": "•", "quad": " ", "qquad": " ", "newline": " ", "linebreak": " ",
            "par": " ", "and": " "}  # fmt: skip
_NOTHING = frozenset(
    ("xspace", "noindent", "protect", "allowbreak", "smallskip", "medskip", "bigskip", "hfill", "indent", "centering",
     "maketitle", "relax", "small", "footnotesize", "scriptsize", "tiny", "large", "Large", "normalsize", "rm", "sc",
     "sf", "up", "md", "normalfont", "upshape", "scshape", "sffamily", "rmfamily", "unskip", "ignorespaces",
     "leavevmode", "null", "nobreak", "sloppy", "displaystyle", "textstyle", "bfdefault")
)  # fmt: skip
_STYLES = {"emph": "em", "textit": "em", "textsl": "em", "textbf": "strong", "texttt": "code", "textsuperscript": "sup",
           "textsubscript": "sub", "verb": "code"}  # fmt: skip
_SWITCHES = {"em": "em", "it": "em", "sl": "em", "itshape": "em", "slshape": "em", "bf": "strong",
             "bfseries": "strong", "tt": "code", "ttfamily": "code"}  # fmt: skip
_BARE = frozenset(
    ("textsc", "textrm", "textsf", "textup", "textmd", "textnormal", "text", "mbox", "hbox", "underline", "uline",
     "num", "ul", "texorpdfstring", "title", "keywords")
)  # fmt: skip
_FIRST_ARGUMENT_DROPPED = frozenset(
    ("textcolor", "color", "hyperref", "foreignlanguage", "colorbox", "hspace", "vspace", "label", "vskip", "hskip",
     "fontsize", "selectlanguage", "scalebox")
)  # fmt: skip
_KEYS = re.compile(r"(?:[cC]ite[a-z]*|[a-zA-Z]*cite|(?:eq|page|auto|c|C|name)?ref|gls|Gls|glspl|acs?|acf|acp)")
_FORMULAS = frozenset(
    ("equation", "align", "aligned", "gather", "gathered", "multline", "split", "eqnarray", "displaymath", "math",
     "array", "cases", "matrix", "pmatrix", "bmatrix", "vmatrix", "alignat", "flalign")
)  # fmt: skip
_UNWRAPPED = frozenset(("equation", "displaymath", "math", "eqnarray"))
_NO_ARGUMENT = re.compile(r"\{\}|")
_CODE_POINT = re.compile(r"(?!d[89a-f]|00[01])[0-9a-f]{4}(?![0-9a-f])", re.IGNORECASE)
_NAME = re.compile(r"\{([a-zA-Z]{1,20})\*?\}")
_SIGNS = {",": "\u2009", ";": " ", ":": " ", " ": " ", "\n": " ", "\t": " ", "\\": " ", "!": "", "-": "", "/": "",
          "@": ""}  # fmt: skip
_QUOTED = re.compile(r"`([^`'\n]{1,80})'(?![\w'])")  # a quotation in TeX's single quotes; `so` is Markdown
_FLAG = re.compile(r"(?<![^\s`(])--(?=[a-z])")  # of a command, "--all"; everywhere else two hyphens are a dash
_TEX_SIGN = re.compile(r"[\\^_{}=<>]")
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}(?![a-zA-Z}])")
_TEXT = re.compile(r"\\(?:text[a-z]+|emph|small|tt|rm|sc|bf|it|underline)(?![a-zA-Z])")
_PLACEHOLDER = re.compile(r"[a-z_]{2,}|\d+")


def is_plain(value: str) -> bool:
    """Whether a text has no sign of TeX. Searches for one string each take a tenth of one for a pattern."""
    for sign in _SIGNED:  # noqa: SIM110  a loop: this is asked of every text that comes in
        if sign in value:
            return False
    return True


@lru_cache(maxsize=4096)
def pieces(value: str) -> tuple[Piece, ...]:
    """The parts of a text, in order. "open" and "close", "link" and "unlink" come in pairs, well nested."""
    if is_plain(value):
        return (Piece("text", value, 0, len(value)),) if value else ()
    rest = (Piece("text", value[LIMIT:], LIMIT, len(value)),) if len(value) > LIMIT else ()
    return tuple(_joined(chain(_Scanner(value[:LIMIT]).run(), rest)))


def _joined(found: Iterator[Piece]) -> Iterator[Piece]:
    """Pieces, neighbouring text as one."""
    texts: list[Piece] = []
    for piece in found:
        if piece.kind == "text":
            texts.append(piece)
            continue
        yield from _one(texts)
        yield piece
    yield from _one(texts)


def _one(texts: list[Piece]) -> Iterator[Piece]:
    said = normalize("NFC", "".join(piece.value for piece in texts))
    if said:
        yield Piece("text", said, texts[0].start, texts[-1].end)
    texts.clear()


class _Scanner:
    """One pass over a text; every index below only moves forward."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.closing = _matching(value)  # of each opening brace
        self.dollars = [match.start() for match in _DOLLARS.finditer(value) if match[0] == "$"]
        self.ends: dict[str, tuple[int, int]] = {}  # of each closing sign: from where the next one was seen, where
        self.due: dict[int, list[Piece]] = {}  # what a closing brace closes
        self.groups: list[int] = []  # closing braces of the groups we are in
        self.dropped: set[int] = set()  # closing braces that are not shown

    def run(self) -> Iterator[Piece]:
        value, at, left = self.value, 0, SIGNS
        while left and (sign := _SIGN.search(value, at)):
            left -= 1
            start = sign.start()
            if start > at:
                yield Piece("text", value[at:start], at, start)
            match = _TOKEN.match(value, start)
            at, made = self.token(match) if match else (sign.end(), [_said(sign[0])])
            for piece in made:
                yield piece._replace(start=start, end=at)
        if at < len(value):
            yield Piece("text", value[at:], at, len(value))
        for end in reversed(self.groups):  # groups that nothing closes end with the text
            yield from self.due.pop(end, [])

    def token(self, match: re.Match[str]) -> tuple[int, list[Piece]]:
        """Where to go on, and what a token makes."""
        at, end, kind = match.start(), match.end(), match.lastgroup
        if kind == "name":
            return self.command(match["name"], at, end)
        if kind == "sign":
            return self.sign(match["sign"], at, end)
        if kind == "dollar":
            return self.dollar(match["dollar"], at, end)
        if kind == "brace":
            return self.brace(match["brace"], at, end)
        if kind in ("shift", "tie", "dash") and _ADDRESS.search(self.value, max(0, at - 200), at):
            return end, [_said(match[0])]
        if kind == "shift":
            self.enter(end, [_close("sup" if match["shift"] == "^" else "sub")])
            return end + 1, [_open("sup" if match["shift"] == "^" else "sub")]
        if kind == "tie":
            around = self.value[at - 1 : at], self.value[end : end + 1]
            tied = all(side and not side.isspace() for side in around) and around[0] not in "(~"
            return end, [_said("\u00a0" if tied else "~")]
        if kind == "quote":
            return self.quote(match["quote"], at, end)
        if kind == "dash":
            flag = match["dash"] == "--" and _FLAG.match(self.value, at)
            return end, [_said(match[0] if flag else "—" if match["dash"] == "---" else "–")]
        raise ValueError(kind)

    def enter(self, brace: int, due: list[Piece], *, shown: bool = False) -> None:
        """Go into the group of the brace at this place; `due` is made where it ends."""
        end = self.closing.get(brace, len(self.value) + len(self.groups))
        self.groups.append(end)
        self.due[end] = due
        if not shown:
            self.dropped.add(end)

    def argument(self, at: int) -> int:
        """Where the brace of an argument stands that begins here; -1 where there is none."""
        at = _end(_SPACE, self.value, at)
        return at if self.value[at : at + 1] == "{" else -1

    def contents(self, brace: int) -> tuple[str, int]:
        """What stands in the group of a brace, and where the text goes on."""
        end = self.closing.get(brace, len(self.value))
        return self.value[brace + 1 : end], min(end + 1, len(self.value))

    def brace(self, sign: str, at: int, end: int) -> tuple[int, list[Piece]]:
        if sign == "}":
            if at not in self.dropped:
                return end, [_said("}")]
            made: list[Piece] = []
            while self.groups and self.groups[-1] <= at:
                made += self.due.pop(self.groups.pop(), [])
            return end, made
        close = self.closing.get(at)
        if close is None or not self.protects(at, close):
            return end, [_said("{")]
        self.enter(at, [])
        return end, []

    def protects(self, at: int, close: int) -> bool:
        """Whether a group is TeX's, and neither a set, {1, 2}, nor a placeholder, {name}."""
        after, value = self.value[at + 1 : at + 2], self.value
        if after == "\\":
            return self.value[at + 2 : at + 3] not in "{}"
        inside = value[at + 1 : close] if close - at < 500 else ","
        if "," in inside.strip(",") or '"' in inside or ":" in inside:
            return False
        if inside[:1] in ("{", "%") or (inside[:1] == " " and inside.lstrip()[:1] != "\\") or value[at - 1 : at] == "$":
            return False  # of a language of templates
        around = value[at - 1 : at] + value[close + 1 : close + 2]
        return not _PLACEHOLDER.fullmatch(inside) or any(sign.isalnum() or sign in "-~" for sign in around)

    def dollar(self, sign: str, at: int, end: int) -> tuple[int, list[Piece]]:
        value = self.value
        if sign == "$$":
            close = self.find("$$", end)
            inside = value[end:close] if close > end else ""
            if inside.strip() and len(inside) <= maths.LIMIT and _balanced(inside):
                return close + 2, [Piece("display", inside.strip(), 0, 0)]
            return end, [_said("$$")]
        index = bisect_left(self.dollars, end)
        close = self.dollars[index] if index < len(self.dollars) else -1
        if at in self.dropped:
            return end, []
        if close > end and close - end <= maths.LIMIT and _is_formula(value, at, close):
            if _TEXT.search(value, end, close) and not maths.readable(value[end:close].strip()):
                self.dropped.add(close)  # prose between dollar signs: $\textbf{so}$
                return end, []
            return close + 1, [Piece("maths", value[end:close].strip(), 0, 0)]
        return end, [_said("$")]

    def find(self, sign: str, at: int) -> int:
        """Where a sign stands next, from here; asked for at growing places, so each place is looked at once."""
        since, known = self.ends.get(sign, (0, -2))
        if known == -2 or at < since or -1 < known < at:
            known = self.value.find(sign, at)
            self.ends[sign] = at, known
        return known

    def sign(self, sign: str, at: int, end: int) -> tuple[int, list[Piece]]:
        if sign in "([":
            close = self.find("\\)" if sign == "(" else "\\]", end)
            inside = self.value[end:close] if close != -1 and close - end <= maths.LIMIT else ""
            if inside.strip() and _balanced(inside):
                return close + 2, [Piece("maths" if sign == "(" else "display", inside.strip(), 0, 0)]
            return end, [_said("\\" + sign)]
        if sign in _ACCENTS:
            return self.accent(sign, at, end)
        return end, [_said(_SIGNS.get(sign, sign))]

    def accent(self, sign: str, at: int, end: int) -> tuple[int, list[Piece]]:
        """A letter with its accent; the sign itself where no letter has it."""
        value = self.value
        before = value[at - 1 : at]
        found = _ACCENTED.match(value, end)
        if found and not (sign == "'" and before.isalnum() and _APOSTROPHE.match(value, end)) and before != "/":
            letter = found[1] or found[2] or found[3]
            if letter is None:
                return found.end(), [_said(sign)]
            whole = normalize("NFC", letter + _ACCENTS[sign])
            if len(whole) == 1 or found[0].strip()[0] == "{":
                return found.end(), [_said(whole)]
        return end, [_said(sign)]

    def quote(self, sign: str, at: int, end: int) -> tuple[int, list[Piece]]:
        if sign == "``":
            return end, [_said("“")]
        if sign == "''":
            return end, [_said("”")]
        quoted = _QUOTED.match(self.value, at) and not self.value[at - 1 : at].isalnum()
        return end, [_said("'" if quoted else "`")]

    def command(self, name: str, at: int, end: int) -> tuple[int, list[Piece]]:
        value = self.value
        if name == "u" and (code := _CODE_POINT.match(value, end)):  # from JSON that was escaped twice
            return code.end(), [_said(chr(int(code[0], 16)))]
        if len(name) == 1 and name in _ACCENTS and not value[end : end + 1].isdigit():
            brace = self.argument(end)
            if brace >= 0 and len(inside := self.contents(brace)[0]) > 1 and inside.isalpha():
                said = _symbol(name + inside)  # arXiv reads "\\rho" in running text as an accent: \r{ho}
                return (self.contents(brace)[1], [_said(said)]) if said else self.unknown(name, end)
            if brace >= 0 or value[end : end + 1] in (" ", "\\"):
                after, made = self.accent(name, at, end)
                return (after, made) if after > end else self.unknown(name, end)
            return self.unknown(name, end)
        if name in _LETTERS:
            return _end(_EMPTY, value, end), [_said(_LETTERS[name])]
        if name in _NOTHING:
            return _end(_EMPTY, value, end), []
        if name in _SWITCHES:
            return self.switch(_SWITCHES[name], end)
        if name in _STYLES and (brace := self.argument(end)) >= 0:
            self.enter(brace, [_close(_STYLES[name])])
            return brace + 1, [_open(_STYLES[name])]
        if name in _BARE and (brace := self.argument(end)) >= 0:
            self.enter(brace, [])
            return brace + 1, []
        if name in _FIRST_ARGUMENT_DROPPED:
            brace = self.argument(_end(_OPTION, value, end))
            after = self.contents(brace)[1] if brace >= 0 else end
            if (brace := self.argument(after)) >= 0 and name not in ("label", "color"):
                self.enter(brace, [])
                return brace + 1, []
            return after, []
        if name in ("href", "url", "hyperlink", "footnote", "footnotemark", "footnotetext", "thanks"):
            return self.reference(name, end)
        if name in ("SI", "qty") and (brace := self.argument(end)) >= 0:
            said, after = self.contents(brace)
            unit, after = self.contents(brace) if (brace := self.argument(after)) >= 0 else ("", after)
            return after, [_said(f"{said}\u2009{unit}" if unit else said)]
        if name in ("begin", "end") and (found := _NAME.match(value, end)):
            return self.environment(name, found[1], at, found.end())
        if name == "ensuremath" and (brace := self.argument(end)) >= 0:
            source, after = self.contents(brace)
            return after, [Piece("maths", source.strip(), 0, 0)]
        if _KEYS.fullmatch(name) and (brace := self.argument(_end(_OPTION, value, end))) >= 0:
            key, after = self.contents(brace)
            return after, [_said(f"[{key}]")]
        if name == "char" and (code := re.compile(r'"([0-9A-Fa-f]{2,5})').match(value, end)):
            return code.end(), [_said(chr(int(code[1], 16)) if int(code[1], 16) < 0x110000 else "")]
        return self.unknown(name, end)

    def switch(self, tag: str, end: int) -> tuple[int, list[Piece]]:
        """A style that holds to the end of the group: {\\it so}. Outside of one it holds for nothing."""
        after = _end(_EMPTY, self.value, end)
        if not self.groups:
            return after, []
        self.due.setdefault(self.groups[-1], []).insert(0, _close(tag))
        return after, [_open(tag)]

    def reference(self, name: str, end: int) -> tuple[int, list[Piece]]:
        brace = self.argument(_end(_OPTION, self.value, end))
        if brace < 0:
            return end, []
        if name not in ("href", "url", "hyperlink"):
            self.enter(brace, [_said(")")])
            return brace + 1, [_said(" (")]
        inside, after = self.contents(brace)
        address = re.sub(r"\\([%#&_~{}])", r"\1", inside.strip())
        shown = self.argument(after) if name != "url" else -1
        if shown < 0:
            return after, [Piece("link", address, 0, 0), _said(address), Piece("unlink", address, 0, 0)]
        self.enter(shown, [Piece("unlink", address, 0, 0)])
        return shown + 1, [Piece("link", address, 0, 0)]

    def environment(self, word: str, name: str, at: int, end: int) -> tuple[int, list[Piece]]:
        if word == "begin" and name in _FORMULAS:
            for closer in (f"\\end{{{name}}}", f"\\end{{{name}*}}"):
                close = self.find(closer, end)
                if close != -1 and close - at <= maths.LIMIT and _balanced(self.value[end:close]):
                    after = close + len(closer)
                    source = self.value[end:close] if name in _UNWRAPPED else self.value[at:after]
                    return after, [Piece("display", source.strip(), 0, 0)]
        return end, [_said(" ")]

    def unknown(self, name: str, end: int) -> tuple[int, list[Piece]]:
        """A command of mathematics outside of a formula, or one that the authors defined: its name is kept."""
        value = self.value
        if len(name) == 1 and (value[end : end + 1].isdigit() or (name == "n" and value[end : end + 1] != "{")):
            return end, [_said(f"\\{name}")]  # of a program, "\\n" and "\\u0000", not a command of this name
        if said := _symbol(name):
            return _end(_NO_ARGUMENT, value, end), [_said(said)]
        brace, after = end, end  # where an argument may stand, as in \mathcal{O} and \frac{a}{b}
        while after - end < 200 and value[after : after + 1] == "{" and after in self.closing:
            after = self.closing[after] + 1
            if after - end <= 200 and maths.known(source := value[end - len(name) - 1 : after]):
                return after, [Piece("maths", source, 0, 0)]
        if value[brace : brace + 1] == "{" and self.closing.get(brace) != brace + 1:
            self.enter(brace, [])
            return brace + 1, []
        return _end(_NO_ARGUMENT, value, end), [_open("code"), _said(name), _close("code")]


def _open(tag: str) -> Piece:
    return Piece("open", tag, 0, 0)


def _close(tag: str) -> Piece:
    return Piece("close", tag, 0, 0)


def _said(value: str) -> Piece:
    return Piece("text", value, 0, 0)


def _end(pattern: re.Pattern[str], value: str, at: int) -> int:
    found = pattern.match(value, at)
    return found.end() if found else at


def _matching(value: str) -> dict[int, int]:
    """The closing brace of each opening one that has one."""
    found: dict[int, int] = {}
    opened: list[int] = []
    if "{" in value:
        for match in _BRACES.finditer(value):
            if match[0] == "{":
                opened.append(match.start())
            elif match[0] == "}" and opened:
                found[opened.pop()] = match.start()
    return found


def _balanced(source: str) -> bool:
    """Whether every brace of a formula has its partner inside it."""
    open_ = 0
    for match in _BRACES.finditer(source):
        open_ += (match[0] == "{") - (match[0] == "}")
        if open_ < 0:
            return False
    return open_ == 0


def _is_formula(value: str, at: int, close: int) -> bool:
    """Whether two dollar signs enclose a formula, and not the text between two prices."""
    inside = value[at + 1 : close]
    before, after = value[at - 1 : at], value[close + 1 : close + 2]
    if not inside.strip() or not _balanced(inside):
        return False
    words = len(_PROSE.findall(re.sub(r"\\(?:text|math|operatorname)[a-z]*\*?\{[^{}]*\}", "", inside)))
    if _TEX_SIGN.search(inside):
        if inside[0].isdigit() and words > 1 and (after.isdigit() or inside[-1].isspace()):
            return False
        return words <= 6
    spaces = inside[0].isspace() + inside[-1].isspace()
    if spaces == 1 or words > 1 or (spaces and (words or " " in inside.strip())):
        return False
    if (after.isdigit() and any(sign.isalnum() for sign in inside)) or (
        before.isalnum() and (len(inside) > 8 or " " in inside or inside[0].isdigit())
    ):
        return False
    return not (inside[0].isdigit() and words and re.match(r"\d[\d.,]*\s*[a-zA-Z]*[\s,;/–-]", inside))


@lru_cache(maxsize=1024)
def _symbol(name: str) -> str:
    """The sign or word of a command without arguments, as \\alpha and \\log; "" for one that nobody knows."""
    return maths.line(f"\\{name}") if maths.known(f"\\{name}") else ""


def formulas(value: str) -> Callable[[int], Piece | None]:
    """A function that gives the formula which begins at a place, between dollar signs, \\( and \\) or \\[ and \\]; None
    where none does. For readers of another language, as Markdown."""
    scanner = _Scanner(value)

    def at(place: int) -> Piece | None:
        sign = _TOKEN.match(value, place)
        if sign is None or not (sign["dollar"] or (sign["sign"] and sign["sign"] in "([")):
            return None
        end, made = scanner.token(sign)
        found = next((piece for piece in made if piece.kind in ("maths", "display")), None)
        return found and found._replace(start=place, end=end)

    return at


def plain(value: str) -> str:
    """A text on one line without TeX's signs, for places that hold no markup: the title of a window, mail, search."""
    if is_plain(value):
        return spaced(value)
    return spaced("".join(_plain(pieces(value))))


def spaced(value: str) -> str:
    """A text whose every run of white space is one space, none at its ends."""
    if "  " not in value and value[:1] != " " != value[-1:] and _has_no_white_space_but_spaces(value):
        return value
    return " ".join(value.split())


def _has_no_white_space_but_spaces(value: str) -> bool:
    if not value.isascii():
        return value.isprintable()
    for sign in "\n\t\r\v\f\x1c\x1d\x1e\x1f":  # noqa: SIM110  quick searches: isprintable() looks at each letter
        if sign in value:
            return False
    return True


def line(source: str) -> str:
    """A formula as one line of text; as it is written where it cannot be read."""
    try:
        return maths.line(source)
    except maths.Unreadable:
        return source


def names(values: list[object]) -> list[str]:
    """Authors' names as they are spelt, from how they are stored: versions before this one stored TeX."""
    said = [str(value) for value in values]
    together = " ".join(said)
    if is_plain(together) and spaced(together) is together:  # as most are: one look at all of them
        return said
    return [plain(name) for name in said]


def _plain(parts: tuple[Piece, ...]) -> Iterator[str]:
    shown, shift = "", ""  # what a link shows so far; whether letters are raised or lowered
    for kind, said, _, _ in parts:
        if kind in ("maths", "display"):
            said = line(said)
        elif kind == "text":
            said = maths.raised(said) if shift == "sup" else maths.lowered(said) if shift == "sub" else said
        elif kind == "link":
            shown, said = "", ""
        elif kind == "unlink":
            said = "" if "://" in shown or "://" not in said else f" ({said})"
        else:
            shift, said = said if kind == "open" and said in ("sup", "sub") else "", ""
        shown += said
        yield said


def bibtex(value: str) -> str:
    """A text as the value of a field of BibTeX, without the braces around it: every sign of TeX escaped, formulas as
    they were, and as many closing braces as opening ones, counted as BibTeX counts them."""
    commands = {"em": r"\emph{", "strong": r"\textbf{", "code": r"\texttt{", "sup": r"\textsuperscript{",
                "sub": r"\textsubscript{"}  # fmt: skip
    made = []
    for kind, said, _, _ in pieces(value):
        if kind in ("maths", "display"):
            made.append(f"${said}$" if said.count("{") == said.count("}") else escaped(said))
        elif kind == "text":
            made.append(escaped(said))
        elif kind in ("open", "close"):
            made.append(commands[said] if kind == "open" else "}")
    return " ".join("".join(made).split())


_SPECIAL = {"%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "$": r"\$", "\\": r"\textbackslash{}",
            "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u00a0": "~"}  # fmt: skip


def escaped(value: str) -> str:
    """Text in which TeX sees nothing but text. A brace without its partner becomes a command, since BibTeX counts
    braces whether or not a backslash stands before them."""
    partners = _matching(value.replace("\\", "/"))
    paired = set(partners) | set(partners.values())
    return "".join(
        (r"\textbraceleft{}" if sign == "{" else r"\textbraceright{}")
        if sign in "{}" and at not in paired
        else _SPECIAL.get(sign, sign)
        for at, sign in enumerate(value)
    )
