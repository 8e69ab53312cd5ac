"""The compare page: a family's configurations at equal bytes, equal time or equal quality, setting by setting."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify

from paperlab.core import charts
from paperlab.core.methods import filled
from paperlab.core.panels import Compared, Panel, Point, away, labels, offered, to_csv
from paperlab.core.paper import FAMILIES
from paperlab.core.summaries import Stamp
from paperlab.core.words import distinguishing, megabytes, number, percent, seconds
from paperlab.site.pages import figures

AT = {"bytes": "bytes", "time": "time", "quality": "quality"}
NEAR = {"bytes": 1.02, "time": 2.0, "quality": 1.02}  # how far apart what counts as equal may be, as a ratio
SHOW = {"front": "Pareto front", "dominated": "dominated", "broken": "broken"}  # what the table may be narrowed to
LEVELS = ("Model and task", "Data", "Machine")  # by which a setting is chosen, one after the other
BITS = ("bits", "weight_bits", "mean_bits", "bits_per_weight")  # parameters that say how many bits a weight gets
SORTS: dict[str, Callable[[Point], float | str]] = {
    "arm": lambda p: str(p.arm),
    "value": lambda p: p.value.value,
    "bits": lambda p: p.bits,
    "bytes": lambda p: p.bytes,
    "build": lambda p: p.build,
    "peak": lambda p: p.peak,
}


@dataclass(frozen=True)
class Line:
    """A configuration in the table."""

    point: Point
    label: str
    anchor: str
    front: bool
    records: tuple[tuple[str, str], ...]  # id, where its record is shown
    axes: tuple[float, ...] = ()  # its figures by the panel's further axes


@dataclass(frozen=True)
class Choice:
    """A configuration of the front, as somebody would choose it. why: what the first one is chosen for."""

    line: Line
    href: str  # to its row, in the whole table where this one leaves it out
    cost: str
    away: str  # how much worse than the original, "" where that has no size
    smaller: str  # how many times, "" where not
    why: str = ""


@dataclass(frozen=True)
class Narrowed:
    """What the table is narrowed to: a method's slug, bits, one of SHOW; "" for all."""

    method: str = ""
    bits: str = ""
    show: str = ""

    def takes(self, line: Line) -> bool:
        """Whether a configuration is shown."""
        kind = "broken" if line.point.broken else "front" if line.front else "dominated"
        return (
            self.method in ("", line.point.arm.method)
            and self.bits in ("", bits_of(line.point))
            and self.show in ("", kind)
        )

    @property
    def given(self) -> dict[str, str]:
        """Its part of an address."""
        found = {"method": self.method, "bits": self.bits, "show": self.show}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True)
class Step:
    """One level of the choice of a setting. options: words, configurations, address, whether it is the chosen one."""

    label: str
    options: tuple[tuple[str, int, str, bool], ...]


@dataclass(frozen=True)
class Section:
    """One setting: its plot, what to choose from its front, its table in bands that are equal, or in one.

    count: configurations in the table, of all in `panel`.
    """

    panel: Panel
    key: str
    plot: SafeString | None
    note: str
    front: tuple[Choice, ...]
    bands: tuple[tuple[str, tuple[Line, ...]], ...]
    count: int


def index(request: HttpRequest) -> HttpResponse:
    """The families that can be compared."""
    return render(request, "pages/compare_index.html", {"families": figures.families(), "groups": figures.groups()})


def compare(request: HttpRequest, family: str) -> HttpResponse:
    """One family, one setting at a time."""
    if family not in FAMILIES and family not in figures.GROUPS:
        raise Http404(f"no family {family[:40]!r}")
    at = request.GET.get("at", "bytes")
    at = at if at in AT else "bytes"
    sort = request.GET.get("sort", "")
    down = sort.startswith("-")
    column = sort.lstrip("-")
    now = figures.mark(family)
    found = figures.compared(family, now)
    names = keys(found.panels)
    largest = max(range(len(names)), key=lambda i: len(found.panels[i].points), default=0)
    chosen = names.index(request.GET.get("in", "")) if request.GET.get("in") in names else largest
    here = {"in": names[chosen]} if names else {}
    if not names or column not in (*SORTS, *found.panels[chosen].axes):
        column = ""
    narrowed = _narrowed(request, found.panels[chosen]) if names else Narrowed()
    body = _body(family, now, chosen, at, column, down, narrowed) if names else ""
    context = {
        "family": family, "group": family in figures.GROUPS, "at": at, "body": body, "found": found,
        "kinds": [(name, label, f"?{urlencode({**here, 'at': name, **narrowed.given})}") for name, label in AT.items()],
        "steps": steps(found.panels, chosen, [f"?{urlencode({'in': name, 'at': at})}" for name in names]),
    }  # fmt: skip
    return render(request, "pages/compare.html", context)


def filters(panel: Panel) -> dict[str, tuple[str, dict[str, str]]]:
    """What the table may be narrowed by: name in the address -> (label, {value: words})."""
    bits = sorted({bits_of(p) for p in panel.points} - {""}, key=float)
    return {
        "method": ("Method", {name: name for name in sorted({p.arm.method for p in panel.points})}),
        "bits": ("Bits", {value: value for value in bits}),
        "show": ("Show", SHOW),
    }


def _narrowed(request: HttpRequest, panel: Panel) -> Narrowed:
    """What the address narrows the table to; what the setting does not have counts as not given."""
    given = {name: request.GET.get(name, "") for name in ("method", "bits", "show")}
    known = filters(panel)
    return Narrowed(**{name: value if value in known[name][1] else "" for name, value in given.items()})


def bits_of(point: Point) -> str:
    """Bits of a weight as a configuration is asked for ("4" for bits=4), else what is stored, rounded; "" if unknown.

    What is stored is more, as embeddings and the like stay in full precision.
    """
    params = filled(point.arm).params
    asked = next((params[name] for name in BITS if isinstance(params.get(name), int | float)), point.bits)
    found = float(asked or math.nan)
    return "" if not math.isfinite(found) else f"{found:g}" if asked != point.bits else f"{found:.0f}"


def named(panels: Sequence[Panel]) -> list[tuple[str, ...]]:
    """What each setting is called at each of LEVELS, in words. Two settings differ in at least one of them."""
    twins: list[tuple[object, ...]] = []
    found: list[list[str]] = []
    for p in panels:
        place = (p.model, p.task, p.version, p.data, p.scale, p.seeds, p.machine)
        twins.append(place)
        seeds = f"{p.seeds} seed{'s' * (p.seeds != 1)}"
        variant = f"variant {twins.count(place)}" if twins.count(place) > 1 else ""
        task, version = p.task.replace("_", " "), f"version {p.version}"
        found.append([f"{p.model} · {task}", version, p.data, f"{p.scale} scale", seeds, variant, p.machine])
    words: list[tuple[str, ...]] = []
    for one in found:
        same = [other for other in found if other[0] == one[0]]
        versions = [other[:2] for other in same]
        of = distinguishing(versions)[versions.index(one[:2])]
        data = [other[2:6] for other in same if other[1] == one[1]]
        words.append((of, distinguishing(data)[data.index(one[2:6])], one[6]))
    return words


def steps(panels: Sequence[Panel], chosen: int, addresses: Sequence[str]) -> list[Step]:
    """How to come from the chosen setting to every other, level by level; a level without a choice is left out.

    An option leads to the setting with the most configurations that it leaves open. The machine stays where only the
    data change, if it has them.
    """
    words = named(panels)
    if not words:  # no records yet
        return []
    now, found = words[chosen], []
    for n, label in enumerate(LEVELS):
        best: dict[str, tuple[tuple[bool, bool, int], int]] = {}
        for i, one in enumerate(words):
            if one[:n] != now[:n]:
                continue
            rank = (i == chosen, n == 1 and one[2] == now[2], len(panels[i].points))
            if one[n] not in best or rank > best[one[n]][0]:
                best[one[n]] = rank, i
        if len(best) > 1:
            options = tuple((one, len(panels[i].points), addresses[i], i == chosen) for one, (_, i) in best.items())
            found.append(Step(label, options))
    return found


def keys(panels: Sequence[Panel]) -> list[str]:
    """A name for each setting in addresses, which other settings that come or go do not change."""
    bare = [
        slugify(f"{p.model} {p.task} {p.version} {p.scale} {p.data} {p.seeds} {p.machine}") or "setting" for p in panels
    ]
    return [name if name not in bare[:i] else f"{name}-{bare[: i + 1].count(name)}" for i, name in enumerate(bare)]


@lru_cache(maxsize=64)
def _body(
    family: str, mark: tuple[Stamp, ...], i: int, at: str, column: str, down: bool, narrowed: Narrowed
) -> SafeString:
    """One setting as the page shows it, which changes only with the records."""
    found = figures.compared(family, mark)
    key = keys(found.panels)[i]
    axes = found.panels[i].axes
    sorts = {name: f"-{name}" if column == name and not down else name for name in (*SORTS, *axes)}
    heads = [
        (name, label, f"?{urlencode({'in': key, 'at': at, 'sort': sorts[name], **narrowed.given})}",
         ("descending" if down else "ascending") if column == name else "")
        for name, label in (("arm", "configuration"), ("value", ""), ("bits", "bits / weight"), ("bytes", "size, MB"),
                           *((axis, axis.replace("_", " ")) for axis in axes), ("build", "build, s"),
                           ("peak", "peak, MB"))
    ]  # fmt: skip
    one = section(found.panels[i], key, at, column, down, found, narrowed)
    sorting = {"sort": f"-{column}" if down else column} if column else {}
    here = {"in": key, "at": at, **sorting}
    context = {
        "one": one, "at": at, "column": column, "heads": heads, "narrowed": narrowed.given,
        "hidden": here, "clear": f"?{urlencode(here)}",
        "options": [(name, label, [(v, words, v == narrowed.given.get(name)) for v, words in values.items()])
                    for name, (label, values) in filters(found.panels[i]).items()],
    }  # fmt: skip
    return render_to_string("pages/parts/setting.html", context)


def section(
    panel: Panel, key: str, at: str, column: str, down: bool, found: Compared, narrowed: Narrowed = Narrowed()
) -> Section:
    """What the page shows of one setting."""
    side = "build" if at == "time" else "bytes"
    lines = []
    for n, (point, label) in enumerate(zip(panel.points, labels([p.arm for p in panel.points]), strict=True), 1):
        records = tuple((name, _where(name, found)) for name in point.records)
        axes = tuple(point.axes.get(name, math.nan) for name in panel.axes)
        lines.append(Line(point, label, f"{key}-{n}", side in point.on, records, axes))
    shown = [line for line in lines if narrowed.takes(line)]
    whole = f"?{urlencode({'in': key, 'at': at})}"
    hrefs = {id(line.point): f"{'' if line in shown else whole}#{line.anchor}" for line in lines}
    spots = []
    for line in lines:
        cost = line.point.build if at == "time" else line.point.bytes / 1e6
        v = line.point.value
        href = hrefs[id(line.point)]
        reference = line.point is panel.original
        spots.append(
            charts.Spot(line.label, cost, v.value, v.low, v.high, href, line.front, reference, line.point.broken)
        )
    axis = "seconds to build" if at == "time" else "size of the model, MB"
    drawn = charts.pareto(spots, cost=axis, quality=panel.metric, better=panel.better)  # type: ignore[arg-type]
    plot, note = (None, "") if drawn is None else (mark_safe(drawn.inline(key)), drawn.note)
    bands = (("", ordered(shown, column, down)),) if column else banded(shown, panel, at)
    return Section(panel, key, plot, note, choices(panel, lines, side, hrefs), tuple(bands), len(shown))


def choices(panel: Panel, lines: Sequence[Line], side: str, hrefs: Mapping[int, str]) -> tuple[Choice, ...]:
    """The front, what somebody would take first."""
    front, why = offered(panel, side)
    of = {id(line.point): line for line in lines}
    found = []
    for point in front:
        cost = f"{seconds(point.build)} s" if side == "build" else f"{megabytes(point.bytes)} MB"
        worse, ratio = (
            away(panel, point),
            panel.original.bytes / point.bytes if panel.original and point.bytes else math.nan,
        )
        said = "" if worse != worse else f"{percent(abs(worse), sign=False)} {'worse' if worse > 0 else 'better'}"
        found.append(
            Choice(of[id(point)], hrefs[id(point)], cost, said, f"{ratio:.1f} times smaller" if ratio >= 1.05 else "")
        )
    return (replace(found[0], why=why), *found[1:]) if found else ()


def _where(name: str, found: Compared) -> str:
    """The page that shows a record: its paper's, else the record itself."""
    paper = found.papers[name]
    anchor = "record-" + re.sub(r"[^\w-]", "", name)
    return f"/papers/{paper}#{anchor}" if paper else f"/api/records/{name}"


def ordered(lines: Sequence[Line], column: str, down: bool) -> tuple[Line, ...]:
    """By one column; what has no figure last."""
    key = SORTS.get(column) or (lambda point: point.axes.get(column, math.nan))
    there = [line for line in lines if key(line.point) == key(line.point)]
    missing = [line for line in lines if line not in there]
    return (*sorted(there, key=lambda line: (key(line.point), line.label), reverse=down), *missing)


def banded(lines: Sequence[Line], panel: Panel, at: str) -> list[tuple[str, tuple[Line, ...]]]:
    """Configurations in bands within which size, time or quality is equal; in each the best of the rest first."""
    sign = 1 if panel.better == "lower" else -1
    of = {"bytes": lambda p: p.bytes, "time": lambda p: p.build, "quality": lambda p: p.value.value}[at]
    known = sorted((line for line in lines if math.isfinite(of(line.point))), key=lambda line: of(line.point))
    if at == "quality" and sign < 0:
        known.reverse()
    bands: list[list[Line]] = []
    for line in known:
        first = of(bands[-1][0].point) if bands else math.nan
        here = of(line.point)
        near = first == here or (min(first, here) > 0 and max(first, here) / min(first, here) <= NEAR[at])
        if bands and near:
            bands[-1].append(line)
        else:
            bands.append([line])

    def rank(line: Line) -> tuple[float, str]:
        figure = line.point.bytes if at == "quality" else sign * line.point.value.value
        return (math.inf if figure != figure else figure, line.label)

    found = [(_range(at, band, of, panel.metric), tuple(sorted(band, key=rank))) for band in bands]
    rest = tuple(line for line in lines if line not in known)
    return [*found, *([("not measured", rest)] if rest else [])]


def _range(at: str, band: Sequence[Line], of: Callable[[Point], float], metric: str) -> str:
    low, high = min(of(line.point) for line in band), max(of(line.point) for line in band)
    write = {"bytes": megabytes, "time": seconds, "quality": number}[at]
    unit = {"bytes": " MB", "time": " s", "quality": f" {metric}"}[at]
    words = write(low) if write(low) == write(high) else f"{write(low)} to {write(high)}"
    return words + unit


def export(request: HttpRequest, family: str) -> HttpResponse:
    """All configurations in full precision."""
    if family not in FAMILIES and family not in figures.GROUPS:
        raise Http404(f"no family {family[:40]!r}")
    headers = {"Content-Disposition": f'attachment; filename="paperlab-{family}.csv"'}
    return HttpResponse(
        to_csv(figures.compared(family).panels), content_type="text/csv; charset=utf-8", headers=headers
    )
