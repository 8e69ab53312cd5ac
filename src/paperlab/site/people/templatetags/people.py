"""Template tags for votes, comments and collections."""

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from django import template
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from paperlab.core.methods import methods
from paperlab.core.paper import FAMILIES
from paperlab.site import door, tex
from paperlab.site.pages import addresses
from paperlab.site.people import actions, mine, moderation, voting, who
from paperlab.site.people.markdown import html
from paperlab.site.people.models import UNREAD, Collection, Comment, Follow
from paperlab.site.search import families, query
from paperlab.site.store.models import Paper
from paperlab.site.store.prepared import Prepared

register = template.Library()
register.filter("markdown", html)
SHOWN = 200  # comments on a page


@register.filter
def search_words(value: str) -> str:
    """A followed search as its reader wrote it: "q=speech+codec" as "speech codec"."""
    try:
        return str(query.read(parse_qs(value)))
    except query.BadQuery:  # kept by an older version
        return value


@register.simple_tag(takes_context=True)
def vote_button(context: dict[str, Any], key: int, url: str, elsewhere: int | None = None) -> SafeString:
    """The vote for one paper. elsewhere: the votes that daily lists showed."""
    return voting.of_paper(context, key, url, elsewhere)


@register.simple_tag
def paper_url(row: Paper) -> str:
    """The address of a paper's page."""
    return addresses.paper(row)


@register.simple_tag
def paper_name(row: Paper) -> str:
    """The name by which a paper is asked for."""
    return addresses.name(row)


_COMMENTED = Prepared(lambda paper: Comment.objects.filter(paper=paper).order_by().values_list("pk")[:1])
_COLLECTIONS = Prepared(lambda user: Collection.objects.filter(user=user))
_KEPT_IN = Prepared(lambda user, paper: Collection.objects.filter(user=user, kept__paper=paper))
_FOLLOWED = Prepared(lambda user: Follow.objects.filter(user=user).order_by().values_list("kind", "value"))


@register.inclusion_tag("people/comments.html", takes_context=True)
def comments_of(context: dict[str, Any], row: Paper) -> dict[str, Any]:
    """The comments on a paper, and the reader's forms."""
    request: HttpRequest | None = context.get("request")
    if request is None:
        return {}
    user = request.user if request.user.is_authenticated else None
    comments: list[Comment] = []
    if _COMMENTED.rows(row.pk):  # few papers are, and this is the longest query of their page
        comments = list(Comment.objects.filter(paper=row, user__is_active=True).select_related("user")[:SHOWN])
    moderation.look(comments, user)
    claims = [
        f"{method.slug}:{check.claim}"
        for method in methods().values()
        for check in method.card.checks
        if row.slug and method.card.paper == row.slug and check.role == "claim"
    ]
    shown: dict[str, Any] = {
        "request": request, "user": user, "row": row, "url": addresses.paper(row), "comments": comments,
        "once": actions.once(), "csrf_token": context.get("csrf_token"), "here": who.HERE,
    }  # fmt: skip
    if user is not None:
        seen = mine.seen(request, row)
        shown["seen"] = seen if seen and seen.state != UNREAD else None
        shown["collections"] = _COLLECTIONS.objects(user.pk)
        shown["kept"] = _KEPT_IN.objects(user.pk, row.pk) if shown["collections"] else []
        followed = set(map(tuple, _FOLLOWED.rows(user.pk)))
        wanted = [("family", row.family)] if row.family else []
        wanted += [("author", name) for name in tex.names(row.authors[:6])] + [("claim", name) for name in claims]
        shown["follows"] = [(kind, value, (kind, value) in followed) for kind, value in wanted]
    return shown


@register.simple_tag(takes_context=True)
def is_local(context: dict[str, Any]) -> bool:
    """Whether the reader sits at this machine and need not sign in."""
    return "request" in context and who.local(context["request"])


@lru_cache(maxsize=64)
def _options(chosen: str) -> SafeString:
    """The families to choose from."""
    return format_html_join("", "<option{}>{}</option>", ((" selected" * (one == chosen), one) for one in FAMILIES))


@register.inclusion_tag("people/family.html", takes_context=True)
def family_of(context: dict[str, Any], row: Paper) -> dict[str, Any]:
    """A paper's family, whether it was guessed, and the owner's form to correct it."""
    request: HttpRequest | None = context.get("request")
    by, sure = families.origin(row)
    return {
        "row": row, "url": addresses.paper(row), "families": _options(row.family),
        "csrf_token": context.get("csrf_token"),
        "owner": request is not None and door.is_keeper(request), "corrected": by == families.PERSON,
        "sure": f"{round(100 * float(sure))} %" if by == families.GUESSED else "",
    }  # fmt: skip
