"""Charts as SVG text: gains with their intervals, the arms of a record, quality against cost.

Drawings without a script; each mark is a link to what it stands for and has its figures as a title. On a page colours
and type come from the style sheet by class and so follow light and dark (`STYLE`, which the site's sheet repeats); in a
file of its own they are written out. Shape repeats what colour says.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from paperlab.core.card import WITHIN
from paperlab.core.words import clean, number, percent, span

WIDE = 360  # of a chart on a page, in units that are about CSS pixels on a phone
MOST_LABEL = 34  # letters next to a point
LETTER = 7.2  # mean width of a letter, as large as the style sheets make it on a phone

# Colours by their names in the style sheets. Words reach a contrast of 4.5 on their ground in both modes, marks 3.
LIGHT = {
    "ink": "#1b1f24", "soft": "#57606b", "line": "#d5dae1", "strong": "#9aa3af", "ground": "#f7f7f4",
    "paper": "#ffffff", "raised": "#eef0ee", "link": "#0a5ca8", "band": "#e3edf7",
    "holds": "#0b5d1e", "holds-ground": "#ddf3e0", "direction": "#0f5264", "direction-ground": "#d9eff4",
    "fails": "#8f1d14", "fails-ground": "#fbe3e0", "undecided": "#414b58", "undecided-ground": "#e4e8ee",
    "apart": "#553489", "apart-ground": "#ece4f8", "error": "#6f4400", "error-ground": "#fcebc4",
}  # fmt: skip
DARK = {
    "ink": "#e6e9ee", "soft": "#a9b2be", "line": "#2f3640", "strong": "#626c79", "ground": "#101316",
    "paper": "#171b20", "raised": "#20262d", "link": "#7dbbf8", "band": "#1c3047",
    "holds": "#93e4a6", "holds-ground": "#12341c", "direction": "#93d9e9", "direction-ground": "#0f323b",
    "fails": "#ffb3aa", "fails-ground": "#45150f", "undecided": "#c6cdd7", "undecided-ground": "#2b323c",
    "apart": "#cfb9f5", "apart-ground": "#2e2146", "error": "#f5cf85", "error-ground": "#3d2c08",
}  # fmt: skip

STYLE = """\
.plot text { font-family: var(--sans); font-size: 11px; fill: var(--ink); font-variant-numeric: tabular-nums; }
.plot .tick, .plot .axis { fill: var(--soft); font-size: 10px; }
.plot .front, .plot .grid, .plot .whisker { vector-effect: non-scaling-stroke; }
.plot .figure { fill: var(--soft); }
.plot .grid { stroke: var(--line); stroke-width: 1; }
.plot .zero { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 2; }
.plot .band { fill: var(--band); }
.plot .hit { fill: transparent; }
.plot .front { fill: none; stroke: var(--link); stroke-width: 1.5; }
.plot .whisker { stroke: var(--strong); stroke-width: 1.3; }
.plot .whisker.on { stroke: var(--link); }
.plot .leader { stroke: var(--soft); stroke-width: .6; }
.plot a { color: var(--link); text-decoration: none; }
.plot .reach { stroke: currentColor; stroke-width: 2; }
.plot .dot { fill: currentColor; }
.plot .mark { color: var(--undecided); }
.plot .mark.holds { color: var(--holds); }
.plot .mark.direction, .plot .mark.weaker { color: var(--direction); }
.plot .mark.fails { color: var(--fails); }
.plot .mark.apart { color: var(--apart); }
.plot .mark.unfaithful { color: var(--error); }
.plot .mark.on, .plot .mark.method { color: var(--link); }
.plot .mark.baseline { color: var(--error); }
.plot .mark.off .dot, .plot .mark.other .dot { fill: var(--paper); stroke: var(--soft); stroke-width: 1.3; }
.plot .mark.off text { fill: var(--soft); }
"""
_SANS = "'DejaVu Sans', Verdana, 'Liberation Sans', Arial, sans-serif"
_FILE_WIDTH = 1.25  # CSS pixels for a unit where a file is shown by itself


@dataclass(frozen=True)
class Chart:
    """A finished drawing.

    wide, high: in its own units. title: what is drawn. description: its figures in words, for those who cannot see it.
    note: how to read it, one line, which stands under the drawing. parts: the SVG inside.
    """

    wide: float
    high: float
    title: str
    description: str
    note: str
    parts: str

    def inline(self, key: str) -> str:
        """The drawing for a page whose style sheet has STYLE. key: makes its ids unique (letters, digits and "-")."""
        return (
            f'<svg class="plot" viewBox="0 0 {self.wide:g} {self.high:.0f}" role="group" aria-labelledby="{key}-t" '
            f'aria-describedby="{key}-d"><title id="{key}-t">{escape(clean(self.title))}</title>'
            f'<desc id="{key}-d">{escape(clean(self.description))}</desc>{self.parts}</svg>'
        )

    def file(self, heading: str = "", colours: Mapping[str, str] = LIGHT) -> str:
        """The drawing as an SVG file of its own, in one set of colours, with `heading` above and its note below."""
        lines = wrapped(clean(heading), int(self.wide / 7.6)) if heading else []
        top = 8 + 17 * len(lines) if lines else 0
        notes = wrapped(clean(self.note), int((self.wide - 24) / 6)) if self.note else []
        high = top + self.high + 14 * len(notes)
        style = re.sub(r"var\(--([\w-]+)\)", lambda found: colours.get(found[1], _SANS), STYLE)
        above = "".join(f'<text x="12" y="{20 + 17 * i}" class="head">{escape(line)}</text>'
                       for i, line in enumerate(lines))  # fmt: skip
        under = "".join(_text(12, top + self.high + 4 + 14 * i, line, "tick", "start") for i, line in enumerate(notes))
        inside = re.sub(r'<a class="([^"]*)" href="[^"]*">', r'<g class="\1">', self.parts).replace("</a>", "</g>")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {self.wide:g} {high:.0f}" '
            f'width="{self.wide * _FILE_WIDTH:.0f}" height="{high * _FILE_WIDTH:.0f}" role="img">'
            f"<title>{escape(clean(heading or self.title))}</title><desc>{escape(clean(self.description))}</desc>"
            f"<style>{style}.plot .head {{ font-size: 13px; font-weight: bold; }}</style>"
            f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>{above}'
            f'<g transform="translate(0 {top})">{inside}</g>{under}</svg>\n'
        )


@dataclass(frozen=True)
class Bar:
    """One row of `gains` or `arms`: a figure and its interval (NaN: none; infinite: no end).

    note: a word on it, such as the verdict. kind: the class of its colour and shape.
    """

    label: str
    value: float
    low: float
    high: float
    note: str
    kind: str
    href: str


@dataclass(frozen=True)
class Spot:
    """One arm of `pareto`."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    href: str
    front: bool


Scale = Callable[[float], float]
Write = Callable[[float], str]


def gains(
    bars: Sequence[Bar], *, margin: float, expect: str, baseline: str = "the baseline", wide: float = WIDE
) -> Chart | None:
    """Relative gains over the baseline, one row each, with zero and what would count; None where there is none.

    value, low, high of a bar: fractions, positive in the direction of the check. note: the verdict's word. expect: the
    check's.
    """
    known = [bar for bar in bars if math.isfinite(bar.value)]
    if not known:
        return None
    ends = [x for bar in known for x in (bar.value, bar.low, bar.high) if math.isfinite(x)]
    least, most = min([*ends, 0, -margin if expect in WITHIN else 0]), max([*ends, 0, margin])
    unit = max(margin, 0.01)
    bent = max(-least, most) > 25 * unit
    scale = (lambda x: math.asinh(x / unit)) if bent else (lambda x: x)
    at = _across(scale, least, most, wide)
    wanted = linear_ticks(least, most, 4) if not bent else _bent_ticks(least, most, unit)
    top, bottom = _TOP, _TOP + _ROW * len(known)
    first, last = at(-margin if expect in WITHIN else margin), at(margin) if expect == "equal" else wide - 12.0
    band = f'<rect class="band" x="{first:.1f}" y="{top}" width="{max(0, last - first):.1f}" height="{bottom - top}"/>'
    # Not through the words, which stand in the upper part of each row.
    path = "".join(f"M{at(0):.1f} {top + _ROW * i + 18}v{_ROW - 18}" for i in range(len(known)))
    zero = f'<path class="zero" d="{path}"/>'
    axis = "better →" if expect in WITHIN else "as the check expects →"
    description = "; ".join(_in_words(bar, percent) for bar in known)
    level, what = {"equal": (90, "within ±"), "no worse": (90, "above −")}.get(expect, (95, "beyond "))
    note = (
        f"Gain over {baseline}; bars: {level} % intervals; shaded: what the check asks for, {what}{margin * 100:g} %."
    )
    parts = [band, *_rows(known, at, sorted(wanted, key=abs), percent, wide), zero]
    parts.append(_text(wide - 12, bottom + 30, axis, "axis", "end"))
    return Chart(
        wide, bottom + 36, "Relative gain over the baseline with its interval", description, note, "".join(parts)
    )


def arms(bars: Sequence[Bar], *, metric: str, better: str, wide: float = WIDE) -> Chart | None:
    """The figure of each arm with its interval, one row each in the order given; None where none has a figure."""
    known = [bar for bar in bars if math.isfinite(bar.value)]
    if not known:
        return None
    ends = [x for bar in known for x in (bar.value, bar.low, bar.high) if math.isfinite(x)]
    least, most = min(ends), max(ends)
    if least > 0 and most / 20 > least:
        at, ticks = _across(math.log, least, most, wide), log_ticks(least, most)
    else:
        room = 0.0 if most > least else abs(most) * 0.05 or 1.0
        at, ticks = _across(lambda x: x, least - room, most + room, wide), linear_ticks(least, most, 4)
    parts = _rows(known, at, ticks, number, wide, _short)
    axis = f"← {metric}, lower is better" if better == "lower" else f"{metric}, higher is better →"
    bottom = _TOP + _ROW * len(known)
    parts.append(_text(wide - 12, bottom + 30, axis, "axis", "end"))
    note = "Disc: method, square: baseline, diamond: other arms; bars: each arm's own 95 % interval, not paired."
    description = "; ".join(_in_words(bar, number) for bar in known)
    return Chart(wide, bottom + 36, f"{metric} of each arm with its interval", description, note, "".join(parts))


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_ROW, _TOP = 44, 8


def _across(scale: Scale, least: float, most: float, wide: float) -> Scale:
    """From a value to its place between the left and right edge, with room at both; infinite ones on the edge."""
    left, right = 12.0, wide - 12.0
    low, high = scale(least), scale(most)
    reach = (high - low) or 1.0
    low, reach = low - 0.05 * reach, 1.1 * reach

    def at(x: float) -> float:
        if math.isinf(x):
            return left if x < 0 else right
        return left + (scale(x) - low) / reach * (right - left)

    return at


def _rows(
    bars: Sequence[Bar], at: Scale, ticks: Sequence[float], write: Write, wide: float, tick: Write | None = None
) -> list[str]:
    """Grid with those ticks that have room, the first ones first, and the bars."""
    bottom = _TOP + _ROW * len(bars)
    parts: list[str] = []
    kept: list[float] = []
    for x in ticks:
        if 16 < at(x) < wide - 16 and all(abs(at(x) - at(other)) > 46 for other in kept):
            kept.append(x)
            parts.append(f'<line class="grid" x1="{at(x):.1f}" x2="{at(x):.1f}" y1="{_TOP}" y2="{bottom}"/>')
            parts.append(_text(at(x), bottom + 14, (tick or write)(x), "tick", "middle"))
    return parts + [_row(bar, at, _TOP + _ROW * i, write, wide) for i, bar in enumerate(bars)]


def _row(bar: Bar, at: Scale, y: float, write: Write, wide: float) -> str:
    line, right = y + 30, wide - 12.0
    parts = [
        f'<a class="mark {bar.kind}" href="{escape(bar.href)}"><title>{escape(clean(_in_words(bar, write)))}</title>',
        f'<rect class="hit" x="0" y="{y}" width="{wide:g}" height="42"/>',
    ]
    whole = int((wide - 24) / LETTER) - 2
    figure = f"{write(bar.value)} {span(bar.low, bar.high, write)}".strip()
    if len(bar.label) + len(figure) > whole:  # the interval is drawn anyway
        figure = write(bar.value)
    parts.append(_text(12, y + 14, fitting(bar.label, whole - len(figure)), "name", "start"))
    parts.append(_text(right, y + 14, figure, "figure", "end"))
    if bar.low == bar.low and bar.high == bar.high:
        x1, x2 = at(bar.low), at(bar.high)
        parts.append(f'<line class="reach" x1="{x1:.1f}" x2="{x2:.1f}" y1="{line}" y2="{line}"/>')
        for x, end in ((x1, bar.low), (x2, bar.high)):
            if math.isfinite(end):
                parts.append(f'<line class="reach" x1="{x:.1f}" x2="{x:.1f}" y1="{line - 4}" y2="{line + 4}"/>')
    parts.append(_shape(bar.kind, at(bar.value), line))
    return "".join([*parts, "</a>"])


def _in_words(bar: Bar, write: Write) -> str:
    figure = f"{bar.label}: {write(bar.value)} {span(bar.low, bar.high, write)}".strip()
    return f"{figure}, {bar.note}" if bar.note else figure


def fitting(text: str, room: int) -> str:
    """At most `room` letters; what is too long loses its middle."""
    if len(text) <= room:
        return text
    return text[: max(1, room * 2 // 3)] + "…" + text[len(text) - max(0, room - room * 2 // 3 - 1) :]


def wrapped(text: str, width: int) -> list[str]:
    """Broken at words into lines of at most `width` letters, longer words whole."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _bent_ticks(least: float, most: float, unit: float) -> list[float]:
    powers = [unit * 10**i for i in range(8)]
    return [0.0, *(p for p in powers if p <= most), *(-p for p in powers if -p >= least)]


def _shape(kind: str, x: float, y: float) -> str:
    """A disc for what holds and the method, a square for what fails and the baseline, a diamond for the rest."""
    if kind in ("holds", "on", "method"):
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if kind in ("fails", "baseline"):
        return f'<rect class="dot" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'<path class="dot" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two."""
    reach = (high - low) or abs(high) or 1.0
    if reach < 1e-300 or reach < 1e-13 * max(abs(low), abs(high)):
        return []  # no round numbers between them
    step = 10 ** math.floor(math.log10(reach / count))
    step *= next(m for m in (1, 2, 5, 10) if reach / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two; the powers alone where there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = (1, 2, 5) if last - first <= 2 else (1,)
    return [m * 10.0**e for e in range(first, last + 1) for m in every if low <= m * 10.0**e <= high]


# ── quality against cost ─────────────────────────────────────────────────────────────────────────────────────────


def pareto(
    spots: Sequence[Spot], *, cost: str, quality: str, better: Literal["lower", "higher"], wide: float = WIDE
) -> Chart | None:
    """Quality against cost with the intervals of quality, the front as a stair; None where no arm has both.

    Labels stand where there is room, those of the front first; what lies off it is named only close to its point.
    """
    known = [s for s in spots if math.isfinite(s.cost) and math.isfinite(s.value)]
    if not known:
        return None
    left, right, top, bottom = 46.0, wide - 12.0, 20.0, 262.0 if wide <= WIDE else 0.6 * wide
    frame = (left, top, right, bottom)
    x, x_ticks = _axis([s.cost for s in known], left, right)
    y, y_ticks = _axis(_with_ends(known), bottom, top)
    parts = []
    for tick in x_ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom:g}"/>')
    for tick, place in _apart([(tick, x(tick)) for tick in x_ticks], 40):
        parts.append(_text(place, bottom + 14, _short(tick), "tick across", "middle"))
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right:g}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
    for tick, place in _apart([(tick, y(tick)) for tick in y_ticks], 14):
        parts.append(_text(left - 5, place + 4, _short(tick), "tick", "end"))
    taken = [(x(s.cost) - 6, y(s.value) - 6, x(s.cost) + 6, y(s.value) + 6) for s in known]
    front = sorted((s for s in known if s.front), key=lambda s: (s.cost, s.value))
    if len(front) > 1:
        path = f"M{x(front[0].cost):.1f} {y(front[0].value):.1f}"
        path += "".join(f"H{x(s.cost):.1f}V{y(s.value):.1f}" for s in front[1:])
        parts.append(f'<path class="front" d="{path}"/>')
        for one, next_ in itertools.pairwise(front):
            taken.append((x(one.cost), y(one.value) - 1, x(next_.cost), y(one.value) + 1))
            ends = sorted((y(one.value), y(next_.value)))
            taken.append((x(next_.cost) - 1, ends[0], x(next_.cost) + 1, ends[1]))
    order = sorted(known, key=lambda s: s.front)  # the front on top
    crossed: list[Box] = []  # intervals of what lies off the front; only labels from there keep clear of them
    for s in order:
        if s.low == s.low and s.high == s.high:
            ends = sorted(min(max(y(end), top), bottom) for end in (s.low, s.high))
            kind = "whisker on" if s.front else "whisker"
            at = f'x1="{x(s.cost):.1f}" x2="{x(s.cost):.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"'
            parts.append(f'<line class="{kind}" {at}/>')
            (taken if s.front else crossed).append((x(s.cost) - 1, ends[0], x(s.cost) + 1, ends[1]))
    labelled = {}
    for s in reversed(order):
        if not s.front:
            taken, crossed = taken + crossed, []
        labelled[s] = _place(s, x(s.cost), y(s.value), taken, frame)
    for s in order:
        tooltip = f"{s.label}: {quality} {number(s.value)} {span(s.low, s.high)}, {cost} {number(s.cost)}"
        kind = "on" if s.front else "off"
        parts.append(f'<a class="mark {kind}" href="{escape(s.href)}"><title>{escape(clean(tooltip))}</title>')
        parts.append(f'<circle class="hit" cx="{x(s.cost):.1f}" cy="{y(s.value):.1f}" r="12"/>')
        parts.append(labelled[s])
        parts.append(_shape(kind, x(s.cost), y(s.value)) + "</a>")
    parts.append(_text(right, bottom + 28, f"{cost} (less is better)", "axis", "end"))
    parts.append(_text(4, 12, f"{quality} ({better} is better)", "axis", "start"))
    description = "; ".join(f"{s.label}: {number(s.value)} at {number(s.cost)}" for s in front)
    title = f"{quality} against {cost}; on the front: {len(front)} of {len(known)}"
    unnamed = sum(not text for text in labelled.values())
    note = "Discs are on the front; bars: each arm's own 95 % interval" + (f"; {unnamed} not named" * bool(unnamed))
    return Chart(wide, bottom + 36, title, description, f"{note}.", "".join(parts))


def _with_ends(spots: Sequence[Spot]) -> list[float]:
    """The values and the ends of their intervals, these as far as they widen the axis by no more than a third."""
    values = [s.value for s in spots]
    ends = [x for s in spots for x in (s.low, s.high) if math.isfinite(x)]
    low, high = min(values), max(values)
    if low > 0 and high / 8 > low:
        room = math.exp((math.log(high) - math.log(low)) / 3)
        least, most = low / room, high * room
    else:
        room = (high - low) / 3 or math.inf
        least, most = low - room, high + room
    return [*values, *(min(max(x, least), most) for x in ends)]


def _axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """A scale from values to places, and its ticks.

    Logarithmic over more than a factor of eight, linear near zero (logarithm of 1 + v) where a 0 is among them. Twelve
    powers of ten are shown at most; what lies below stands on the edge.
    """
    low, high = min(values), max(values)
    least = min((v for v in values if v > 0), default=0.0)
    least = max(least, high * 1e-12)
    if low > 0 and high > 8 * least:
        reach = math.log(high) - math.log(least)
        first = math.log(least) - 0.06 * reach
        scale = lambda v: (math.log(max(v, least)) - first) / (1.12 * reach)  # noqa: E731
        ticks = log_ticks(least, high)
    elif low == 0 and least > 0 and high > 8 * least:
        reach = math.log1p(high / least)
        scale = lambda v: math.copysign(math.log1p(abs(v) / least), v) / (1.14 * reach) + 0.06  # noqa: E731
        ticks = [0.0, *log_ticks(least, high)]
    else:
        pad = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - pad, high + pad
        scale = lambda v: (v - low) / (high - low)  # noqa: E731
        ticks = linear_ticks(low, high, 5)
    return (lambda v: start + scale(v) * (end - start)), ticks


def _apart(ticks: Sequence[tuple[float, float]], least: float) -> Iterator[tuple[float, float]]:
    """Those (value, place) whose words have room."""
    kept: list[float] = []
    for value, place in ticks:
        if all(abs(place - other) >= least for other in kept):
            kept.append(place)
            yield value, place


Box = tuple[float, float, float, float]


def _place(spot: Spot, x: float, y: float, taken: list[Box], frame: Box) -> str:
    """The label of a point where it has room, its place then taken; "" where there is none.

    A label far from its point gets a thin line that leads to it; only those of the front may be far.
    """
    label = fitting(clean(spot.label), MOST_LABEL)
    wide = LETTER * len(label)
    near = (
        (9, -7),
        (9, 14),
        (-wide - 9, -7),
        (-wide - 9, 14),
        (9, 4),
        (-wide - 9, 4),
        (-wide / 2, -11),
        (-wide / 2, 20),
    )
    far = [(side, up) for up in (-22, 28, -36, 42, -50, 56) for side in (8.0, -wide - 8, -wide / 2)]
    for dx, dy in (*near, *(far if spot.front else ())):
        box = (x + dx, y + dy - 9, x + dx + wide, y + dy + 3)
        inside = box[0] >= frame[0] and box[2] <= frame[2] and box[1] >= frame[1] - 6 and box[3] <= frame[3]
        if inside and not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
            taken.append(box)
            leader = ""
            if abs(dy) > 20:
                to = min(max(x, box[0]), box[2]), box[1] if dy > 0 else box[3]
                leader = f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{to[0]:.1f}" y2="{to[1]:.1f}"/>'
            return leader + _text(x + dx, y + dy, label, "name", "start")
    return ""


def _short(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−") if abs(value) < 1e5 else f"{value:.0e}"


def _text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(clean(words))}</text>'
