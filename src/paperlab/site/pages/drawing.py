"""Cards, badges and filters as HTML. By functions, not by templates: a list has thirty cards, each of some twenty
values, and a template takes ten times as long for each. Whatever is put in is escaped, unless it is marked as HTML."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from django.utils.safestring import SafeString, mark_safe

from paperlab.site.pages.cards import Badge, Card


def _out(value: object) -> str:
    """A value as it stands between tags and in attributes: escaped, but for what is HTML already."""
    return value if isinstance(value, SafeString) else escape(str(value))


@lru_cache(maxsize=1024)
def badge(one: Badge) -> SafeString:
    """A verdict's badge."""
    count = f" {one.count}" if one.count > 1 else ""
    where = f'<span class="where">: {_out(one.where)}</span>' if one.where else ""
    return mark_safe(
        f'<span class="badge {_out(one.kind)}" title="{_out(one.means)}">'
        f'<span aria-hidden="true">{_out(one.sign)}</span> {_out(one.label)}{count}{where}</span>\n'
    )


class Tick(NamedTuple):
    """A value of a filter that can be chosen. papers: how many, where it is known. label: where it is not the value."""

    value: str
    chosen: bool
    papers: int | None = None
    label: str = ""


def ticks(name: str, rows: Iterable[Tick]) -> SafeString:
    """The values of a filter of the search."""
    made = []
    for row in rows:
        value, checked = _out(row.value), " checked" if row.chosen else ""
        many = f'<span class="hidden-word"> paper{"" if row.papers == 1 else "s"}</span>'
        count = "" if row.papers is None else f' <span class="count">{row.papers:,}{many}</span>'
        made.append(
            f'<label class="tick"><input type="checkbox" form="search" name="{_out(name)}" value="{value}"{checked}>'
            f" {_out(row.label or row.value)}{count}</label>"
        )
    return mark_safe("".join(made))


def card(one: Card, vote: SafeString, level: int = 2, explain: bool = False) -> SafeString:
    """A paper in a list. vote: what stands beside it. level: of its heading. explain: say why a search found it."""
    url, title = _out(one.url), _out(one.title)
    parts = [
        f'<article class="card" data-card>\n<div class="votes">{_out(vote)}\n</div>\n<div class="body">\n'
        f'<h{level} class="name"><a href="{url}" dir="auto">{title}</a></h{level}>\n'
    ]
    if one.picture:
        parts.append(
            f'<a class="teaser" href="{url}" tabindex="-1" aria-hidden="true"><img src="/teasers/{_out(one.picture)}"'
            ' width="160" height="90" alt="" loading="lazy" decoding="async"></a>\n'
        )
    parts.append(f'<p class="who">{_who(one)}</p>\n')
    if one.snippet:
        parts.append(f'<p class="summary snippet" dir="auto">{_out(one.snippet)}</p>')
    elif one.summary:
        parts.append(f'<p class="summary" dir="auto">{_out(one.summary)}</p>')
    parts.append('\n<div class="facts">\n')
    if one.badges:
        parts.append(f'<span class="badges">{"".join(map(badge, one.badges))}</span>')
    parts.append("\n")
    if one.family:
        family = _out(one.family)
        parts.append(f'<a class="chip" href="/families/{family}">{family}</a>')
    parts.append("\n")
    if one.links:
        of = f'<span class="hidden-word"> of {_out(one.bare)}</span></a>'
        for link in one.links:
            means = f' title="{_out(link.means)}"' if link.means else ""
            parts.append(f'<a href="{_out(link.url)}" rel="noreferrer nofollow"{means}>{_out(link.label)}{of}')
    parts.append("\n")
    if one.comments:
        many = "" if one.comments == 1 else "s"
        hidden = '<span class="hidden-word"> on daily lists</span>'
        parts.append(f"<span>{one.comments:,} comment{many}{hidden}</span>")
    parts.append("\n\n")
    if one.keywords:
        found = (
            f'<a href="/search?q={_out(quote(word, safe=""))}" dir="auto">{_out(word)}</a>' for word in one.keywords
        )
        parts.append(f'<span class="keywords">{", ".join(found)}</span>')
    parts.append("\n</div>\n")
    if explain and one.why:
        score = Decimal(repr(one.score)).quantize(Decimal("0.001"), ROUND_HALF_UP)
        parts.append(f"<details><summary>Why this result</summary>Score {score:f}: {_out(one.why)}.</details>")
    parts.append("\n</div>\n</article>\n")
    return mark_safe("".join(parts))


def _who(one: Card) -> str:
    """Authors, organisation and day."""
    said = []
    if one.who:
        said.append(f"<bdi>{_out(one.who)}</bdi>{f' and {one.more} more' if one.more else ''}")
    if one.organisation:
        said.append(f"<bdi>{_out(one.organisation)}</bdi>")
    if one.day:
        said.append(f'<time datetime="{one.day}">{one.day.day} {one.day:%b} {one.day.year:04}</time>')
    else:
        said.append(str(one.year) if one.year else "")
    return " · ".join(said) + (" · withdrawn" if one.withdrawn else "")
