"""Filters and tags of the pages."""

import math
import re
from html import escape
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from paperlab.core import words
from paperlab.core.figures import ArmFigures, Value
from paperlab.site.pages import addresses, cards, drawing, static_files, text
from paperlab.site.people import voting

register = template.Library()
register.filter("rich", text.rich)
register.filter("paragraphs", text.paragraphs)
register.filter("plain", text.plain)
register.filter("web", addresses.web)


@register.simple_tag
def asset(path: str) -> str:
    """The address of a static file of the pages."""
    return static_files.address(f"pages/{path}")


@register.filter
def value(arm: ArmFigures, metric: str) -> Value:
    """An arm's figure by a metric."""
    return arm.value(metric)


@register.filter
def number(value: float | None) -> str:
    """A figure of four digits; a dash where there is none."""
    return words.number(math.nan if value is None else value)


@register.filter
def percent(value: float | None) -> str:
    """A relative gain."""
    return words.percent(math.nan if value is None else value)


@register.filter
def megabytes(value: float | None) -> str:
    """Bytes in millions."""
    return words.megabytes(value)


@register.filter
def seconds(value: float | None) -> str:
    """Seconds."""
    return words.seconds(math.nan if value is None else value)


@register.filter
def thousands(value: int | None) -> str:
    """A count: 12,345."""
    return "0" if value is None else f"{value:,}"


@register.simple_tag
def outdated(changes: list[str]) -> SafeString:
    """The badge of a verdict whose code or data changed since it was made; all changes stand in its title."""
    return format_html('<span class="badge outdated" title="{}">{}</span>', "; ".join(changes), words.outdated(changes))


@register.simple_tag
def badge(word: str, count: int = 0) -> SafeString:
    """The badge of a verdict's word."""
    return drawing.badge(cards.Badge(word if word in cards.SIGNS else "error", count))


register.simple_tag(drawing.badge, name="draw_badge")
register.simple_tag(drawing.ticks, name="draw_ticks")


@register.simple_tag(takes_context=True)
def draw_card(context: dict[str, Any], card: cards.Card, level: int | str = "", explain: bool | str = "") -> SafeString:
    """A paper in a list, with its vote. level, explain: "" where a template has none, as Django gives it."""
    vote = voting.of_paper(context, card.key, card.url, card.votes)
    return drawing.card(card, vote, int(level or 2), bool(explain))


@register.simple_tag
def things(count: int, one: str, many: str = "") -> str:
    """ "1 claim", "3 claims"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


@register.filter
def sentence(value: str) -> SafeString:
    """A sentence of our own, with what stands between backticks as code."""
    parts = re.split(r"`([^`]*)`", value[:1].upper() + value[1:])
    pieces = [f"<code>{escape(part)}</code>" if i % 2 else escape(part) for i, part in enumerate(parts)]
    return mark_safe("".join(pieces))
