"""Plots of checks: the arms of one record, the gains over several models, quality against cost.

Every function returns a `Plot`: the same drawing as SVG (text stays text) and PNG, byte for byte the same for the
same input, with a title that states the finding and a description for those who cannot see it. Colours come from
one small table that stays apart under the common colour-vision deficiencies; shape repeats what colour says.
"""

import io
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from paperlab.core.panels import front
from paperlab.core.words import number, percent

# Light colours, as drawn. `inline` replaces each by a CSS variable, so a page can give a dark one; hence all differ.
COLOURS = {
    "ink": "#1b1f24",
    "soft": "#57606b",
    "line": "#c9cfd7",
    "band": "#e3edf7",
    "paper": "#fefefe",
    "method": "#0a5ca8",
    "baseline": "#b1500a",
    "beside": "#6b7280",
}
MARKERS = {"method": "o", "baseline": "s", "beside": "D"}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "paperlab",
    "font.family": "DejaVu Sans",  # travels with matplotlib: the same metrics, so the same layout, everywhere
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["soft"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.titlecolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "figure.facecolor": COLOURS["paper"],
    "axes.facecolor": COLOURS["paper"],
    "savefig.facecolor": COLOURS["paper"],
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a "$" in a name is a dollar sign
}
_KEY = "● method · ■ baseline · ◇ beside · bars: 95 % intervals"
_WIDTH = 5.6  # inches; 538 CSS px at full size, and 10 pt text is still 9 px high on a phone
_ROW = 0.46  # inches per row of a dot plot: the label above, the interval below


@dataclass(frozen=True)
class Dot:
    """One row of a dot-and-interval plot. low and high: the 95 % interval, NaN where there is none."""

    label: str
    value: float
    low: float
    high: float
    role: Literal["method", "baseline", "beside"] = "beside"


@dataclass(frozen=True)
class Spot:
    """One arm in a Pareto plot: cost (bytes or seconds) and quality with its 95 % interval."""

    label: str
    cost: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """A finished drawing. title: the finding in one sentence. says: a description in words."""

    svg: str
    png: bytes
    title: str
    says: str

    def inline(self, key: str) -> str:
        """The SVG for use inside an HTML page: no prolog, ids made unique by `key` (a word of letters, digits and
        "-"), colours as CSS variables with the light ones as fallback, title and description as accessible names."""
        body = self.svg[self.svg.index("<svg") :]
        for part in ("metadata", "title", "style"):  # the page has its own title and style
            body = re.sub(rf"<{part}\b.*?</{part}>\s*", "", body, flags=re.S)
        body = re.sub(r'\bid="([^"]*)"', rf'id="{key}-\1"', body)
        body = re.sub(r"url\(#([^)]*)\)", rf"url(#{key}-\1)", body)
        body = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{key}-\1"', body)
        for name, colour in COLOURS.items():
            body = body.replace(colour, f"var(--{name}, {colour})")
        body = re.sub(r"(font: [^;\"]*?)'DejaVu Sans'", r"\1var(--plot-font, 'DejaVu Sans')", body)
        opening, _, rest = body.partition(">")
        opening = re.sub(r' (width|height|xmlns(:\w+)?|version)="[^"]*"', "", opening)  # HTML knows the name space
        names = f'<title id="{key}-title">{_escape(self.title)}</title>'
        names += f'<desc id="{key}-says">{_escape(self.says)}</desc>'
        opening += ' style="stroke-linejoin: round; stroke-linecap: butt"'
        return f'{opening} role="img" aria-labelledby="{key}-title {key}-says">{names}{rest}'


def arms(dots: Sequence[Dot], *, title: str, axis: str, better: Literal["lower", "higher"]) -> Plot:
    """Each arm's value with its interval, one row each in the order given. axis: metric, unit."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _rows(dots)
        values = [x for dot in dots for x in (dot.value, dot.low, dot.high) if _finite(x)]
        if values and min(values) > 0 and max(values) / min(values) > 20:
            axes.set_xscale("log")
        _number_axis(axes, "x")
        _pad(axes, values)
        _draw(axes, dots, number)
        axes.set_xlabel(f"{axis}  ({'← lower' if better == 'lower' else 'higher →'} is better)\n{_KEY}")
        says = "; ".join(f"{dot.label} ({dot.role}): {_interval(dot, number)}" for dot in dots)
        return _finish(figure, axes, title, f"Dots with 95 % intervals of {axis}. {says}.")


def gains(
    dots: Sequence[Dot], *, title: str, margin: float, expect: Literal["lower", "higher", "equal"], baseline: str
) -> Plot:
    """Forest plot: the relative gain over the baseline per model, with zero and the margin.

    dots: value, low and high are relative gains, positive where the method is better (0.03 is 3 %).
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _rows(dots)
        left, right = (-margin, margin) if expect == "equal" else (0.0, margin)
        axes.axvspan(left * 100, right * 100, color=COLOURS["band"], linewidth=0, zorder=0)
        axes.axvline(0, color=COLOURS["soft"], linewidth=1, zorder=1)
        _pad(axes, [0.0, left, right, *(x for dot in dots for x in (dot.value, dot.low, dot.high) if _finite(x))], 100)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
        level = 90 if expect == "equal" else 95  # 90: two one-sided tests at 5 %
        band = f"within ±{margin * 100:g} % counts as equal" if expect == "equal" else f"margin {margin * 100:g} %"
        axes.set_xlabel(f"gain over {baseline}, %  (shaded: {band})\nbars: {level} % intervals")
        says = "; ".join(f"{dot.label}: {_interval(dot, percent)}" for dot in dots)
        _draw(axes, dots, percent, 100)
        words = f"Relative gain over {baseline} with {level} % intervals; zero means no difference, {band}. {says}."
        return _finish(figure, axes, title, words)


def pareto(
    spots: Sequence[Spot], *, title: str, cost: str, quality: str, better: Literal["lower", "higher"]
) -> tuple[Plot, list[int]]:
    """Quality against cost, the Pareto front drawn as a stair, labels beside the points.

    cost, quality: axis texts with units. A label that finds no free place is left out, the front's labels placed
    first; the axis says how many, and the table beside the plot has them all. Returns the plot and the front.
    """
    best = front([(spot.cost, spot.value) for spot in spots], better)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(color=COLOURS["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        costs = [spot.cost for spot in spots]
        values = [x for spot in spots for x in (spot.value, spot.low, spot.high) if _finite(x)]
        _spread_axis(axes, "x", costs)
        _spread_axis(axes, "y", values)
        if len(best) > 1:
            xs, ys = [spots[i].cost for i in best], [spots[i].value for i in best]
            axes.step(xs, ys, where="post", color=COLOURS["method"], linewidth=1.2, alpha=0.7, zorder=2)
        for i in sorted(range(len(spots)), key=lambda i: i in best):  # the front on top
            spot, role = spots[i], "method" if i in best else "beside"
            _interval_line(axes, [spot.cost, spot.cost], [spot.low, spot.high], COLOURS[role])
            _marker(axes, spot.cost, spot.value, role)
        key = "● on the front · ◇ not on it · bars: 95 % intervals"
        axes.set_xlabel(f"{cost}  (← less is better)\n{key}")  # two lines now, so that the layout does not move later
        axes.set_ylabel(f"{quality}  ({'lower' if better == 'lower' else 'higher'} is better)")
        axes.set_title(_wrapped(title), pad=8)
        canvas.draw()
        left_out = _place_labels(figure, axes, spots, best)
        if left_out:
            axes.set_xlabel(f"{axes.get_xlabel()} · {left_out} unlabelled")
        on = ", ".join(spots[i].label for i in best)
        says = f"{quality} against {cost} for {len(spots)} arms with 95 % intervals. On the Pareto front: {on}."
        return _finish(figure, axes, title, says), best


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(dots: Sequence[Dot]) -> tuple[Figure, Axes]:
    """An empty figure with one row per dot; `_draw` fills it once the scale is known."""
    figure = Figure(figsize=(_WIDTH, 1.2 + _ROW * len(dots)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_ylim(len(dots) - 0.45, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _draw(axes: Axes, dots: Sequence[Dot], write: Callable[[float], str], factor: float = 1.0) -> None:
    """Marker, interval and text of each row; an interval without end runs to the edge of the axes."""
    left, right = axes.get_xlim()
    for row, dot in enumerate(dots):
        ends = [max(dot.low * factor, left), min(dot.high * factor, right)] if dot.low == dot.low else [dot.low]
        _interval_line(axes, ends, [row] * len(ends), COLOURS[dot.role])
        if _finite(dot.value):
            _marker(axes, dot.value * factor, row, dot.role)
        label = dot.label if len(dot.label) <= 50 else f"{dot.label[:30]}…{dot.label[-19:]}"
        text = f"{label}:  {_interval(dot, write) if _finite(dot.value) else 'no value'}"
        said = axes.annotate(text, (0, row), xycoords=("axes fraction", "data"), xytext=(0, 7),
                      textcoords="offset points", fontsize=9, color=COLOURS["ink"], annotation_clip=False, zorder=2,
                      bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 0.6})  # fmt: skip
        said.set_in_layout(False)  # a long label must not squeeze the axes


def _interval_line(axes: Axes, xs: list[float], ys: list[float], colour: str) -> None:
    if all(_finite(x) for x in (*xs, *ys)):
        axes.plot(xs, ys, color=colour, linewidth=2, solid_capstyle="butt", zorder=3)


def _marker(axes: Axes, x: float, y: float, role: str) -> None:
    face = COLOURS["paper"] if role == "beside" else COLOURS[role]
    size = 5.5 if role == "beside" else 6.5
    axes.plot([x], [y], marker=MARKERS[role], markersize=size, color=face, markeredgecolor=COLOURS[role],
              markeredgewidth=1.4, linestyle="none", zorder=4, clip_on=False)  # fmt: skip


def _pad(axes: Axes, values: Iterable[float], factor: float = 1.0) -> None:
    """Limits with room at both ends; a log axis pads by ratio."""
    scaled = [value * factor for value in values]
    if not scaled:
        return
    low, high = min(scaled), max(scaled)
    if axes.get_xscale() == "log":
        room = (high / low) ** 0.06
        axes.set_xlim(low / room, high * room)
    else:
        room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
        axes.set_xlim(low - room, high + room)


def _spread_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Linear where the values are close, logarithmic over more than a factor of ten, linear near zero (symlog)
    where a zero is among them."""
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    positive = [value for value in values if value > 0]
    if not values or not positive:
        return
    low, high = min(values), max(values)
    if low > 0 and high / low > 10:
        set_scale("log")
        room = (high / low) ** 0.12
        set_limits(low / room, high * room)
    elif low == 0 and high / min(positive) > 10:
        set_scale("symlog", linthresh=min(positive), linscale=0.6)
        set_limits(-min(positive) * 0.4, high * (high / min(positive)) ** 0.12)
    else:
        room = (high - low) * 0.12 or abs(high) * 0.05
        set_limits(low - room, high + room)
    _number_axis(axes, which)


def _number_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    scale = axes.get_xscale() if which == "x" else axes.get_yscale()
    if scale == "linear":
        axis.set_major_locator(MaxNLocator(6))
    elif scale == "log":
        axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−")))
    axis.set_minor_formatter(NullFormatter())


def _place_labels(figure: Figure, axes: Axes, spots: Sequence[Spot], best: Sequence[int]) -> int:
    """Put each label at the nearest free place around its point. Returns how many found none."""
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # the Agg canvas has one
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    taken: list[Bbox] = []
    for spot in spots:
        x, y = axes.transData.transform((spot.cost, spot.value))
        taken.append(Bbox.from_extents(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale))
        if _finite(spot.low) and _finite(spot.high):
            (_, bottom), (_, top) = axes.transData.transform([(spot.cost, spot.low), (spot.cost, spot.high)])
            taken.append(Bbox.from_extents(x - 2, min(bottom, top), x + 2, max(bottom, top)))
    stair: Any = axes.transData.transform([(spots[i].cost, spots[i].value) for i in best]) if best else []
    for (x0, y0), (x1, y1) in itertools.pairwise(stair):
        taken.append(Bbox.from_extents(x0, y0 - 1, x1, y0 + 1))
        taken.append(Bbox.from_extents(x1 - 1, min(y0, y1), x1 + 1, max(y0, y1)))
    left_out = 0
    for i in sorted(range(len(spots)), key=lambda i: (i not in best, i)):
        for dx, dy, across, up in _places():
            text = axes.annotate(spots[i].label, (spots[i].cost, spots[i].value), xytext=(dx, dy),
                                 textcoords="offset points", ha=across, va=up, fontsize=8.5,
                                 color=COLOURS["ink"] if i in best else COLOURS["soft"])  # fmt: skip
            box = text.get_window_extent(renderer).expanded(1.0, 1.05)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                if abs(dy) > 12:  # far from its point: a thin line leads to it
                    end = box.x0 if across == "left" else box.x1
                    x, y = axes.transData.inverted().transform((end, (box.y0 + box.y1) / 2))
                    axes.plot([spots[i].cost, x], [spots[i].value, y], color=COLOURS["soft"], linewidth=0.6, zorder=1)
                break
            text.remove()
        else:
            left_out += 1
    return left_out


def _places() -> Iterable[tuple[float, float, str, str]]:
    """Offsets in points around a point, the nearest first, with the alignment of the text there."""
    yield from (
        (7, 0, "left", "center"),
        (-7, 0, "right", "center"),
        (0, 7, "center", "bottom"),
        (0, -7, "center", "top"),
    )
    for far in (9, 16, 24, 34, 46):
        for up in (1, -1):
            yield 6, up * far, "left", "center"
            yield -6, up * far, "right", "center"


def _finish(figure: Figure, axes: Axes, title: str, says: str) -> Plot:
    axes.set_title(_wrapped(title), pad=8)
    axes.tick_params(length=3, labelsize=9)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # settled: not again for each format
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    figure.savefig(png, format="png", dpi=144, metadata={"Software": None, "Title": _latin(title)})
    return Plot(svg.getvalue(), png.getvalue(), title, says)


def _wrapped(title: str, width: int = 58) -> str:
    """Broken at words into lines that fit the figure; matplotlib's own wrapping ignores the layout engine."""
    lines = [""]
    for word in title.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _interval(dot: Dot, write: Callable[[float], str]) -> str:
    return f"{write(dot.value)} [{write(dot.low)}, {write(dot.high)}]" if dot.low == dot.low else write(dot.value)


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
