"""Pages for what readers report and moderators decide. Nothing changes on GET; no script is needed."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from paperlab.site import door
from paperlab.site.pages import addresses
from paperlab.site.pages.refused import sentence
from paperlab.site.people import actions, moderation, who
from paperlab.site.people.models import Comment, Decision, Report
from paperlab.site.store import clean

PAGE = 30
LISTS = {"reported": "Reported", "latest": "Latest comments", "closed": "Closed accounts", "trail": "Decisions"}


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
def report(request: HttpRequest, pk: int) -> HttpResponse:
    """Report a comment to the moderators."""
    shown = Comment.objects.filter(hidden=False, user__is_active=True).select_related("paper", "user")
    row, user = get_object_or_404(shown, pk=pk), request.user
    assert isinstance(user, User)  # `who.person` has seen to it
    context = {
        "comment": row, "back": f"{addresses.paper(row.paper)}#comment-{row.pk}", "reasons": Report.REASONS,
        "reason": request.POST.get("reason", ""), "note": request.POST.get("note", "")[:500], "here": who.HERE,
    }  # fmt: skip
    if request.method != "POST":
        return render(request, "people/report.html", context)
    if slow := who.slow_down(request, "report", f"user {user.pk}"):
        wait = slow.headers["Retry-After"]
        answer = render(
            request,
            "people/report.html",
            {**context, "wrong": f"Too many reports; send it in {wait} seconds."},
            status=429,
        )
        answer.headers["Retry-After"] = wait
        return answer
    try:
        actions.report(user, row, context["reason"], context["note"])
    except actions.Refused as error:
        context["wrong"] = sentence(error)
        return render(request, "people/report.html", context, status=400)
    return render(request, "people/report.html", {**context, "done": True})


def _decide(request: HttpRequest, by: User) -> None:
    """Do what a button of the page says. Raises Refused."""
    asked = request.POST
    reason = moderation.told(asked.get("reason", ""), asked.get("note", ""))
    act = asked.get("do", "")
    if act in ("close", "open"):
        account = get_object_or_404(User, pk=clean.key(asked.get("account", "")))
        moderation.close(by, account, act == "close", reason)
    elif act in ("hide", "show", "dismiss"):
        row = get_object_or_404(Comment.objects.select_related("paper", "user"), pk=clean.key(asked.get("comment", "")))
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
    """Reported comments, the latest ones, closed accounts, and who decided what; by POST, a decision."""
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
    comments = Comment.objects.select_related("paper", "user").prefetch_related("reports__user")
    waiting = Q(reports__closed=None, reports__isnull=False)
    rows: Any = {
        "reported": lambda: (
            comments.annotate(
                open_reports=Count("reports", filter=waiting), reported=Max("reports__at", filter=waiting)
            )
            .filter(open_reports__gt=0)
            .order_by("-open_reports", "-reported", "-pk")
        ),
        "latest": lambda: comments.order_by("-at", "-pk"),
        "closed": lambda: User.objects.filter(is_active=False).order_by("-pk"),
        "trail": lambda: Decision.objects.select_related("by", "account", "comment__paper"),
    }[shown]()
    listed = Paginator(rows, PAGE).get_page(request.GET.get("page"))
    context = {
        "lists": LISTS, "show": shown, "page": listed, "rows": _shown(shown, list(listed)), "wrong": wrong,
        "reasons": Report.REASONS, "acts": Decision.ACTS, "here": who.HERE, "me": by,
        "waiting": Comment.objects.filter(waiting).distinct().count(),
    }  # fmt: skip
    return render(request, "people/moderation.html", context, status=400 if wrong else 200)


def _shown(what: str, rows: list[Any]) -> list[Any]:
    """The rows of a list, with what their lines say beside them."""
    for row in rows:
        if what in ("reported", "latest"):
            row.said = [one for one in row.reports.all() if one.closed is None]
            for one in row.said:
                one.words = Report.REASONS.get(one.reason, one.reason)
            row.first_reason = row.said[0].reason if row.said else "spam"
            row.closable = not (row.user.is_staff or row.user.is_superuser or row.user.username == who.HERE)
        elif what == "closed":
            row.why = moderation.why_closed(row)
        else:
            row.words = Decision.ACTS.get(row.act, row.act)
    return rows
