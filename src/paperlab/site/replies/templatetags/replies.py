"""Template tags: what the authors say, beside the verdicts."""

from typing import Any

from django import template
from django.conf import settings
from django.http import HttpRequest

from paperlab.site.pages import addresses
from paperlab.site.people import moderation, who
from paperlab.site.replies.models import SHOWN, Reply
from paperlab.site.store.models import Paper

register = template.Library()


def _shown(context: dict[str, Any], row: Paper) -> dict[str, list[Reply]]:
    """The replies that a page shows, by claim, asked for once."""
    request: HttpRequest = context["request"]
    known: dict[str, list[Reply]] | None = getattr(request, "paperlab_replies", None)
    if known is None:
        known = {}
        if settings.PAPERLAB_REPLIES:
            shown = Reply.objects.filter(paper=row, state=SHOWN, user__is_active=True).select_related("user")
            moderation.look(shown, request.user)
            for one in shown:
                known.setdefault(one.claim, []).append(one)
        request.paperlab_replies = known
    return known


@register.inclusion_tag("replies/shown.html", takes_context=True)
def replies_to(context: dict[str, Any], row: Paper | None, claim: str = "") -> dict[str, Any]:
    """The replies to one claim; without one, those to the paper as a whole, and the way to write one."""
    if row is None or "request" not in context:
        return {}
    return {
        "replies": _shown(context, row).get(claim, []),
        "here": who.HERE,
        "url": addresses.paper(row) if settings.PAPERLAB_REPLIES and not claim else "",
    }
