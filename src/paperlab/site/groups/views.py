"""Pages of groups. Who is not a member meets only public ones; others are not found, so that no name leaks."""

from typing import Any

from django.db.models import Prefetch
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from paperlab.site.groups import actions
from paperlab.site.groups.models import Group, Meeting, Member
from paperlab.site.pages.refused import sentence
from paperlab.site.people import moderation, who
from paperlab.site.people.actions import today
from paperlab.site.people.models import Collection, Kept
from paperlab.site.store import clean

PAST = 100  # meetings that were, on a page
PAPERS = 200  # of a collection


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def groups(request: HttpRequest) -> HttpResponse:
    """One's groups; by POST, a new one."""
    user, wrong = who.user(request), ""
    if request.method == "POST":
        try:
            made = actions.found(user, request.POST.get("name", ""), request.POST.get("about", ""))
            return redirect(f"/groups/{made.pk}")
        except actions.Refused as error:
            wrong = sentence(error)
    rows = Member.objects.filter(user=user).select_related("group__user").order_by("group__name", "group_id")
    moderation.look([one.group for one in rows], user)
    context = {"rows": rows, "wrong": wrong, "sent": request.POST}
    return render(request, "groups/groups.html", context, status=400 if wrong else 200)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def group(request: HttpRequest, pk: int) -> HttpResponse:
    """One group; by POST, whatever its forms do."""
    row = get_object_or_404(Group.objects.select_related("user"), pk=pk)
    member = Member.objects.filter(group=row, user=request.user.pk).first() if request.user.is_authenticated else None
    if member is None and (not row.public or request.method == "POST"):
        raise Http404("you are in no such group")
    if request.method == "POST" and member is not None:
        if wait := who.slow_down(request, "write", f"user {request.user.pk}"):
            return wait
        try:
            return redirect(_act(request, row, member))
        except actions.Refused as error:
            return _page(request, row, member, sentence(error))
    return _page(request, row, member)


def _page(request: HttpRequest, row: Group, member: Member | None, wrong: str = "") -> HttpResponse:
    now = today()
    meetings = row.meetings.select_related("paper", "user")
    coming, past = meetings.filter(day__gte=now), meetings.filter(day__lt=now).order_by("-day", "-pk")[:PAST]
    kept = Kept.objects.select_related("paper", "user", "collection__user")[:PAPERS]
    rows = row.shared.select_related("collection__user").prefetch_related(
        Prefetch("collection__kept", kept, to_attr="listed")
    )
    if member is None:  # that the group's page is public was not for the owner of each collection to say
        rows = rows.exclude(collection__shared="")
    shared = [(one.collection, one.collection.listed) for one in rows]
    written = [row, *coming, *past, *(collection for collection, _ in shared)]
    moderation.look([*written, *(one for _, listed in shared for one in listed)], request.user)
    context: dict[str, Any] = {
        "row": row,
        "member": member,
        "wrong": wrong,
        "sent": request.POST,
        "coming": coming,
        "past": past,
        "shared": shared,
        "today": now,
        "here": who.HERE,
    }
    if member is not None:
        context["members"] = row.members.select_related("user")
        context["own"] = Collection.objects.filter(user=member.user_id).exclude(in_groups__group=row)
    if member is not None and member.leads:
        word = actions.invitation(row)
        context["invitation"] = f"{request.scheme}://{request.get_host()}/groups/join/{word}"
    return render(request, "groups/group.html", context, status=400 if wrong else 200)


def _act(request: HttpRequest, row: Group, member: Member) -> str:
    """Do what a form of the page asks for; where to go then. Raises Refused."""
    sent, user, here = request.POST, who.user(request), f"/groups/{row.pk}"
    do = sent.get("do", "")
    if do == "meet":
        made = actions.meet(
            row, user, sent.get("day", ""), sent.get("paper", ""), sent.get("presenter", ""), sent.get("notes", "")
        )
        return f"{here}#meeting-{made.pk}"
    if do in ("share", "unshare"):
        actions.share(row, user, clean.key(sent.get("collection", "")), do == "share")
        return f"{here}#collections"
    if do == "add":
        actions.add(row, user, clean.key(sent.get("collection", "")), sent.get("paper", ""), sent.get("note", ""))
        return f"{here}#collections"
    if do == "leave":
        member.delete()
        return "/groups"
    if not member.leads:
        raise Http404("unknown action")
    if do == "change":
        actions.change(row, user, sent.get("name", ""), sent.get("about", ""), sent.get("public") == "1")
    elif do == "remove":
        actions.remove(row, get_object_or_404(Member, group=row, pk=clean.key(sent.get("member", ""))))
    elif do == "lead":
        Member.objects.filter(group=row, pk=clean.key(sent.get("member", ""))).update(leads=True)
    elif do == "renew":
        actions.renew(row)
    elif do == "delete":
        if sent.get("word", "").strip().lower() != "delete":
            raise actions.Refused("nothing was deleted: the word “delete” was not there")
        row.delete()
        return "/groups"
    return f"{here}#people"


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def meeting(request: HttpRequest, pk: int) -> HttpResponse:
    """Change a meeting of a group that one is in, write its notes, or delete it."""
    row = get_object_or_404(Meeting.objects.select_related("group__user", "paper", "user"), pk=pk)
    get_object_or_404(Member, group=row.group, user=who.user(request))
    here, wrong = f"/groups/{row.group_id}", ""
    if request.method == "POST":
        if request.POST.get("do") == "delete":
            row.delete()
            return redirect(f"{here}#club")
        day, paper, presenter, notes = (request.POST.get(name, "") for name in ("day", "paper", "presenter", "notes"))
        try:
            actions.meet(row.group, who.user(request), day, paper, presenter, notes, row)
            return redirect(f"{here}#meeting-{row.pk}")
        except actions.Refused as error:
            wrong = sentence(error)
    moderation.look([row, row.group], request.user)
    context = {"row": row, "back": here, "wrong": wrong, "sent": request.POST if wrong else None}
    return render(request, "groups/meeting.html", context, status=400 if wrong else 200)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def join(request: HttpRequest, word: str) -> HttpResponse:
    """An invitation: reading it asks, the button joins."""
    row, wrong = actions.invited(word), ""
    if row is None:
        answer = render(request, "groups/join.html", {"row": None}, status=410)
    elif request.method == "POST":
        try:
            actions.join(row, who.user(request))
            return redirect(f"/groups/{row.pk}")
        except actions.Refused as error:
            wrong = sentence(error)
            answer = render(request, "groups/join.html", {"row": row, "wrong": wrong}, status=400)
    else:
        answer = render(request, "groups/join.html", {"row": row})
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer
