"""The frame of our self-contained HTML pages: palettes, number formats, templates with escaping always on."""

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from paperlab.core.files import write_atomically
from paperlab.core.words import SIGNS, clean, megabytes, number, percent, seconds, span
from paperlab.lab.plots import COLOURS, Plot

WORDS = SIGNS | {"interrupted": ("error", "…", "the run was stopped before its end")}

# The plot's colours and the page's own. Text on its ground reaches a contrast of 4.5 in both (tested).
LIGHT = {
    **COLOURS,
    "ground": "#f4f6f8",
    "link": "#0a5ca8",
    "holds": "#0b5d1e", "holds-ground": "#ddf3e0",
    "direction": "#0f5264", "direction-ground": "#d9eff4",
    "fails": "#8f1d14", "fails-ground": "#fbe3e0",
    "undecided": "#414b58", "undecided-ground": "#e4e8ee",
    "apart": "#553489", "apart-ground": "#ece4f8",
    "error": "#6f4400", "error-ground": "#fcebc4",
}  # fmt: skip
DARK = {
    "ink": "#e6e9ee", "soft": "#a9b2be", "line": "#39414d", "band": "#1c3047", "paper": "#171b21",
    "method": "#6cb2f7", "baseline": "#f0a05a", "beside": "#a3acb9",
    "ground": "#0f1216",
    "link": "#7dbbf8",
    "holds": "#93e4a6", "holds-ground": "#12341c",
    "direction": "#93d9e9", "direction-ground": "#0f323b",
    "fails": "#ffb3aa", "fails-ground": "#45150f",
    "undecided": "#c6cdd7", "undecided-ground": "#2b323c",
    "apart": "#cfb9f5", "apart-ground": "#2e2146",
    "error": "#f5cf85", "error-ground": "#3d2c08",
}  # fmt: skip


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
    environment.globals.update(light=LIGHT, dark=DARK, words=WORDS, span=span)
    return environment.get_template(template).render(**content)


def keep_plot(plot: Plot, folder: Path, name: str) -> Markup:
    """Write <folder>/<name>.svg and .png; returns the drawing for use inside a page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.svg", plot.svg.encode())
    write_atomically(folder / f"{name}.png", plot.png)
    return Markup(plot.inline(name))
