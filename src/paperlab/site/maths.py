"""Formulas of TeX: as MathML for pages, as one line of Unicode for where there is no markup.

math-core (Rust) reads TeX and writes MathML; browsers lay MathML out by themselves, so no script is sent for it. Only
elements and attributes of a short list reach a page, whatever stood in the formula. The page's policy allows no
inline style, so the few styles that matter become classes.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from html import escape
from typing import TYPE_CHECKING
from unicodedata import normalize
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

if TYPE_CHECKING:
    from math_core import LatexToMathML

LIMIT = 1_000  # characters; the longest formula of 59,000 abstracts has 310
SIGNS = 120  # commands, groups, indices: the reader recurses from one into the next; the fullest formula there has 65
_MACROS = {
    "mathds": r"\mathbb{#1}", "mathbbm": r"\mathbb{#1}", "bbm": r"\mathbb{#1}", "mbox": r"\text{#1}",
    "hbox": r"\text{#1}", "textsl": r"\textit{#1}", "smash": "#1", "ensuremath": "#1", "url": r"\text{#1}",
    "href": "#2", "num": "#1", "SI": r"#1\,\text{#2}", "qty": r"#1\,\text{#2}", "eps": r"\epsilon", "oo": r"\infty",
    "percent": r"\%", "xspace": "", "allowbreak": "",
}  # fmt: skip
_ELEMENTS = frozenset(
    ("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msub", "msup", "msubsup", "munder", "mover",
     "munderover", "mmultiscripts", "mprescripts", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd", "mpadded",
     "mphantom", "mstyle", "b", "i", "em", "code")
)  # fmt: skip
_BARE = frozenset(("menclose", "span", "merror", "maction"))  # their content is kept, they are not
_ATTRIBUTES = frozenset(
    ("mathvariant", "stretchy", "fence", "form", "accent", "accentunder", "separator", "largeop", "movablelimits",
     "symmetric", "lspace", "rspace", "linethickness", "displaystyle", "scriptlevel", "width", "height", "depth",
     "minsize", "maxsize", "columnspan")
)  # fmt: skip
_VALUE = re.compile(r"[\w.%+ -]{0,40}")
_ALIGNED = re.compile(r"text-align: ?(left|right)")
_HOLDING = re.compile(r"\\(?:[a-zA-Z]+|.)|[{\[^_']", re.DOTALL)
_UNKNOWN = re.compile(r'Unknown command "\\(\w+)"')
_MENDED = re.compile(r"\\([()])|(\\.)|%", re.DOTALL)


class Unreadable(ValueError):
    """A formula that is no TeX, too long or too deep; the message says which."""


@cache
def _reader() -> "LatexToMathML":
    from math_core import LatexToMathML

    return LatexToMathML(macros=_MACROS, fancy_error=False, allow_unreliable_rendering=True, max_expansions=50)


def _read(source: str, display: bool = False) -> Element:
    """A formula as a tree of MathML. Raises Unreadable."""
    from math_core import LatexError

    if len(source) > LIMIT:
        raise Unreadable(f"{len(source)} characters; at most {LIMIT} are read")
    if len(_HOLDING.findall(source)) > SIGNS:
        raise Unreadable(f"more than {SIGNS} commands, groups and indices")
    # No comments inside a line of prose, no formulas inside of formulas.
    written = _MENDED.sub(lambda match: match[1] or match[2] or r"\%", source)
    try:
        made = _reader().convert_with_local_state(written, displaystyle=display)
        return ElementTree.fromstring(made.replace("&ApplyFunction;", "\u2061"))
    except (LatexError, ElementTree.ParseError) as error:
        raise Unreadable(str(error)) from None


@lru_cache(maxsize=4096)
def _tree(source: str, display: bool) -> Element:
    """As `_read`; a command that only the authors' file defines is shown by its name."""
    for _ in range(6):
        try:
            return _read(source, display)
        except Unreadable as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None:
                raise
            source = re.sub(rf"\\{unknown[1]}(?![a-zA-Z])", rf"\\operatorname{{{unknown[1]}}}", source)
    raise Unreadable("too many unknown commands")


def readable(source: str) -> bool:
    """Whether a formula can be shown, commands of the authors' own by their names."""
    try:
        return _tree(source, False) is not None
    except Unreadable:
        return False


@lru_cache(maxsize=4096)
def known(source: str) -> bool:
    """Whether a formula is read whole and shows something."""
    try:
        return bool("".join(_read(source).itertext()).strip())
    except Unreadable:
        return False


@lru_cache(maxsize=4096)
def html(source: str, display: bool = False) -> str:
    """A formula as MathML; as it is written, in <code class="tex">, where it cannot be read."""
    try:
        made = _markup(_tree(source, display))
    except Unreadable:
        return f'<code class="tex">{escape(source)}</code>'
    kind = ' display="block"' if display else ""
    return f'<math{kind} alttext="{escape(source)}">{made}</math>'


def _markup(element: Element) -> str:
    """What is inside an element, as HTML."""
    return _text(element.text) + "".join(_outer(child) + _text(child.tail) for child in element)


def _outer(element: Element) -> str:
    if element.tag in _BARE:
        return f"<mrow>{_markup(element)}</mrow>" if element.tag == "menclose" else _markup(element)
    if element.tag not in _ELEMENTS:
        raise Unreadable(f"<{element.tag}>")
    kept = "".join(
        f' {name}="{escape(value)}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _VALUE.fullmatch(value)
    )
    if element.tag == "mspace" and not kept:
        return ""
    if element.tag == "mtd" and (side := _ALIGNED.search(element.get("style", ""))):
        kept += f' class="{side[1]}"'
    return f"<{element.tag}{kept}>{_markup(element)}</{element.tag}>"


def _text(value: str | None) -> str:
    return escape(value.replace("\ufe00", "")) if value else ""


_UP = dict(zip("0123456789+-−=()niabcdefghjklmoprstuvwxyz", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True))
_DOWN = dict(zip("0123456789+-−=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_PRIMES = frozenset("′″‴⁗*†°∗")
_LETTERS = re.compile("[\U0001d400-\U0001d7ff]+")  # bold, script ... letters
_APPLIED = re.compile(r"\s*\u2061\s*(?=[(\[])")  # "\log (n)" needs no space, "\log n" does
_ALONE = re.compile(r"[\w.′⁰¹²³⁴⁵⁶⁷⁸⁹]*|\(.*\)")


def raised(value: str) -> str:
    """Text as a superscript: in Unicode's letters where all of them exist, else behind ^."""
    return _shifted(value, _UP, "^")


def lowered(value: str) -> str:
    """Text as a subscript: in Unicode's letters where all of them exist, else behind _."""
    return _shifted(value, _DOWN, "_")


def _shifted(value: str, letters: dict[str, str], sign: str) -> str:
    value = value.replace(" ", "")
    if not value or set(value) <= _PRIMES:
        return value
    if set(value) <= set(letters):
        return "".join(letters[letter] for letter in value)
    return sign + (value if len(value) == 1 or value.isalnum() else f"({value})")


@lru_cache(maxsize=16384)
def line(source: str) -> str:
    """A formula as one line of text: `\\frac{a}{b^2}` is a/b². Raises Unreadable."""
    said = "".join(_line(_tree(source, False)))
    said = _APPLIED.sub("", said).replace("\u2061", " ").replace("\ufe00", "")
    return " ".join(_LETTERS.sub(lambda match: normalize("NFKD", match[0]), said).split())


def _line(element: Element) -> Iterator[str]:
    """Pieces of text of an element."""
    children = list(element)
    inner = ["".join(_line(child)) for child in children]
    match element.tag:
        case "msup" | "mover" if len(inner) == 2:
            accent = element.tag == "mover" and element.get("accent") == "true"
            yield inner[0] + (_ACCENTS.get(inner[1], inner[1]) if accent else raised(inner[1]))
        case "msub" | "munder" if len(inner) == 2:
            yield inner[0] + lowered(inner[1])
        case "msubsup" | "munderover" if len(inner) == 3:
            yield inner[0] + lowered(inner[1]) + raised(inner[2])
        case "mfrac" if len(inner) == 2:
            yield "/".join(part if _ALONE.fullmatch(part) else f"({part})" for part in inner)
        case "msqrt" | "mroot":
            under = "".join(inner) if element.tag == "msqrt" else inner[0]
            yield "√" + (under if len(under) == 1 else f"({under})")
        case "mtr":
            yield " ".join(part for part in inner if part) + "; "
        case "mtable":
            yield "".join(inner).removesuffix("; ")
        case "mspace":
            yield " " if element.get("width") not in (None, "0", "0em") else ""
        case "mo" if (element.text or "") in _SPACED:
            yield f" {element.text} "
        case _:
            yield element.text or ""
            for child, said in zip(children, inner, strict=True):
                yield said
                yield child.tail or ""


_SPACED = frozenset("=<>≤≥≈∼≠→←⇒∈×+≪≫≔∝")
_ACCENTS = {"^": "\u0302", "ˆ": "\u0302", "˜": "\u0303", "~": "\u0303", "¯": "\u0304", "‾": "\u0304", "˙": "\u0307",
            "→": "\u20d7", "ˇ": "\u030c", "¨": "\u0308"}  # fmt: skip
