"""Pages and forms for votes, comments, collections and the account. Nothing changes on GET; no script is needed."""

import json

from django.contrib.auth import logout, update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from paperlab.site import door
from paperlab.site.pages import addresses
from paperlab.site.pages.paper import find
from paperlab.site.pages.refused import refused, sentence
from paperlab.site.people import actions, signing, voting, who
from paperlab.site.people.models import Collection, Comment, Follow, Submission
from paperlab.site.search import families
from paperlab.site.store import clean
from paperlab.site.store.models import Paper

PAGE = 50
FORGET = "delete"  # the word that confirms


def _on(request: HttpRequest) -> bool:
    return request.POST.get("on", "1") == "1"


@never_cache
@require_POST
@who.person
def family(request: HttpRequest, name: str) -> HttpResponse:
    """Correct a paper's family: for whoever owns the site."""
    if not door.is_keeper(request):
        return refused(request, 403, "You cannot change this", "Only the site's owner can change families.")
    paper = find(name)
    try:
        families.correct(paper, request.POST.get("family", ""))
    except ValueError as error:
        return refused(request, 400, "No such family", str(error))
    return redirect(addresses.paper(paper))


@never_cache
@require_POST
@who.person
def vote(request: HttpRequest, name: str) -> HttpResponse:
    """Vote for a paper, or no longer. htmx gets the changed piece, others the page that it is on."""
    paper = find(name)
    actions.vote(who.user(request), paper, _on(request))
    url = addresses.paper(paper)
    if request.headers.get("HX-Request") != "true":
        return redirect(who.back(request, url))
    total, sources = actions.all_votes(actions.votes([paper.pk])[paper.pk], paper.upvotes)
    form = voting.fields(request, get_token(request))
    return HttpResponse(voting.html(url, total, sources, _on(request), form))


@never_cache
@require_POST
@who.person
def read(request: HttpRequest, name: str) -> HttpResponse:
    """Mark a paper as read, or as unread."""
    paper = find(name)
    actions.read(who.user(request), paper, _on(request))
    return redirect(who.back(request, addresses.paper(paper)))


def _unposted(request: HttpRequest, where: str, wrong: str, status: int = 400) -> HttpResponse:
    """The form of a comment that was not taken, with its text."""
    context = {"wrong": wrong, "back": where, "to": f"{where}/comment", "body": request.POST.get("body", "")}
    return render(request, "people/comment.html", {**context, "once": request.POST.get("once", "")}, status=status)


@never_cache
@require_POST
@who.person
def add_comment(request: HttpRequest, name: str) -> HttpResponse:
    """Comment on a paper."""
    paper, user = find(name), who.user(request)
    if slow := who.slow_down(request, "comment", f"user {user.pk}"):
        wait = slow.headers["Retry-After"]
        answer = _unposted(request, addresses.paper(paper), f"Too many comments; post it in {wait} seconds.", 429)
        answer.headers["Retry-After"] = wait
        return answer
    try:
        made = actions.comment(user, paper, request.POST.get("body", ""), request.POST.get("once", ""))
    except actions.Refused as error:
        return _unposted(request, addresses.paper(paper), sentence(error))
    return redirect(f"{addresses.paper(paper)}#comment-{made.pk}")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def comment(request: HttpRequest, pk: int) -> HttpResponse:
    """Edit or delete one's own comment; those of others are not found."""
    made = get_object_or_404(Comment.objects.select_related("paper"), pk=pk, user=who.user(request))
    where = addresses.paper(made.paper)
    context = {"comment": made, "back": where, "body": made.body}
    if request.method != "POST":
        return render(request, "people/comment.html", context)
    if request.POST.get("do") == "delete":
        actions.delete_comment(made)
        return redirect(f"{where}#comments")
    try:
        actions.edit_comment(made, request.POST.get("body", ""))
    except actions.Refused as error:
        context |= {"wrong": sentence(error), "body": request.POST.get("body", "")}
        return render(request, "people/comment.html", context, status=400)
    return redirect(f"{where}#comment-{made.pk}")


@never_cache
@require_POST
@who.person
def keep(request: HttpRequest, name: str) -> HttpResponse:
    """Put a paper into a collection (by number, or by the name of a new one), or take it out."""
    paper, user = find(name), who.user(request)
    number = request.POST.get("collection", "")
    if pk := clean.key(number):
        collection = get_object_or_404(Collection, pk=pk, user=user)
    else:
        try:
            collection = actions.collect(user, request.POST.get("new", ""))
        except actions.Refused as error:
            return refused(request, 400, "Not saved", sentence(error))
    try:
        actions.keep(collection, paper, _on(request), request.POST.get("note"), request.POST.get("tags"))
    except actions.Refused as error:
        return refused(request, 400, "Not saved", sentence(error))
    return redirect(who.back(request, addresses.paper(paper)))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def collections(request: HttpRequest) -> HttpResponse:
    """One's collections; by POST, a new one."""
    if request.method == "POST":
        try:
            made = actions.collect(who.user(request), request.POST.get("name", ""), request.POST.get("note", ""))
        except actions.Refused as error:
            return refused(request, 400, "Not created", sentence(error))
        return redirect(f"/collections/{made.pk}")
    return render(request, "people/collections.html", {"rows": Collection.objects.filter(user=who.user(request))})


@never_cache
@require_POST
@who.person
def follow(request: HttpRequest) -> HttpResponse:
    """Follow a family, an author, a search or a claim, or no longer."""
    try:
        actions.follow(who.user(request), request.POST.get("kind", ""), request.POST.get("value", ""), _on(request))
    except actions.Refused as error:
        return refused(request, 400, "Not followed", sentence(error))
    return redirect(who.back(request, "/account"))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def submit(request: HttpRequest) -> HttpResponse:
    """Ask for a paper by its arXiv id."""
    wrong, user = "", who.user(request)
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


def _has_password(user: User) -> bool:
    return user.has_usable_password() and bool(user.password)


def _new_password(request: HttpRequest, user: User) -> str:
    """Set, change or remove a password; what was wrong, "" if nothing. Whoever has one shows it, or came by a link."""
    password = request.POST.get("password", "")[:4096]
    old = request.POST.get("old", "")[:4096]
    if _has_password(user) and not signing.is_fresh(request) and not user.check_password(old):
        return "This is not your current password. If you forgot it, sign out and sign in by an e-mailed link."
    try:
        if password:
            validate_password(password, user)
            user.set_password(password)
        else:
            user.set_unusable_password()
    except ValidationError as error:
        return " ".join(error.messages)
    user.save(update_fields=["password"])
    update_session_auth_hash(request, user)  # other sessions end with the old password
    return ""


@never_cache
@sensitive_post_parameters("password", "old")
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def account(request: HttpRequest) -> HttpResponse:
    """What one has here; by POST, a name or a password."""
    user, wrong = who.user(request), ""
    if request.method == "POST" and "name" in request.POST:
        try:
            actions.rename(user, request.POST["name"])
            return redirect("/account")
        except actions.Refused as error:
            wrong = sentence(error)
    elif request.method == "POST":
        known = _has_password(user) and not signing.is_fresh(request)
        if known and (wait := who.slow_down(request, "password", user.username)):
            return wait
        wrong = _new_password(request, user)
        if not wrong:
            return redirect("/account")
    context = {
        "wrong": wrong,
        "name": request.POST.get("name", user.first_name),
        "local": who.local(request) and user.username == who.HERE,
        "moderator": door.is_keeper(request),
        "password": _has_password(user),
        "by_link": signing.is_fresh(request),
        "follows": Follow.objects.filter(user=user),
        "forget": FORGET,
    }
    return render(request, "people/account.html", context, status=400 if wrong else 200)


@never_cache
@require_GET
@who.person
def export(request: HttpRequest) -> HttpResponse:
    """All that is known of oneself, as JSON."""
    body = json.dumps(actions.export(who.user(request)), ensure_ascii=False, indent=2)
    headers = {"Content-Disposition": 'attachment; filename="paperlab-my-data.json"'}
    return HttpResponse(body, content_type="application/json", headers=headers)


@never_cache
@require_POST
@who.person
def forget(request: HttpRequest) -> HttpResponse:
    """Delete one's account with all that it holds; the word is asked for, so that no slip does it."""
    if request.POST.get("word", "").strip().lower() != FORGET:
        return refused(request, 400, "Nothing was deleted", f"The word {FORGET!r} was not there.")
    user = User.objects.filter(pk=who.user(request).pk).first()
    if user is None:
        raise Http404("no such account")
    logout(request)
    actions.forget(user)
    return render(request, "people/forgotten.html")
