"""Methods beside each other: quality against bytes and against build time, settings and hardware kept apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paperlab.core import record as store
from paperlab.core.files import write_atomically
from paperlab.core.methods import Method, methods
from paperlab.core.panels import Panel, chosen, front, holding, labels, ordered, panels, to_csv
from paperlab.core.record import Record
from paperlab.core.verdict import current
from paperlab.core.words import clean, columns_that_fit, megabytes, number, seconds, span
from paperlab.lab import plots
from paperlab.lab.pages import keep_plot, page, slug
from paperlab.lab.plots import Spot
from paperlab.lab.values import arm_value

DROP = ("front", "build s", "bits/weight", "95 %", "MB")  # what a narrow terminal does without, in this order


def compare(
    names: Sequence[str],
    out: Path,
    records: Iterable[Record] | None = None,
    *,
    known: Mapping[str, Method] | None = None,
    versions: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> Path:
    """Compare families or methods; print a table, write compare.html, compare.csv and plots/ into `out`.

    names: families ("quantization") or methods' slugs. All arms of a named method's checks are shown, and a named
    method wherever it was an arm of another's check; so a baseline can be named too. records: all that
    `core.record.read` finds, unless given; only finished ones under the present check are used. known, versions:
    the methods and the tasks' versions that decide which those are. Returns the page's path. Raises LookupError
    for an unknown name and ValueError where no finished record of these methods exists.
    """
    known = methods() if known is None else known
    slugs = chosen(names, known)
    everything = list(store.read() if records is None else records)
    today = current(everything, known, versions)
    live = [found for r in (*today.current, *today.repeated, *today.unfinished) if (found := holding(r, slugs))]
    used = [r for r in live if r.status == "finished"]
    groups = panels(used, arm_value)
    if not groups:
        left = f" ({len(live)} did not finish)" if live else ""
        checked = [s for s in slugs if s in known and known[s].card.checks] or slugs
        raise ValueError(f"no finished record of {', '.join(names)}{left}; `paperlab run {checked[0]}` makes one")
    file = out if out.suffix == ".html" else out / "compare.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file.with_suffix(".csv"), to_csv(groups).encode())
    sections = [_section(panel, file.parent / "plots", i) for i, panel in enumerate(groups)]
    content = page("compare.html", title=f"paperlab compare: {', '.join(names)}", names=", ".join(names),
                   sections=sections, records=len(used), unfinished=len(live) - len(used))  # fmt: skip
    write_atomically(file, content.encode())
    _print(groups, console or Console())
    return file


def _section(panel: Panel, folder: Path, i: int) -> dict[str, Any]:
    """What the page shows of a panel: its two plots and its table."""
    short = labels([p.arm for p in panel.points])
    key = f"pareto-{i + 1:02d}-{slug(f'{panel.model} {panel.task} {panel.scale}')}"
    drawn = []
    for what, axis in (("bytes", "size of the model, MB"), ("build", "time to build, seconds")):
        spots = []
        for p, label in zip(panel.points, short, strict=True):
            cost = p.bytes / 1e6 if what == "bytes" else p.build
            if math.isfinite(cost) and math.isfinite(p.value.value):
                spots.append(Spot(label, cost, p.value.value, p.value.low, p.value.high))
        if spots:
            plot, _ = plots.pareto(spots, title=_title(spots, panel, what), cost=axis, quality=clean(panel.metric),
                                   better=panel.better)  # type: ignore[arg-type]  # fmt: skip
            drawn.append(keep_plot(plot, folder, f"{key}-{what}"))
    return {"panel": panel, "key": key, "plots": drawn, "points": ordered(panel)}


def _title(spots: Sequence[Spot], panel: Panel, what: str) -> str:
    """The finding: how many lie on the front, and who is best."""
    on = len(front([(s.cost, s.value) for s in spots], panel.better))  # type: ignore[arg-type]
    best = (min if panel.better == "lower" else max)(spots, key=lambda s: s.value)
    lead = f"{best.label} has the best {clean(panel.metric)}"
    if on == 1:
        return f"{lead}, and none of the {len(spots)} arms {'is smaller' if what == 'bytes' else 'is built faster'}"
    return f"{lead}; {on} of {len(spots)} arms are on the front of quality and {'size' if what == 'bytes' else 'time'}"


def _print(groups: Sequence[Panel], console: Console) -> None:
    """Tables for a terminal, without the columns that a narrow one has no room for; plain text, as wide as it needs to
    be, where the output is piped."""
    if not console.is_terminal:
        console = Console(file=console.file, width=1000, no_color=True)
    for panel in groups:
        table = Table(title=Text(clean(panel.here)), title_justify="left", title_style="bold",
                      box=box.SIMPLE_HEAD if console.is_terminal else None)  # fmt: skip
        headers = ("arm", panel.metric, "95 %", "bits/weight", "MB", "build s", "front")
        rows = [(clean(p.arm), number(p.value.value), span(p.value.low, p.value.high), number(p.bits),
                 megabytes(p.bytes), seconds(p.build), " ".join(p.on)) for p in ordered(panel)]  # fmt: skip
        kept = columns_that_fit(headers, rows, console.width - 2, drop=DROP, flexible=0)
        for i in kept:
            name, side = headers[i], "left" if headers[i] in ("arm", "front") else "right"
            table.add_column(name, justify=side, overflow="fold", no_wrap=i > 0 or not console.is_terminal)  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*(Text(row[i]) for i in kept))
        console.print(table)
        console.print()
