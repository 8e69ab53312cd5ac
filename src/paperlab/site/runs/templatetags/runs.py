"""Template tags for the button and the form that run a check."""

from typing import Any

from django import template
from django.http import HttpRequest

from paperlab.core.methods import methods
from paperlab.site import door
from paperlab.site.runs.models import OPEN, Run
from paperlab.site.runs.views import form

register = template.Library()


@register.inclusion_tag("runs/form.html", takes_context=True)
def run_form(context: dict[str, Any], slug: str, claim: str = "") -> dict[str, Any]:
    """The form that runs a method's check; nothing where this reader may not run."""
    request: HttpRequest | None = context.get("request")
    method = methods().get(slug)
    if request is None or method is None or not door.is_keeper(request):
        return {}
    under_way = Run.objects.filter(method=slug, claim=claim, state__in=OPEN).defer("log").first()
    csrf = context.get("csrf_token")
    return {"form": form(method, claim), "fixed": True, "under_way": under_way, "csrf_token": csrf}


@register.simple_tag(takes_context=True)
def may_run(context: dict[str, Any]) -> bool:
    """Whether this reader may run something."""
    return "request" in context and door.is_keeper(context["request"])
