"""The badge for a README: how a paper's main claim fared here, in the words of its page, as an SVG of about a kilobyte.

It draws its own ground, so it is as legible on a dark page as on a light one, and it loads nothing: no font, no style.
"""

from html import escape

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from paperlab.site.pages import cards, text
from paperlab.site.pages.atom import conditional
from paperlab.site.pages.paper import find
from paperlab.site.pages.pictures import COLOURS
from paperlab.site.records import RecordIndex, record_index
from paperlab.site.store.models import Paper

LEFT = "paperlab"
LONG = 60  # characters beyond which models are counted, not named
MINUTES = 5  # for which whoever shows it need not ask again
_SIZE, _HEIGHT, _SIDE = 11, 20, 7  # of the type, of the badge, beside the words, in pixels
_SLATE, _EDGE = "#2f3740", "#8b949e"
# Advances of DejaVu Sans, almost Verdana's, in thousandths of the type's size: ASCII from the space on.
_ADVANCES = (
    "318 401 460 838 636 950 780 275 390 390 500 838 318 361 318 337 636 636 636 636 636 636 636 636 636 636 "
    "337 337 838 838 838 531 1000 684 686 698 770 632 575 775 752 295 295 656 557 863 748 787 603 787 695 635 "
    "611 732 684 989 685 611 685 390 337 390 838 500 500 613 635 550 635 615 352 635 634 278 278 579 278 974 "
    "634 612 635 635 411 521 392 634 592 818 592 592 525 636 337 636 838 "
)
_WIDTHS = [int(one) for one in _ADVANCES.split()]


def width(words: str) -> float:
    """The width of words on the badge, in pixels."""
    advances = (_WIDTHS[ord(c) - 32] if 32 <= ord(c) < 127 else 700 for c in words)
    return round(sum(advances) * _SIZE / 1000, 1)


def words(row: Paper, known: RecordIndex) -> tuple[str, str, str]:
    """(the words on a paper's badge, the same with all models named, their class)."""
    badges = cards.badges(row.slug, known)
    if not badges:
        return "not checked here", "no check of its claims is written here", "unrun"
    whole = "; ".join(badge.line for badge in badges)
    counts = known.counts.get(row.slug or "", {})
    short = whole if len(whole) <= LONG else ", ".join(f"{badge.label} ({counts[badge.word]})" for badge in badges)
    kind = badges[0].kind if len(badges) == 1 else cards.SIGNS["mixed"][0]
    if any(one["outdated"] for one in known.mains.get(row.slug or "", [])):
        short, whole = f"{short} (outdated)", f"{whole} (outdated: the code or data changed since)"
    return short, whole, kind


def svg(right: str, means: str, kind: str) -> bytes:
    """The picture. right: its words; means: what a screen reader says; kind: a verdict's class."""
    ground = COLOURS.get(kind, COLOURS["undecided"])[0]
    first, second = width(LEFT), width(right)
    edge = round(first + 2 * _SIDE, 1)
    whole = round(edge + second + 2 * _SIDE, 1)
    said = escape(means)
    # textLength: wherever another font is at hand, its letters are spaced to the same width.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{_HEIGHT}" viewBox="0 0 {whole} {_HEIGHT}" '
        f'role="img" aria-label="{said}"><title>{said}</title>'
        f'<rect x=".5" y=".5" width="{round(whole - 1, 1)}" height="{_HEIGHT - 1}" rx="3" fill="{ground}" '
        f'stroke="{_EDGE}"/><path d="M{edge} 1H3.5A2.5 2.5 0 0 0 1 3.5v13A2.5 2.5 0 0 0 3.5 19H{edge}z" '
        f'fill="{_SLATE}"/><g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="{_SIZE}">'
        f'<text x="{_SIDE}" y="14" textLength="{first}">{LEFT}</text>'
        f'<text x="{round(edge + _SIDE, 1)}" y="14" textLength="{second}">{escape(right)}</text></g></svg>'
    ).encode()


@conditional
def _known(request: HttpRequest, name: str) -> HttpResponse:
    try:
        row = find(name)
    except Http404:
        missing = svg("unknown paper", f"paperlab: there is no paper {text.plain(name)[:80]} here", "unrun")
        return HttpResponse(missing, content_type="image/svg+xml", status=404)
    short, whole, kind = words(row, record_index())
    means = f"paperlab: {text.plain(row.title)}: {whole}"
    return HttpResponse(svg(short, means, kind), content_type="image/svg+xml")


@require_safe
def badge(request: HttpRequest, name: str) -> HttpResponse:
    """The badge of one paper; one that is not here has a badge that says so."""
    answer = _known(request, name)
    answer.headers["Cache-Control"] = f"public, max-age={60 * MINUTES}"
    # READMEs are other people's pages: they may show it.
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return answer
