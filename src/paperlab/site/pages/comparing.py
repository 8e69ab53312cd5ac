"""The compare page: a family's methods at equal bytes, equal time or equal quality, setting by setting."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify

from paperlab.core import charts
from paperlab.core.panels import Compared, Panel, Point, labels, to_csv
from paperlab.core.paper import FAMILIES
from paperlab.core.summaries import Stamp
from paperlab.core.words import megabytes, number, seconds
from paperlab.site.pages import figures

AT = {"bytes": "bytes", "time": "time", "quality": "quality"}
NEAR = {"bytes": 1.02, "time": 2.0, "quality": 1.02}  # how far apart what counts as equal may be, as a ratio
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
    """An arm in the table."""

    point: Point
    label: str
    anchor: str
    front: bool
    records: tuple[tuple[str, str], ...]  # id, where its record is shown
    axes: tuple[float, ...] = ()  # its figures by the panel's further axes


@dataclass(frozen=True)
class Section:
    """One setting: its plot, its front by rising cost, its bands of arms that are equal, or all its arms in one."""

    panel: Panel
    key: str
    plot: SafeString | None
    front: tuple[tuple[Line, str], ...]  # with its cost in words
    bands: tuple[tuple[str, tuple[Line, ...]], ...]


def index(request: HttpRequest) -> HttpResponse:
    """The families that can be compared."""
    return render(request, "pages/compare_index.html", {"families": figures.families()})


def compare(request: HttpRequest, family: str) -> HttpResponse:
    """One family, one setting at a time."""
    if family not in FAMILIES:
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
    body = _body(family, now, chosen, at, column, down) if names else ""
    context = {
        "family": family, "at": at, "body": body, "found": found,
        "kinds": [(name, label, f"?{urlencode({**here, 'at': name})}") for name, label in AT.items()],
        "settings": [(panel, f"?{urlencode({'in': name, 'at': at})}", name == names[chosen])
                     for name, panel in zip(names, found.panels, strict=True)],
    }  # fmt: skip
    return render(request, "pages/compare.html", context)


def keys(panels: Sequence[Panel]) -> list[str]:
    """A name for each setting in addresses, which stays as long as model, task, version and scale do."""
    bare = [slugify(f"{p.model} {p.task} {p.version} {p.scale}") or "setting" for p in panels]
    return [name if name not in bare[:i] else f"{name}-{bare[: i + 1].count(name)}" for i, name in enumerate(bare)]


@lru_cache(maxsize=64)
def _body(family: str, mark: tuple[Stamp, ...], i: int, at: str, column: str, down: bool) -> SafeString:
    """One setting as the page shows it, which changes only with the records."""
    found = figures.compared(family, mark)
    key = keys(found.panels)[i]
    axes = found.panels[i].axes
    sorts = {name: f"-{name}" if column == name and not down else name for name in (*SORTS, *axes)}
    heads = [
        (name, label, f"?{urlencode({'in': key, 'at': at, 'sort': sorts[name]})}",
         ("descending" if down else "ascending") if column == name else "")
        for name, label in (("arm", "arm"), ("value", ""), ("bits", "bits / weight"), ("bytes", "size, MB"),
                           *((axis, axis.replace("_", " ")) for axis in axes), ("build", "build, s"),
                           ("peak", "peak, MB"))
    ]  # fmt: skip
    one = section(found.panels[i], key, at, column, down, found)
    return render_to_string("pages/parts/setting.html", {"one": one, "at": at, "column": column, "heads": heads})


def section(panel: Panel, key: str, at: str, column: str, down: bool, found: Compared) -> Section:
    """What the page shows of one setting."""
    side = "build" if at == "time" else "bytes"
    lines = []
    for n, (point, label) in enumerate(zip(panel.points, labels([p.arm for p in panel.points]), strict=True), 1):
        records = tuple((name, _where(name, found)) for name in point.records)
        axes = tuple(point.axes.get(name, math.nan) for name in panel.axes)
        lines.append(Line(point, label, f"{key}-{n}", side in point.on, records, axes))
    spots = []
    for line in lines:
        cost = line.point.build if at == "time" else line.point.bytes / 1e6
        v = line.point.value
        spots.append(charts.Spot(line.label, cost, v.value, v.low, v.high, f"#{line.anchor}", line.front))
    axis = "seconds to build" if at == "time" else "size of the model, MB"
    better = "lower" if panel.better == "lower" else "higher"
    drawn = charts.pareto(spots, cost=axis, quality=panel.metric, better=better)  # type: ignore[arg-type]
    plot = None if drawn is None else mark_safe(drawn.inline(key))
    bands = (("", ordered(lines, column, down)),) if column else banded(lines, panel, at)
    unit, write, of = (" s", seconds, lambda p: p.build) if at == "time" else (" MB", megabytes, lambda p: p.bytes)
    front = sorted((line for line in lines if line.front), key=lambda line: of(line.point))
    return Section(panel, key, plot, tuple((line, write(of(line.point)) + unit) for line in front), tuple(bands))


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
    """Arms in bands within which size, time or quality is equal; in each the best of what is not equal first."""
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
    """All arms in full precision."""
    if family not in FAMILIES:
        raise Http404(f"no family {family[:40]!r}")
    headers = {"Content-Disposition": f'attachment; filename="paperlab-{family}.csv"'}
    return HttpResponse(
        to_csv(figures.compared(family).panels), content_type="text/csv; charset=utf-8", headers=headers
    )
