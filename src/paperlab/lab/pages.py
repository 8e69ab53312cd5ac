"""The frame of our self-contained HTML pages, and charts as files."""

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from paperlab.core.charts import DARK, LIGHT, STYLE, Chart
from paperlab.core.files import write_atomically
from paperlab.core.install import hint
from paperlab.core.words import SIGNS, clean, megabytes, number, outdated, percent, seconds, span

WIDE = 560  # of a chart in a file of its own
WORDS = SIGNS | {"interrupted": ("error", "…", "the run was stopped before its end")}


class NoPicture(RuntimeError):
    """A PNG cannot be drawn here; the message says what to install."""


def slug(text: str) -> str:
    """A word that is safe in a file name and in an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def page(template: str, **content: Any) -> str:
    """Fill a template of this folder. Everything is escaped but what is already `Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(number=number, percent=percent, megabytes=megabytes, seconds=seconds, clean=clean)
    environment.globals.update(
        light=LIGHT, dark=DARK, plot_style=Markup(STYLE), words=WORDS, span=span, outdated=outdated
    )
    return environment.get_template(template).render(**content)


def keep(chart: Chart, folder: Path, name: str, heading: str, *, png: bool) -> None:
    """Write <folder>/<name>.svg, and .png if asked for. Raises NoPicture where that cannot be drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png") if png else ("svg",):
        save(chart, folder / f"{name}.{suffix}", heading)


def save(chart: Chart, file: Path, heading: str) -> None:
    """Write a chart as an SVG or PNG file, by the name's ending. Raises NoPicture."""
    drawn = chart.file(heading)
    write_atomically(file, to_png(drawn) if file.suffix.lower() == ".png" else drawn.encode())


def to_png(svg: str, zoom: float = 1.5) -> bytes:
    """An SVG drawing as PNG, `zoom` times its size in CSS pixels. Raises NoPicture."""
    try:
        import resvg_py
    except ImportError:
        raise NoPicture(f"PNG needs resvg-py, which is not installed: {hint('png')}; SVG needs nothing") from None
    if not _has_type(resvg_py):
        raise NoPicture("PNG needs a font, and this machine has none: install one, e.g. fonts-dejavu-core")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom, sans_serif_family="DejaVu Sans"))


def _has_type(resvg: Any) -> bool:
    """Whether letters are drawn: without a font they are missing in silence."""
    with_letters, without = (
        bytes(resvg.svg_to_bytes(svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">{inside}'
                                            "</svg>"))
        for inside in ('<text y="15" font-family="DejaVu Sans, Verdana, sans-serif">m</text>', "")
    )  # fmt: skip
    return with_letters != without
