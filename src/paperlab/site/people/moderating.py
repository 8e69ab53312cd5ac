"""Pages for what readers report and moderators decide. Nothing changes on GET; no script is needed."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Max
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from paperlab.site import door
from paperlab.site.pages.refused import sentence
from paperlab.site.people import actions, moderation, who
from paperlab.site.people.models import Decision, Report, Written, kinds
from paperlab.site.store import clean

PAGE = 30
LISTS = {"reported": "Reported", "latest": "Latest", "closed": "Closed accounts", "trail": "Decisions"}


def moderator(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A view for moderators, who are not limited: clearing up after a flood is many clicks."""

    @wraps(view)
    def inner(request: HttpRequest, *words: Any, **named: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect(f"/sign-in?{urlencode({'next': '/moderation'})}")
        if not door.is_keeper(request):
            raise PermissionDenied
        return view(request, *words, **named)

    return inner


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def report(request: HttpRequest, kind: str, pk: int) -> HttpResponse:
    """Report to the moderators what somebody wrote. What one cannot read is not found; `?link=` is the end of a shared
    link, where it is read by one."""
    user, link, model = who.user(request), request.GET.get("link", ""), kinds().get(kind)
    row = moderation.find(kind, pk, model.shown(), model.readable(user, link)) if model else None
    if row is None:
        raise Http404("there is no such thing to report, or it was hidden")
    context = {
        "row": row, "back": f"/shared/{link}" if link else row.where, "reasons": Report.REASONS,
        "reason": request.POST.get("reason", ""), "note": request.POST.get("note", "")[:500], "here": who.HERE,
    }  # fmt: skip
    status, wait = 200, ""
    if request.method == "POST":
        if slow := who.slow_down(request, "report", f"user {user.pk}"):
            status, wait = 429, slow.headers["Retry-After"]
            context["wrong"] = f"Too many reports; send it in {wait} seconds."
        else:
            try:
                moderation.report(user, row, context["reason"], context["note"])
                context["done"] = True
            except actions.Refused as error:
                status, context["wrong"] = 400, sentence(error)
    answer = render(request, "people/report.html", context, status=status)
    if wait:
        answer.headers["Retry-After"] = wait
    answer.headers["Referrer-Policy"] = "same-origin"  # the address may hold a link's key
    return answer


def _decide(request: HttpRequest, by: User) -> None:
    """Do what a button of the page says. Raises Refused."""
    asked = request.POST
    reason = moderation.told(asked.get("reason", ""), asked.get("note", ""))
    act = asked.get("do", "")
    if act in ("close", "open"):
        account = get_object_or_404(User, pk=clean.key(asked.get("account", "")))
        moderation.close(by, account, act == "close", reason)
    elif act in ("hide", "show", "dismiss"):
        row = moderation.find(asked.get("kind", ""), clean.key(asked.get("thing", "")))
        if row is None:
            raise Http404("it is gone")
        if act == "dismiss":
            moderation.dismiss(by, row)
        else:
            moderation.hide(by, row, act == "hide", reason)
    else:
        raise actions.Refused("choose what to do")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@moderator
def page(request: HttpRequest) -> HttpResponse:
    """What was reported, the latest of each kind, closed accounts, and who decided what; by POST, a decision."""
    by, wrong = request.user, ""
    assert isinstance(by, User)  # `moderator` has seen to it
    if request.method == "POST":
        try:
            _decide(request, by)
            return redirect(who.back(request, "/moderation"))
        except actions.Refused as error:
            wrong = sentence(error)
    shown = request.GET.get("show", "")
    shown = shown if shown in LISTS else "reported"
    known = kinds()
    kind = request.GET.get("kind", "")
    kind = kind if kind in known else "comment"
    waiting = Report.objects.filter(closed=None).values("what", "which").annotate(count=Count("pk"), last=Max("at"))
    rows: Any = {
        "reported": lambda: waiting.order_by("-count", "-last", "-which"),
        "latest": lambda: known[kind].objects.filter(known[kind].public_ones()).order_by("-pk").distinct(),
        "closed": lambda: User.objects.filter(is_active=False).order_by("-pk"),
        "trail": lambda: Decision.objects.select_related("by", "account").prefetch_related("thing"),
    }[shown]()
    listed = Paginator(rows, PAGE).get_page(request.GET.get("page"))
    context = {
        "lists": LISTS, "show": shown, "page": listed, "rows": _shown(shown, list(listed)), "wrong": wrong,
        "reasons": Report.REASONS, "acts": Decision.ACTS, "here": who.HERE, "me": by, "kinds": list(known),
        "kind": kind, "kept": urlencode({"show": shown, **({"kind": kind} if shown == "latest" else {})}),
        "waiting": waiting.order_by().count(),
    }  # fmt: skip
    return render(request, "people/moderation.html", context, status=400 if wrong else 200)


def _reported(waiting: list[dict[str, Any]]) -> list[Written]:
    """The things of some reports, in their order."""
    found: dict[tuple[int, int], Written] = {}
    for what in {one["what"] for one in waiting}:
        model = ContentType.objects.get_for_id(what).model_class()
        assert model is not None  # reports go with the table of what they are about
        things = model._default_manager.in_bulk([one["which"] for one in waiting if one["what"] == what])
        found |= {(what, pk): thing for pk, thing in things.items()}
    return [found[key] for one in waiting if (key := (one["what"], one["which"])) in found]


def _shown(what: str, rows: list[Any]) -> list[Any]:
    """The rows of a list, with what their lines say beside them."""
    if what in ("reported", "latest"):
        rows = _reported(rows) if what == "reported" else rows
        for row in rows:
            row.said = list(row.reports.filter(closed=None).order_by("at", "pk"))
            for one in row.said:
                one.words = Report.REASONS.get(one.reason, one.reason)
            row.first_reason = row.said[0].reason if row.said else "spam"
            by = row.writer
            row.closable = by is not None and not (by.is_staff or by.is_superuser or by.username == who.HERE)
    for row in rows:
        if what == "closed":
            row.why = moderation.why_closed(row)
        elif what == "trail":
            row.words = Decision.ACTS.get(row.act, row.act)
    return rows
