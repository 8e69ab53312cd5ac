"""Methods next to each other: quality against bytes and against build time, settings and hardware kept apart."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paperlab.core import charts, summaries
from paperlab.core.charts import Spot
from paperlab.core.files import write_atomically
from paperlab.core.methods import Method, methods
from paperlab.core.panels import Compared, Panel, chosen, compared, labels, offered, ordered, to_csv
from paperlab.core.record import Record
from paperlab.core.words import clean, columns_that_fit, megabytes, number, seconds, span
from paperlab.lab.pages import WIDE, keep, page, save, slug

AXES = {"bytes": "size of the model, MB", "build": "time to build, seconds"}

DROP = ("front", "build s", "bits/weight", "95 %", "MB")  # what a narrow terminal does without, in this order


def compare(
    names: Sequence[str],
    out: Path,
    records: Iterable[Record] | None = None,
    *,
    known: Mapping[str, Method] | None = None,
    versions: Mapping[str, int] | None = None,
    console: Console | None = None,
    png: bool = False,
) -> Path:
    """Compare families or methods; print a table, write compare.html, compare.csv and plots/ into `out`.

    names: families ("quantization") or methods' slugs. All configurations of a named method's checks are shown, and a
    named method wherever another's check has it; so a baseline can be named too. out: a folder, an .html file, or an
    .svg or .png file, which gets the chart of quality against bytes of the setting with most of them. records: all that
    there are, unless given; only finished ones under the present check are used. known, versions: the methods and the
    tasks' versions that decide which those are. png: also draw the charts as PNG. Returns the page's path. Raises
    LookupError for an unknown name, ValueError where no finished record of these methods exists, and NoPicture.
    """
    known = methods() if known is None else known
    slugs = chosen(names, known)
    if records is None:
        with contextlib.suppress(OSError):  # where the folder cannot be written they are computed each time
            summaries.publish_all()
    found = compared(slugs, None if records is None else list(map(summaries.summary, records)), known, versions)
    if not found.panels:
        rest = f" ({found.unfinished} did not finish)" if found.unfinished else ""
        checked = [s for s in slugs if s in known and known[s].card.checks] or slugs
        raise ValueError(f"no finished record of {', '.join(names)}{rest}; `paperlab run {checked[0]}` makes one")
    picture = out.suffix.lower() in (".png", ".svg")
    file = out if picture or out.suffix == ".html" else out / "compare.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file.with_suffix(".csv"), to_csv(found.panels).encode())
    if picture:
        _picture(found, file)
    else:
        sections = [_section(panel, file.parent / "plots", i, png) for i, panel in enumerate(found.panels)]
        content = page("compare.html", title=f"paperlab compare: {', '.join(names)}", names=", ".join(names),
                       sections=sections, records=found.records, unfinished=found.unfinished)  # fmt: skip
        write_atomically(file, content.encode())
    _print(found.panels, console or Console())
    return file


def _picture(found: Compared, file: Path) -> None:
    panel = max(found.panels, key=lambda panel: len(panel.points))
    drawn = _chart(panel, "bytes", WIDE) or _chart(panel, "build", WIDE)
    if drawn is None:
        raise ValueError(f"no configuration on {panel.here} has bytes or seconds, so there is nothing to draw")
    save(drawn[0], file, f"{drawn[1]} ({clean(panel.here)})")


def _section(panel: Panel, folder: Path, i: int, png: bool) -> dict[str, Any]:
    """What the page shows of a panel: its two charts and its table."""
    key = f"pareto-{i + 1:02d}-{slug(f'{panel.model} {panel.task} {panel.scale}')}"
    points = ordered(panel)
    anchors = {id(p): f"{key}-arm-{n}" for n, p in enumerate(points, 1)}
    drawn = []
    for what in AXES:
        chart = _chart(panel, what, charts.WIDE, anchors)
        wide = _chart(panel, what, WIDE)
        if chart is not None and wide is not None:
            keep(wide[0], folder, f"{key}-{what}", wide[1], png=png)
            drawn.append({"svg": Markup(chart[0].inline(f"{key}-{what}")), "title": chart[1], "note": chart[0].note})
    return {"panel": panel, "key": key, "plots": drawn, "points": [(anchors[id(p)], p) for p in points]}


def _chart(
    panel: Panel, what: str, wide: float, anchors: Mapping[int, str] | None = None
) -> tuple[charts.Chart, str] | None:
    """The panel's points by one cost, and what is seen there in a sentence; None where nothing was measured."""
    spots = []
    for p, label in zip(panel.points, labels([p.arm for p in panel.points]), strict=True):
        cost = p.bytes / 1e6 if what == "bytes" else p.build
        anchor = f"#{anchors[id(p)]}" if anchors else ""
        spots.append(Spot(label, cost, p.value.value, p.value.low, p.value.high, anchor, what in p.on,
                          p is panel.original, p.broken))  # fmt: skip
    chart = charts.pareto(spots, cost=AXES[what], quality=clean(panel.metric), better=panel.better, wide=wide)  # type: ignore[arg-type]
    return None if chart is None else (chart, _title(spots, panel, what))


def _title(spots: Sequence[Spot], panel: Panel, what: str) -> str:
    """What somebody would take, why, and how many there are to choose from."""
    front, why = offered(panel, what)
    if not front:
        return f"{len(spots)} configurations, none of them on the Pareto front"
    first = spots[[p is front[0] for p in panel.points].index(True)]
    of = f"{why}, {clean(panel.metric)} {number(first.value)}"
    rest = f"{len(front)} of {len(spots)} configurations are on the Pareto front"
    return f"{first.label} is the {of}; {rest}"


def _print(groups: Sequence[Panel], console: Console) -> None:
    """Tables for a terminal, without the columns that a narrow one has no room for; plain text, as wide as it needs to
    be, where the output is piped."""
    if not console.is_terminal:
        console = Console(file=console.file, width=1000, no_color=True)
    for panel in groups:
        table = Table(title=Text(clean(panel.here)), title_justify="left", title_style="bold",
                      box=box.SIMPLE_HEAD if console.is_terminal else None)  # fmt: skip
        axes = [name.replace("_", " ") for name in panel.axes]
        headers = ("configuration", panel.metric, "95 %", "bits/weight", "MB", *axes, "build s", "front")
        rows = [(clean(p.arm), number(p.value.value), span(p.value.low, p.value.high), number(p.bits),
                 megabytes(p.bytes), *(number(p.axes.get(name, math.nan)) for name in panel.axes), seconds(p.build),
                 "broken" if p.broken else " ".join(p.on)) for p in ordered(panel)]  # fmt: skip
        kept = columns_that_fit(headers, rows, console.width - 2, drop=(*axes, *DROP), flexible=0)
        for i in kept:
            name, side = headers[i], "left" if headers[i] in ("configuration", "front") else "right"
            table.add_column(name, justify=side, overflow="fold", no_wrap=i > 0 or not console.is_terminal)  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*(Text(row[i]) for i in kept))
        console.print(table)
        console.print()
