"""The picture of a paper for where its address is shared: its title, and how its checks came out.

A PNG, because the sites that show such pictures take no SVG; drawn with Pillow, because turning SVG into PNG would
take a browser or a C library of its own for three lines of text.
"""

import io
import unicodedata
from functools import lru_cache
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from PIL import Image, ImageDraw, ImageFont

from paperlab.site import tex
from paperlab.site.api import shapes
from paperlab.site.pages import cards, text
from paperlab.site.pages.atom import conditional
from paperlab.site.pages.paper import find
from paperlab.site.records import record_index

SIZE = (1200, 630)
_FONT = Path(__file__).parent / "static" / "pages" / "vendor" / "newsreader-5.3.0.woff2"
_GROUND, _INK, _SOFT, _LINK = "#f7f7f4", "#1b1f24", "#57606b", "#0a5ca8"
COLOURS = {  # of each class of verdict: ink, ground
    "holds": ("#0b5d1e", "#ddf3e0"),
    "direction": ("#0f5264", "#d9eff4"),
    "weaker": ("#0f5264", "#d9eff4"),
    "fails": ("#8f1d14", "#fbe3e0"),
    "undecided": ("#414b58", "#e4e8ee"),
    "apart": ("#553489", "#ece4f8"),
    "error": ("#6f4400", "#fcebc4"),
    "unfaithful": ("#6f4400", "#fcebc4"),
    "unrun": ("#57606b", "#eef0ee"),
}
_LETTERS = frozenset(map(chr, [*range(0x20, 0x7F), *range(0xA0, 0x100), *map(ord, "–—‘’“”…−′€•ıŒœ→")]))
Badges = tuple[tuple[str, str], ...]  # class, words


def _font(size: int, weight: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(str(_FONT), size)
    font.set_variation_by_axes([weight])
    return font


def drawable(words: str) -> str:
    """Text in the letters that the type has: accents it lacks are left off, and so are other scripts."""
    found = []
    for letter in words:
        plain = letter if letter in _LETTERS else unicodedata.normalize("NFKD", letter)
        found.append("".join(one for one in plain if one in _LETTERS))
    return " ".join("".join(found).split())


def wrapped(words: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Text in at most `most` lines that fit; the last one ends in "…" where something is left."""
    lines: list[str] = []
    left = words.split()
    while left and len(lines) < most:
        line = left.pop(0)
        while font.getlength(line) > width:
            line = line[:-1]
        while left and font.getlength(f"{line} {left[0]}") <= width:
            line += f" {left.pop(0)}"
        lines.append(line)
    if left:
        last = lines[-1]
        while last and font.getlength(f"{last} …") > width:
            last = last[:-1]
        lines[-1] = f"{last.rstrip()} …"
    return lines


@lru_cache(maxsize=256)
def draw(title: str, under: str, badges: Badges) -> bytes:
    """The picture as PNG."""
    image = Image.new("RGB", SIZE, _GROUND)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, 14, SIZE[1]), fill=_LINK)
    pen.text((80, 62), "paper", font=_font(40, 600), fill=_INK)
    pen.text((80 + _font(40, 600).getlength("paper"), 62), "lab", font=_font(40, 600), fill=_LINK)
    size = next(s for s in (68, 58, 50, 44) if s == 44 or len(wrapped(title, _font(s, 600), 1040, 4)) <= 3)
    y = 150.0
    for line in wrapped(title, _font(size, 600), 1040, 4):
        pen.text((80, y), line, font=_font(size, 600), fill=_INK)
        y += size * 1.2
    pen.text((80, y + 14), wrapped(under, _font(30, 400), 1040, 1)[0] if under else "", font=_font(30, 400), fill=_SOFT)
    x, small = 80.0, _font(34, 600)
    for kind, words in badges:
        ink, ground = COLOURS.get(kind, COLOURS["undecided"])
        wide = small.getlength(words) + 48
        if x + wide > 1130:
            break
        pen.rounded_rectangle((x, 520, x + wide, 576), radius=28, fill=ground, outline=ink, width=2)
        pen.text((x + 24, 547), words, font=small, fill=ink, anchor="lm")
        x += wide + 14
    if not badges:
        pen.text((80, 547), "Papers you can run", font=_font(32, 400), fill=_SOFT, anchor="lm")
    out = io.BytesIO()
    image.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()


@conditional
def card(request: HttpRequest, name: str) -> HttpResponse:
    """The picture of one paper."""
    row = find(name)
    badges = tuple((one.kind, one.label) for one in cards.badges(row.slug, record_index()))
    names = tex.names(row.authors[:3])
    year = row.published.year if row.published else row.year
    under = " · ".join(part for part in (", ".join(names), row.family, str(year or "")) if part)
    title = drawable(text.plain(row.title)[:400]) or f"Paper {shapes.public_id(row)}"
    return HttpResponse(draw(title, drawable(under), badges), content_type="image/png")
