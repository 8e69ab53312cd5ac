"""Pages and forms for votes, comments, collections and the account. Nothing changes on GET; no script is needed."""

import json
from typing import Any

from django.contrib.auth import logout, update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from paperlab.site.pages import addresses, cards
from paperlab.site.pages.paper import find
from paperlab.site.pages.refused import refused
from paperlab.site.people import actions, who
from paperlab.site.people.models import Collection, Comment, Follow, Submission
from paperlab.site.store.models import Paper

PAGE = 50
FORGET = "delete"  # the word that confirms


def _user(request: HttpRequest) -> User:
    user = request.user
    assert isinstance(user, User)  # `who.person` has seen to it
    return user


def _on(request: HttpRequest) -> bool:
    return request.POST.get("on", "1") == "1"


def _piece(request: HttpRequest, template: str, context: dict[str, Any], back: str) -> HttpResponse:
    """The changed piece for htmx, the page it is on for others."""
    if request.headers.get("HX-Request") == "true":
        return render(request, template, context)
    return redirect(who.back(request, back))


@never_cache
@require_POST
@who.person
def vote(request: HttpRequest, name: str) -> HttpResponse:
    """Vote for a paper, or no longer."""
    paper = find(name)
    actions.vote(_user(request), paper, _on(request))
    context = {
        "key": paper.pk,
        "url": addresses.paper(paper),
        "mine": _on(request),
        "count": actions.votes([paper.pk]).get(paper.pk, 0),
    }
    return _piece(request, "people/vote.html", context, context["url"])


@never_cache
@require_POST
@who.person
def read(request: HttpRequest, name: str) -> HttpResponse:
    """Mark a paper as read, or as unread."""
    paper = find(name)
    actions.read(_user(request), paper, _on(request))
    return redirect(who.back(request, addresses.paper(paper)))


@never_cache
@require_POST
@who.person
def add_comment(request: HttpRequest, name: str) -> HttpResponse:
    """Comment on a paper."""
    paper = find(name)
    try:
        made = actions.comment(_user(request), paper, request.POST.get("body", ""), request.POST.get("once", ""))
    except actions.Refused as error:
        return refused(request, 400, "Not said", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    return redirect(f"{addresses.paper(paper)}#comment-{made.pk}")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def comment(request: HttpRequest, pk: int) -> HttpResponse:
    """Edit or delete one's own comment; those of others are not found."""
    made = get_object_or_404(Comment.objects.select_related("paper"), pk=pk, user=_user(request))
    where = addresses.paper(made.paper)
    if request.method != "POST":
        return render(request, "people/comment.html", {"comment": made, "back": where})
    if request.POST.get("do") == "delete":
        actions.delete_comment(made)
        return redirect(f"{where}#comments")
    try:
        actions.edit_comment(made, request.POST.get("body", ""))
    except actions.Refused as error:
        return refused(request, 400, "Not changed", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    return redirect(f"{where}#comment-{made.pk}")


@never_cache
@require_POST
@who.person
def keep(request: HttpRequest, name: str) -> HttpResponse:
    """Put a paper into a collection (by number, or by the name of a new one), or take it out."""
    paper, user = find(name), _user(request)
    number = request.POST.get("collection", "")
    if number.isascii() and number.isdigit() and len(number) < 19:
        collection = get_object_or_404(Collection, pk=int(number), user=user)
    else:
        try:
            collection = actions.collect(user, request.POST.get("new", ""))
        except actions.Refused as error:
            return refused(request, 400, "Not kept", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    actions.keep(collection, paper, _on(request), request.POST.get("note"))
    return redirect(who.back(request, addresses.paper(paper)))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def collections(request: HttpRequest) -> HttpResponse:
    """One's collections; by POST, a new one."""
    if request.method == "POST":
        try:
            made = actions.collect(_user(request), request.POST.get("name", ""), request.POST.get("note", ""))
        except actions.Refused as error:
            return refused(request, 400, "Not made", f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return redirect(f"/collections/{made.pk}")
    return render(request, "people/collections.html", {"rows": Collection.objects.filter(user=_user(request))})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def collection(request: HttpRequest, pk: int) -> HttpResponse:
    """One collection; by POST, its note, or its end."""
    row = get_object_or_404(Collection, pk=pk, user=_user(request))
    if request.method == "POST":
        if request.POST.get("do") == "delete":
            row.delete()
            return redirect("/collections")
        row.note = request.POST.get("note", "")[: actions.NOTE].replace("\0", "")
        row.save(update_fields=["note"])
        return redirect(f"/collections/{pk}")
    page = Paginator(row.kept.select_related("paper"), PAGE).get_page(request.GET.get("page"))
    kept = list(page)
    shown = zip(kept, cards.of_rows([one.paper for one in kept]), strict=True)
    return render(request, "people/collection.html", {"row": row, "page": page, "kept": list(shown)})


@never_cache
@require_POST
@who.person
def follow(request: HttpRequest) -> HttpResponse:
    """Follow a family, an author, a search or a claim, or no longer."""
    try:
        actions.follow(_user(request), request.POST.get("kind", ""), request.POST.get("value", ""), _on(request))
    except actions.Refused as error:
        return refused(request, 400, "Not followed", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    return redirect(who.back(request, "/account"))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def submit(request: HttpRequest) -> HttpResponse:
    """Ask for a paper by its arXiv id."""
    wrong, user = "", _user(request)
    if request.method == "POST":
        if wait := who.slow_down(request, "submit", f"user {user.pk}"):
            return wait
        try:
            result = actions.submit(user, request.POST.get("arxiv", ""))
        except actions.Refused as error:
            wrong = str(error)
        else:
            return redirect(addresses.paper(result) if isinstance(result, Paper) else "/submit")
    context = {"wrong": wrong, "rows": Submission.objects.filter(user=user)[:PAGE]}
    return render(request, "people/submit.html", context, status=400 if wrong else 200)


@never_cache
@sensitive_post_parameters("password", "old")
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def account(request: HttpRequest) -> HttpResponse:
    """What one has here; by POST, a name or a password."""
    user, wrong = _user(request), ""
    if request.method == "POST" and "name" in request.POST:
        try:
            actions.rename(user, request.POST["name"])
            return redirect("/account")
        except actions.Refused as error:
            wrong = f"{str(error)[:1].upper()}{str(error)[1:]}."
    elif request.method == "POST":
        password = request.POST.get("password", "")[:4096]
        known = user.has_usable_password() and bool(user.password)
        if known and (wait := who.slow_down(request, "password", user.username)):
            return wait
        try:
            if known and not user.check_password(request.POST.get("old", "")[:4096]):
                raise ValidationError("This is not your current password; nothing was changed.")
            if password:
                validate_password(password, user)
                user.set_password(password)
            else:
                user.set_unusable_password()
            user.save(update_fields=["password"])
            update_session_auth_hash(request, user)  # other sessions end with the old password
            return redirect("/account")
        except ValidationError as error:
            wrong = " ".join(error.messages)
    context = {
        "wrong": wrong,
        "local": who.local(request) and user.username == who.HERE,
        "password": user.has_usable_password() and bool(user.password),
        "follows": Follow.objects.filter(user=user),
        "forget": FORGET,
    }
    return render(request, "people/account.html", context, status=400 if wrong else 200)


@never_cache
@require_GET
@who.person
def export(request: HttpRequest) -> HttpResponse:
    """All that is known of oneself, as JSON."""
    body = json.dumps(actions.export(_user(request)), ensure_ascii=False, indent=2)
    headers = {"Content-Disposition": 'attachment; filename="paperlab-my-data.json"'}
    return HttpResponse(body, content_type="application/json", headers=headers)


@never_cache
@require_POST
@who.person
def forget(request: HttpRequest) -> HttpResponse:
    """Delete one's account with all that it holds; the word is asked for, so that no slip does it."""
    if request.POST.get("word", "").strip().lower() != FORGET:
        return refused(request, 400, "Nothing was deleted", f"The word {FORGET!r} was not there.")
    user = User.objects.filter(pk=_user(request).pk).first()
    if user is None:
        raise Http404("no such account")
    logout(request)
    actions.forget(user)
    return render(request, "people/forgotten.html")
