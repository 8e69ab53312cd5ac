"""Plots as SVG, drawn on the server: gains with their intervals, quality against cost.

Plain drawings without a script; each mark is a link to what it stands for and has its figures as a title. Colours and
type come from the style sheet by class, so they follow light and dark; shape repeats what colour says.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from django.utils.safestring import SafeString, mark_safe

from paperlab.core.words import clean, number, percent, span

WIDE = 360  # of a drawing, in units that are about CSS pixels on a phone
MOST_LABEL = 34  # letters beside a point
LETTER = 7.2  # mean width of a letter, as large as the style sheet makes it on a phone


@dataclass(frozen=True)
class Bar:
    """One row of `gains`: a gain and its interval (NaN: none; infinite: no end). kind: the verdict's class."""

    label: str
    gain: float
    low: float
    high: float
    word: str
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


def gains(bars: Sequence[Bar], *, margin: float, expect: str, key: str) -> SafeString | None:
    """Relative gains over the baseline, one row each, with zero and what would count; None where there is none."""
    known = [bar for bar in bars if math.isfinite(bar.gain)]
    if not known:
        return None
    ends = [x for bar in known for x in (bar.gain, bar.low, bar.high) if math.isfinite(x)]
    least, most = min([*ends, 0, -margin if expect == "equal" else 0]), max([*ends, 0, margin])
    unit = max(margin, 0.01)
    bent = max(-least, most) > 25 * unit

    def bend(x: float) -> float:
        return math.asinh(x / unit) if bent else x

    left, right = 12.0, WIDE - 12.0
    low, high = bend(least), bend(most)
    reach = (high - low) or 1.0
    low, high = low - 0.05 * reach, high + 0.05 * reach

    def at(x: float) -> float:
        if x == -math.inf:
            return left
        if x == math.inf:
            return right
        return left + (bend(x) - low) / (high - low) * (right - left)

    row, top = 44, 8
    bottom = top + row * len(known)
    parts = [_band(at, margin, expect, top, bottom, right)]
    for tick in _gain_ticks(least, most, unit, bent, at):
        parts.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(at(tick), bottom + 14, percent(tick), "tick", "middle"))
    parts.append(f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{bottom}"/>')
    for i, bar in enumerate(known):
        parts.append(_bar(bar, at, top + row * i, left, right))
    parts.append(
        _text(right, bottom + 30, "better →" if expect == "equal" else "as the check expects →", "axis", "end")
    )
    says = "; ".join(
        f"{bar.label}: {percent(bar.gain)} {span(bar.low, bar.high, percent)}, {bar.word}" for bar in known
    )
    return _drawing(key, bottom + 36, "Relative gain over the baseline with its interval", says, parts)


def _band(at: Scale, margin: float, expect: str, top: float, bottom: float, right: float) -> str:
    first, last = (at(-margin), at(margin)) if expect == "equal" else (at(margin), right)
    return f'<rect class="band" x="{first:.1f}" y="{top}" width="{max(0, last - first):.1f}" height="{bottom - top}"/>'


def _bar(bar: Bar, at: Scale, y: float, left: float, right: float) -> str:
    line = y + 30
    told = f"{bar.label}: {percent(bar.gain)} {span(bar.low, bar.high, percent)} · {bar.word}"
    parts = [
        f'<a class="mark {bar.kind}" href="{escape(bar.href)}"><title>{escape(clean(told))}</title>',
        f'<rect class="hit" x="0" y="{y}" width="{WIDE}" height="42"/>',
    ]
    figure = percent(bar.gain)
    room = int((right - left) / LETTER) - len(figure) - 2
    label = bar.label if len(bar.label) <= room else bar.label[: room - 1] + "…"
    parts.append(_text(left, y + 14, label, "name", "start"))
    parts.append(_text(right, y + 14, figure, "figure", "end"))
    if bar.low == bar.low and bar.high == bar.high:
        x1, x2 = at(bar.low), at(bar.high)
        parts.append(f'<line class="reach" x1="{x1:.1f}" x2="{x2:.1f}" y1="{line}" y2="{line}"/>')
        for x, end in ((x1, bar.low), (x2, bar.high)):
            if math.isfinite(end):
                parts.append(f'<line class="reach" x1="{x:.1f}" x2="{x:.1f}" y1="{line - 4}" y2="{line + 4}"/>')
    parts.append(_shape(bar.kind, at(bar.gain), line))
    return "".join([*parts, "</a>"])


def _shape(kind: str, x: float, y: float) -> str:
    """A disc for what holds, a square for what fails, a diamond for the rest."""
    if kind == "holds":
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if kind == "fails":
        return f'<rect class="dot" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'<path class="dot" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'


def _gain_ticks(least: float, most: float, unit: float, bent: bool, at: Scale) -> list[float]:
    if not bent:
        wanted = linear_ticks(least, most, 4)
    else:
        powers = [unit * 10**i for i in range(8)]
        wanted = [0.0, *(p for p in powers if p <= most), *(-p for p in powers if -p >= least)]
    kept: list[float] = []
    for tick in sorted(wanted, key=abs):
        if all(abs(at(tick) - at(other)) > 46 for other in kept) and 16 < at(tick) < WIDE - 16:
            kept.append(tick)
    return kept


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two."""
    reach = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(reach / count))
    step *= next(m for m in (1, 2, 5, 10) if reach / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two; the powers alone where there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = (1, 2, 5) if last - first <= 2 else (1,)
    return [m * 10.0**e for e in range(first, last + 1) for m in every if low <= m * 10.0**e <= high]


def pareto(
    spots: Sequence[Spot], *, cost: str, quality: str, better: Literal["lower", "higher"], key: str
) -> SafeString | None:
    """Quality against cost, the front as a stair. Labels stand where there is room, those of the front first."""
    known = [s for s in spots if math.isfinite(s.cost) and math.isfinite(s.value)]
    if not known:
        return None
    left, right, top, bottom = 46.0, WIDE - 12.0, 20.0, 262.0
    x, x_ticks = _axis([s.cost for s in known], left, right)
    y, y_ticks = _axis([s.value for s in known], bottom, top)
    parts = []
    for tick in x_ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x(tick), bottom + 14, _short(tick), "tick across", "middle"))
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(left - 5, y(tick) + 4, _short(tick), "tick", "end"))
    front = sorted((s for s in known if s.front), key=lambda s: (s.cost, s.value))
    if len(front) > 1:
        path = f"M{x(front[0].cost):.1f} {y(front[0].value):.1f}"
        path += "".join(f"H{x(s.cost):.1f}V{y(s.value):.1f}" for s in front[1:])
        parts.append(f'<path class="front" d="{path}"/>')
    taken = [(x(s.cost) - 5, y(s.value) - 5, x(s.cost) + 5, y(s.value) + 5) for s in known]
    for s in sorted(known, key=lambda s: not s.front):
        told = f"{s.label}: {quality} {number(s.value)} {span(s.low, s.high)}, {cost} {number(s.cost)}"
        kind = "on" if s.front else "off"
        parts.append(f'<a class="mark {kind}" href="{escape(s.href)}"><title>{escape(clean(told))}</title>')
        cx, cy = x(s.cost), y(s.value)
        parts.append(f'<circle class="hit" cx="{cx:.1f}" cy="{cy:.1f}" r="12"/>')
        parts.append(_shape("holds" if s.front else "beside", cx, cy))
        label = clean(s.label) if len(clean(s.label)) <= MOST_LABEL else clean(s.label)[: MOST_LABEL - 1] + "…"
        place = _place(label, cx, cy, taken, (left, top, right, bottom)) if s.front else None
        if place is not None:
            parts.append(_text(place[0], place[1], label, "name", "start"))
        parts.append("</a>")
    parts.append(_text(right, bottom + 28, cost, "axis", "end"))
    parts.append(_text(4, 12, f"{quality} ({better} is better)", "axis", "start"))
    says = "; ".join(f"{s.label}: {number(s.value)} at {number(s.cost)}" for s in front)
    return _drawing(
        key, bottom + 36, f"{quality} against {cost}; on the front: {len(front)} of {len(known)}", says, parts
    )


def _axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """A scale from values to places, logarithmic over more than a factor of eight, and its ticks."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 8:
        pad = (high / low) ** 0.06
        low, high = low / pad, high * pad
        reach = math.log(high / low)
        return (lambda v: start + math.log(v / low) / reach * (end - start)), log_ticks(low, high)
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - pad, high + pad
    return (lambda v: start + (v - low) / (high - low) * (end - start)), linear_ticks(low, high, 5)


Box = tuple[float, float, float, float]


def _place(label: str, x: float, y: float, taken: list[Box], frame: Box) -> tuple[float, float] | None:
    """Where a label has room beside its point; the place is then taken."""
    wide = LETTER * len(label)
    for dx, dy in ((9, -7), (9, 14), (-wide - 9, -7), (-wide - 9, 14), (9, 4), (-wide / 2, -11), (-wide / 2, 20)):
        box = (x + dx, y + dy - 9, x + dx + wide, y + dy + 3)
        inside = box[0] >= frame[0] and box[2] <= frame[2] and box[1] >= frame[1] - 6 and box[3] <= frame[3]
        if inside and not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
            taken.append(box)
            return x + dx, y + dy
    return None


def _short(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−") if abs(value) < 1e5 else f"{value:.0e}"


def _text(x: float, y: float, said: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(clean(said))}</text>'


def _drawing(key: str, height: float, title: str, says: str, parts: Sequence[str]) -> SafeString:
    opening = (
        f'<svg class="plot" viewBox="0 0 {WIDE} {height:.0f}" role="group" aria-labelledby="{key}-t">'
        f'<title id="{key}-t">{escape(clean(title))}. {escape(clean(says))}</title>'
    )
    return mark_safe("".join([opening, *parts, "</svg>"]))
