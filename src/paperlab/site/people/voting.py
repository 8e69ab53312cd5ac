"""The vote beside a paper, on cards and pages: what a page needs of all its papers is asked for once.

Drawn by a function, not by a template: it stands on every card of a list. Whatever it is given is escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe

from paperlab.site.people import actions
from paperlab.site.people.models import Vote
from paperlab.site.store.prepared import Prepared

_OWN = Prepared(lambda user, papers: Vote.objects.filter(user=user, paper__in=papers).order_by().values_list("paper"))


@dataclass(frozen=True)
class Fields:
    """The hidden fields of a vote's form that do not depend on the paper, as HTML. token: against forged forms. next:
    where to go back to."""

    token: str
    next: str


@dataclass(frozen=True)
class Votes:
    """The votes that one answer shows. counts: as `actions.votes` has them. own: the papers that the reader voted for.
    fields: None for who has to sign in first."""

    counts: dict[int, tuple[int, int]]
    own: frozenset[int]
    fields: Fields | None


def fields(request: HttpRequest, token: object) -> Fields:
    """The hidden fields of every vote in an answer. token: as templates have it; reading it sets its cookie."""
    csrf = f'<input type="hidden" name="csrfmiddlewaretoken" value="{escape(str(token))}">' if token else ""
    return Fields(csrf, f'<input type="hidden" name="next" value="{escape(request.get_full_path())}">')


def of_page(context: Mapping[str, Any], key: int) -> Votes:
    """The votes on all papers that a page lists. context: the template's, with its request. key: one of the papers."""
    request: HttpRequest = context["request"]
    known: Votes | None = getattr(request, "paperlab_votes", None)
    if known is None or key not in known.counts:
        listed = [one.key for name in ("cards", "related") for one in context.get(name) or () if hasattr(one, "key")]
        keys = list({key, *listed})
        own, form = frozenset[int](), None
        if request.user.is_authenticated:
            own = frozenset(_OWN.column(request.user.pk, keys))
            form = fields(request, context.get("csrf_token"))
        known = request.paperlab_votes = Votes(actions.votes(keys), own, form)
    return known


def of_paper(context: Mapping[str, Any], key: int, url: str, elsewhere: int | None) -> SafeString:
    """The vote for one paper of a page, as HTML; nothing where there is no request. url: the paper's. elsewhere: the
    votes that daily lists showed."""
    if "request" not in context:
        return SafeString("\n")
    known = of_page(context, key)
    total, sources = actions.all_votes(known.counts[key], elsewhere)
    return html(url, total, sources, key in known.own, known.fields)


def html(url: str, total: int, sources: str, mine: bool, form: Fields | None) -> SafeString:
    """The number of votes as a button, with a form that needs no script; without `form` as a number, "" if it is 0."""
    said = f'<span class="hidden-word"> vote{"" if total == 1 else "s"}: {escape(sources)}</span>'
    if form is None:
        shown = f'<span aria-hidden="true">△</span> {total:,}{said}'
        return mark_safe(f'<span class="count" title="{escape(sources)}">{shown}</span>\n' if total else "\n")
    to = escape(f"{url}/vote")
    on, pressed, sign = ("0", "true", "▲") if mine else ("1", "false", "△")
    return mark_safe(
        f'<form method="post" action="{to}" class="inline" hx-post="{to}" hx-swap="outerHTML">{form.token}'
        f'<input type="hidden" name="on" value="{on}">{form.next}'
        f'<button data-vote aria-pressed="{pressed}" title="{escape(sources)}"><span aria-hidden="true">{sign}</span>'
        f" {total:,}{said}</button></form>\n"
    )
