"""Charts as SVG text: gains with their intervals, the configurations of a record, quality against cost.

Drawings without a script; each mark is a link to what it stands for and has its figures as a title. On a page colours
and type come from the style sheet by class and so follow light and dark (`STYLE`, which the site's sheet repeats); in a
file of its own they are written out. Shape repeats what colour says.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
.plot .mark.original { color: var(--ink); }
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
    """One configuration of `pareto`. reference: whether it is the original, which the others are compared with; broken:
    whether it no longer works."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    href: str
    front: bool
    reference: bool = False
    broken: bool = False


Scale = Callable[[float], float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
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
    """The figure of each configuration with its interval, one row each in order; None where none has a figure."""
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
    note = "Circle: method; square: baseline; diamond: others; bars: 95 % interval of each configuration, not paired."
    description = "; ".join(_in_words(bar, number) for bar in known)
    return Chart(
        wide, bottom + 36, f"{metric} of each configuration with its interval", description, note, "".join(parts)
    )


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


_OUTWARD = {"up": "m0-6 6.5 11h-13z", "down": "m0 6 6.5-11h-13z", "right": "m6 0-11 6.5v-13z"}  # from the middle


def _shape(kind: str, x: float, y: float) -> str:
    """A circle for what holds and the method, a square for what fails, the baseline and the original, a triangle for
    what lies beyond an axis, a diamond for the rest."""
    if kind in ("holds", "on", "method"):
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if kind in _OUTWARD:
        return f'<path class="dot" d="M{x:.1f} {y:.1f}{_OUTWARD[kind]}"/>'
    if kind in ("fails", "baseline", "original"):
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
    """Quality against cost with the intervals of quality, the front as a stair; None where no spot has both.

    A few that would take more than half of an axis from the others stand as triangles in a lane at its edge, which says
    how far they go. Labels stand where there is room, those of the front first; what lies off it is named only close to
    its point. A label never touches a point, an axis or another label, in the widest of the usual fonts.
    """
    worst = math.inf if better == "lower" else -math.inf
    known = [s for s in spots if math.isfinite(s.cost) and (math.isfinite(s.value) or s.value == worst)]
    if not any(math.isfinite(s.value) for s in known):
        return None
    sign = 1 if better == "lower" else -1
    kept = [s.front or s.reference for s in known]
    over = _beyond([s.cost for s in known], kept, [False] * len(known))
    under = _beyond([sign * s.value for s in known], kept, [s.broken for s in known])
    across = _axis([s.cost for s in known], over, [s.cost for s, out in zip(known, over, strict=True) if not out])
    up = _axis(
        [s.value for s in known],
        under,
        _with_ends([s for s, out in zip(known, under, strict=True) if not out]),
        down=sign < 0,
    )
    left = 10 + max([30.0, *(text_width(_short(tick)) for tick in up.ticks)])
    right, top, bottom = wide - 12.0, 22.0, 262.0 if wide <= WIDE else 0.6 * wide
    x, y = across.over(left, right), up.over(bottom, top)
    places = {s: (x(s.cost), y(s.value)) for s in known}

    parts, taken = [], [(px - 7, py - 7, px + 7, py + 7) for px, py in places.values()]
    parts += _grid(across, up, x, y, (left, top, right, bottom), wide)
    taken += [(place - 1, top, place + 1, bottom) for place in across.breaks(left, right)]
    taken += [(left, place - 1, right, place + 1) for place in up.breaks(bottom, top)]
    below = bottom + 31
    parts.append(_text(right, below, f"{cost} (less is better)", "axis", "end"))
    parts.append(_text(4, 12, fitting(f"{quality} ({better} is better)", int(wide / LETTER)), "axis", "start"))
    if any(under):
        furthest = max((s.value for s, out in zip(known, under, strict=True) if out), key=lambda v: sign * v)
        lane = top if sign > 0 else bottom - 17  # the outer half of the lane
        words = f"{'↑' if sign > 0 else '↓'} {sum(under)} beyond the axis, {_to(furthest, sign)}"
        parts.append(_text(left + 4, lane + 11, words, "axis", "start"))
        taken.append((left, lane, left + 4 + text_width(words), lane + 15))
    if any(over):
        below += 15
        furthest = max(s.cost for s, out in zip(known, over, strict=True) if out)
        parts.append(_text(right, below, f"{sum(over)} beyond the axis, {_to(furthest, 1)} →", "axis", "end"))

    front = sorted((s for s in known if s.front), key=lambda s: (s.cost, s.value))
    if len(front) > 1:
        (px, py), path = places[front[0]], ""
        for s in front[1:]:
            nx, ny = places[s]
            path += f"H{nx:.1f}V{ny:.1f}"
            taken += [(px, py - 1, nx, py + 1), (nx - 1, min(py, ny), nx + 1, max(py, ny))]
            px, py = nx, ny
        parts.append(f'<path class="front" d="M{places[front[0]][0]:.1f} {places[front[0]][1]:.1f}{path}"/>')
    order = sorted(known, key=lambda s: (s.front, s.reference))  # the front on top
    crossed: list[Box] = []  # intervals of what lies off the front; only labels from there keep clear of them
    for s, out in zip(known, under, strict=True):
        if s.low == s.low and s.high == s.high and not out:
            px, ends = places[s][0], sorted(up.within(y, end) for end in (s.low, s.high))
            kind = "whisker on" if s.front else "whisker"
            at = f'x1="{px:.1f}" x2="{px:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"'
            parts.append(f'<line class="{kind}" {at}/>')
            (taken if s.front else crossed).append((px - 1, ends[0], px + 1, ends[1]))
    labelled = {}
    for s in reversed(order):
        if not s.front:
            taken, crossed = taken + crossed, []
        labelled[s] = _place(s, *places[s], taken, (left, top, right, bottom))
    off = {s: "right" if far else "up" if sign > 0 else "down"
           for s, far, bad in zip(known, over, under, strict=True) if far or bad}  # fmt: skip
    for s in order:
        tooltip = f"{s.label}: {quality} {number(s.value)} {span(s.low, s.high)}, {cost} {number(s.cost)}"
        tooltip += "; beyond the axis" * (s in off) + "; broken" * s.broken
        kind = "on" if s.front else "original" if s.reference else "off"
        px, py = places[s]
        parts.append(f'<a class="mark {kind}" href="{escape(s.href)}"><title>{escape(clean(tooltip))}</title>')
        parts.append(f'<circle class="hit" cx="{px:.1f}" cy="{py:.1f}" r="12"/>')
        parts.append(labelled[s])
        parts.append(_shape(off.get(s, kind), px, py) + "</a>")
    description = "; ".join(f"{s.label}: {number(s.value)} at {number(s.cost)}" for s in front)
    title = f"{quality} against {cost}; Pareto front: {len(front)} of {len(known)}"
    unnamed = sum(not text for text in labelled.values())
    notes = ["Filled circles: Pareto front"] + ["square: the original"] * any(s.reference for s in known)
    notes += ["triangles: beyond the axis"] * bool(off) + ["bars: 95 % interval of each configuration"]
    notes += [f"{unnamed} not named"] * bool(unnamed)
    return Chart(wide, below + 8, title, description, f"{'; '.join(notes)}.", "".join(parts))


LANE = 32  # units at the edge of an axis for what lies beyond it


def _beyond(values: Sequence[float], kept: Sequence[bool], broken: Sequence[bool]) -> list[bool]:
    """Which values, of which less is better, stand beyond the axis.

    The worst ones, as far as they lie farther from all others than these lie apart, so that they would take more than
    half of the axis; a quarter of the values at most, or as many as are broken. What is to be kept stays.
    """
    positive = all(v > 0 for v in values)
    low, high = min(values), max(v for v in values if math.isfinite(v))
    bent = math.log if positive and high > 8 * low else float
    order = sorted(range(len(values)), key=lambda i: values[i])
    most = max(len(values) // 4, sum(broken))
    places = [bent(values[i]) if math.isfinite(values[i]) else math.inf for i in order]
    cut = len(order)
    for n in range(len(order) - 1, max(2, len(order) - most) - 1, -1):
        if kept[order[n]]:
            break
        reach = places[n - 1] - places[0]
        if places[n] == math.inf or 0 < reach < places[n] - places[n - 1]:
            cut = n
    out = set(order[cut:])
    return [i in out or math.isinf(v) for i, v in enumerate(values)]


def _to(value: float, sign: int) -> str:
    return f"{'up' if sign > 0 else 'down'} to {number(value)}"


@dataclass(frozen=True)
class _Axis:
    """An axis between `low` and `high`, and the lanes at its ends. scale: its values, made even.

    far: lane of what lies beyond, at the upper end, or the lower one if `down`. zero: lane at the lower end for a 0,
    which a logarithm has no place for. out: values that lie beyond.
    """

    scale: Scale
    low: float
    high: float
    ticks: tuple[float, ...]
    far: bool
    zero: bool
    down: bool
    out: frozenset[float]

    def over(self, start: float, end: float) -> Scale:
        """From values to places between `start` and `end`."""
        side = math.copysign(1, end - start)
        mark = side * (LANE - 10)  # marks stand in the inner part of a lane, its words in the outer
        first, last = self._inner(start, end)
        low, high = self.scale(self.low), self.scale(self.high)

        def at(v: float) -> float:
            if v in self.out:
                return first - mark / 2 + side * 3 if self.down else last + mark / 2 - side * 2
            if self.zero and v <= 0:
                return first - side * 10
            return first + (self.scale(v) - low) / (high - low) * (last - first)

        return at

    def _inner(self, start: float, end: float) -> tuple[float, float]:
        side = math.copysign(1, end - start)
        before = (LANE if self.far and self.down else 0) or (20 if self.zero else 0)
        return start + side * before, end - side * (LANE if self.far and not self.down else 0)

    def within(self, at: Scale, v: float) -> float:
        """The place of a value, or of the axis' end where it lies outside."""
        if self.zero and v <= 0:
            return at(0)
        return at(min(max(v, self.low), self.high))

    def breaks(self, start: float, end: float) -> list[float]:
        """Where its lanes begin."""
        ends = zip((start, end), self._inner(start, end), strict=True)
        return [inner for edge, inner in ends if inner != edge]


def _axis(values: Sequence[float], out: Sequence[bool], kept: Sequence[float], *, down: bool = False) -> _Axis:
    """The axis for the values that are `kept`; those that are `out` stand in its lane.

    Logarithmic over more than a factor of eight, with a lane of its own for 0; linear otherwise, and where a value is
    negative. Twelve powers of ten are shown at most; what lies below stands with 0.
    """
    beyond = frozenset(v for v, is_out in zip(values, out, strict=True) if is_out)
    high = max(kept)
    least = max(min((v for v in kept if v > 0), default=0.0), high * 1e-12)
    if min(kept) >= 0 and high > 8 * least > 0:
        room = (high / least) ** 0.06
        zero = min(kept) < least
        log = lambda v: math.log(max(v, least / room))  # noqa: E731
        ticks = tuple(log_ticks(least / room, high * room))
        return _Axis(log, least / room, high * room, ticks, bool(beyond), zero, down, beyond)
    low = min(kept)
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - pad, high + pad
    return _Axis(float, low, high, tuple(linear_ticks(low, high, 5)), bool(beyond), False, down, beyond)


def _grid(across: _Axis, up: _Axis, x: Scale, y: Scale, frame: Box, wide: float) -> list[str]:
    """Lines at the ticks, words at those that have room, and dashed lines where lanes begin."""
    left, top, right, bottom = frame
    parts = []

    def upright(place: float, kind: str) -> str:
        return f'<line class="{kind}" x1="{place:.1f}" x2="{place:.1f}" y1="{top:g}" y2="{bottom:g}"/>'

    def level(place: float, kind: str) -> str:
        return f'<line class="{kind}" x1="{left:.1f}" x2="{right:g}" y1="{place:.1f}" y2="{place:.1f}"/>'

    zeros = [(x(0.0), bottom + 16, "middle")] * across.zero + [(left - 5, min(y(0.0) + 4, bottom + 2), "end")] * up.zero
    parts += [_text(px, py, "0", "tick across" if how == "middle" else "tick", how) for px, py, how in zeros]
    parts += [upright(x(tick), "grid") for tick in across.ticks] + [level(y(tick), "grid") for tick in up.ticks]
    parts += [upright(place, "zero") for place in across.breaks(left, right)]
    parts += [level(place, "zero") for place in up.breaks(bottom, top)]
    ends = [x(0.0) + 8] if across.zero else []
    for tick in across.ticks:
        half = text_width(_short(tick)) / 2
        middle = min(x(tick), wide - half)  # a word at the right end keeps within the picture
        if middle - half >= max([0.0, *(end + 6 for end in ends)]):
            ends.append(middle + half)
            parts.append(_text(middle, bottom + 16, _short(tick), "tick across", "middle"))
    rows = [y(0.0)] if up.zero else []
    for tick in up.ticks:
        if all(abs(y(tick) - other) >= 15 for other in rows):
            rows.append(y(tick))
            parts.append(_text(left - 5, min(y(tick) + 4, bottom + 2), _short(tick), "tick", "end"))
    return parts


def _with_ends(spots: Sequence[Spot]) -> list[float]:
    """The values and the ends of their intervals, these as far as they widen the axis by no more than a third."""
    values = [s.value for s in spots]
    ends = [x for s in spots for x in (s.low, s.high) if math.isfinite(x)]
    low, high = min(values), max(values)
    positive = min((v for v in values if v > 0), default=math.inf)
    if low >= 0 and high / 8 > positive:
        room = math.exp((math.log(high) - math.log(positive)) / 3)
        least, most = positive / room, high * room
    else:
        room = (high - low) / 3 or math.inf
        least, most = low - room, high + room
    return [*values, *(min(max(x, least), most) for x in ends)]


def _place(spot: Spot, x: float, y: float, taken: list[Box], frame: Box) -> str:
    """The label of a point where it has room, its place then taken; "" where there is none.

    A label far from its point gets a thin line that leads to it and crosses nothing; only those of the front may be
    far.
    """
    label = fitting(clean(spot.label), MOST_LABEL)
    wide = text_width(label)
    near = [(10, -7), (10, 15), (-wide - 10, -7), (-wide - 10, 15), (10, 4), (-wide - 10, 4), (-wide / 2, -12),
            (-wide / 2, 21)]  # fmt: skip
    sides = [-wide / 2, *(float(d) for d in range(8, 150, 24)), *(-wide - d for d in range(8, 150, 24))]
    far = [(dx, dy) for dy in range(-150, 151, 12) if abs(dy) > 21 for dx in sides]
    far.sort(key=lambda d: math.hypot(max(d[0], 0.0, -d[0] - wide), d[1]))
    for dx, dy in (*near, *(far if spot.front else ())):
        box = (x + dx, y + dy - 11, x + dx + wide, y + dy + 4)
        inside = box[0] >= frame[0] and box[2] <= frame[2] and box[1] >= frame[1] and box[3] <= frame[3]
        if not inside or any(_meet(box, other) for other in taken):
            continue
        leader = ""
        if abs(dy) > 21:
            to = min(max(x, box[0]), box[2]), box[1] if dy > 0 else box[3]
            steps = [(x + (to[0] - x) * t / 16, y + (to[1] - y) * t / 16) for t in range(17)]
            path = [(u - 1, v - 1, u + 1, v + 1) for u, v in steps if math.hypot(u - x, v - y) > 10]
            lines = [
                o for o in taken if min(o[2] - o[0], o[3] - o[1]) > 3
            ]  # it may cross a line, not a word or a point
            if any(_meet(step, o) for step in path for o in lines if not (o[0] <= x <= o[2] and o[1] <= y <= o[3])):
                continue
            leader = f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{to[0]:.1f}" y2="{to[1]:.1f}"/>'
            taken.extend(path)  # and no later word stands on it
        taken.append(box)
        return leader + _text(x + dx, y + dy, label, "name", "start")
    return ""


def _meet(a: Box, b: Box) -> bool:
    """Whether two boxes overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# Widths of letters in thousandths of the type size, in DejaVu Sans: the widest of the fonts that the style sheet asks
# for, so that what has room in it has room in all of them.
_WIDTHS = {**dict.fromkeys("ijl", 278), **dict.fromkeys(" .,", 318), **dict.fromkeys(":;/|\\'", 340), **dict.fromkeys(
    "ftI-()[]r", 412), **dict.fromkeys("s_z", 525), "m": 975, "w": 818, "M": 863, "W": 989, "…": 1000, "%": 951,
    **dict.fromkeys("=+<>−×~↑↓→·", 838), **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ@#&", 790)}  # fmt: skip


def text_width(text: str, size: float = 13) -> float:
    """Units that a text takes, at most; unknown letters count as full width."""
    return sum(_WIDTHS.get(c, 640 if c < "\u0250" else 1050) for c in text) * size / 1000


def _short(value: float) -> str:
    """A tick: 0.05, 20,000; powers of ten beyond: 10⁻⁵, 2·10⁶."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.10g}".replace("-", "−")
    base, _, power = f"{value:.9e}".partition("e")
    factor = f"{float(base):.10g}".replace("-", "−")
    raised = f"10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return raised if factor == "1" else f"{factor}·{raised}"


def _text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(clean(words))}</text>'
