"""Text from outside as HTML: everything escaped, maths between dollar signs as MathML, a few words of TeX understood.

MathML is made here, on the server: browsers lay it out by themselves, so no script and no fonts are sent for it, and
nothing moves when it appears. Only elements and attributes of a short list reach the page.
"""

import re
from functools import lru_cache
from html import escape, unescape
from xml.etree.ElementTree import Element

from django.utils.safestring import SafeString, mark_safe

FORMULA = 400  # characters; what is longer is shown as it is written
_MATHS = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|\\\[(?P<bracket>(?:(?!\\\[).)+?)\\\]|\\\((?P<round>(?:(?!\\\().)+?)\\\)"
    r"|(?<![\\$\w])\$(?![\s$])(?P<inline>[^$]+?)(?<![\s\\])\$(?![\d$])",
    re.DOTALL,
)
_ELEMENTS = frozenset(
    ("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msub", "msup", "msubsup", "munder", "mover",
     "munderover", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd", "mpadded", "mphantom", "menclose", "mstyle")
)  # fmt: skip
_ATTRIBUTES = frozenset(
    ("display", "mathvariant", "stretchy", "fence", "form", "accent", "accentunder", "separator", "largeop",
     "movablelimits", "symmetric", "lspace", "rspace", "linethickness", "columnalign", "rowalign", "displaystyle",
     "scriptlevel", "width", "height", "depth", "minsize", "maxsize")
)  # fmt: skip
_VALUE = re.compile(r"[\w.%+ -]{0,40}")
_WORDS = {"emph": "em", "textit": "em", "textbf": "strong", "texttt": "code"}
_MARKUP = re.compile(r"\\(emph|textit|textbf|texttt|textsc|textrm|text)\{([^{}]*)\}|\\([%&_#$])|(?<=\w)~(?=\w)")


@lru_cache(maxsize=4096)
def formula(source: str, display: bool = False) -> str:
    """One formula of TeX as MathML; as it is written where it cannot be read."""
    from latex2mathml.converter import convert_to_element

    written = f'<code class="tex">{escape(source)}</code>'
    if len(source) > FORMULA:
        return written
    try:
        made = convert_to_element(source, display="block" if display else "inline")
        return _safe(made, source)
    except Exception:  # the converter raises what it likes on what is no TeX, RecursionError too
        return written


def _safe(element: Element, source: str = "") -> str:
    if element.tag not in _ELEMENTS:
        raise ValueError(element.tag)
    kept = "".join(
        f' {name}="{escape(value)}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _VALUE.fullmatch(value)
    )
    if source:
        kept += f' alttext="{escape(source)}"'
    inside = escape(unescape(element.text or "")) + "".join(
        _safe(child) + escape(unescape(child.tail or "")) for child in element
    )
    return f"<{element.tag}{kept}>{inside}</{element.tag}>"


@lru_cache(maxsize=4096)
def rich(value: str, lines: bool = True) -> SafeString:
    """One line or paragraph as HTML. lines: formulas may stand on lines of their own."""
    if "$" not in value and "\\" not in value and "~" not in value:
        return mark_safe(escape(value))
    parts, at = [], 0
    for match in _MATHS.finditer(value):
        parts.append(_words(value[at : match.start()]))
        display = match["display"] or match["bracket"]
        parts.append(formula((display or match["round"] or match["inline"]).strip(), lines and bool(display)))
        at = match.end()
    parts.append(_words(value[at:]))
    return mark_safe("".join(parts))


def _words(value: str) -> str:
    """Text between formulas."""
    parts, at = [], 0
    for match in _MARKUP.finditer(value):
        parts.append(escape(value[at : match.start()]))
        tag = _WORDS.get(match[1] or "")
        if match[1]:
            parts.append(f"<{tag}>{escape(match[2])}</{tag}>" if tag else escape(match[2]))
        else:
            parts.append(escape(match[3]) if match[3] else "\u00a0")
        at = match.end()
    parts.append(escape(value[at:]))
    return "".join(parts)


def paragraphs(value: str) -> SafeString:
    """Text with empty lines between its paragraphs as HTML."""
    return mark_safe("".join(f"<p>{rich(part)}</p>" for part in value.split("\n\n") if part.strip()))


def plain(value: str) -> str:
    """Text without TeX's signs, for places that hold no markup: the title of a window, an image."""
    bare = _MATHS.sub(lambda match: next(part for part in match.groups() if part), value)
    bare = _MARKUP.sub(lambda match: match[2] if match[1] else match[3] or " ", bare)
    return " ".join(re.sub(r"\\[a-zA-Z]+\s*|[{}]", "", bare).split())


def beginning(value: str, size: int = 320) -> str:
    """About the first `size` characters, ended at a word, never inside a formula."""
    if len(value) <= size:
        return value
    end = value.rfind(" ", 0, size)
    end = end if end > size // 2 else size
    for match in _MATHS.finditer(value[: size + FORMULA]):
        if match.start() < end < match.end():
            end = match.start()
    return value[:end].rstrip(" ,;:") + " …"
