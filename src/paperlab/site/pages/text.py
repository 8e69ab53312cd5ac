"""Text from outside as HTML: everything escaped, formulas as MathML, what TeX says of emphasis, letters and links."""

from functools import lru_cache
from html import escape

from django.utils.safestring import SafeString, mark_safe

from paperlab.site import maths, tex
from paperlab.site.pages import addresses
from paperlab.site.tex import plain

__all__ = ["beginning", "paragraphs", "plain", "rich"]


@lru_cache(maxsize=4096)
def rich(value: str, lines: bool = True, links: bool = False, drawn: bool = True) -> SafeString:
    """One line or paragraph as HTML. lines: formulas may stand on lines of their own. links: addresses that TeX marks
    become links; not inside another link. drawn: formulas are MathML; without, as lists of many papers have them, they
    are letters of Unicode on the line, for which no type of mathematics is fetched."""
    made, address = [], ""
    for kind, said, _, _ in tex.pieces(value):
        if kind == "text":
            made.append(escape(said))
        elif kind in ("maths", "display"):
            made.append(maths.html(said, lines and kind == "display") if drawn else escape(tex.line(said)))
        elif kind in ("open", "close"):
            made.append(f"<{said}>" if kind == "open" else f"</{said}>")
        elif kind == "link" and links and (address := addresses.web(said)):
            made.append(f'<a href="{escape(address)}" rel="noreferrer nofollow">')
        elif kind == "unlink" and address:
            made.append("</a>")
            address = ""
    return mark_safe("".join(made))


def paragraphs(value: str) -> SafeString:
    """Text with empty lines between its paragraphs as HTML."""
    return mark_safe("".join(f"<p>{rich(part, links=True)}</p>" for part in value.split("\n\n") if part.strip()))


def beginning(value: str, size: int = 320) -> str:
    """About the first `size` characters, ended at a word, never inside a formula."""
    if len(value) <= size:
        return value
    end = value.rfind(" ", 0, size)
    end = end if end > size // 2 else size
    for piece in tex.pieces(value[: size + maths.LIMIT]):
        if piece.kind in ("maths", "display") and piece.start < end < piece.end:
            end = piece.start
    return value[:end].rstrip(" ,;:") + " …"
