"""Pages of replies: write one, prove it, decide on those that wait."""

from django.conf import settings
from django.core import signing
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from paperlab.site import door
from paperlab.site.pages import addresses
from paperlab.site.pages.paper import find
from paperlab.site.pages.refused import refused, sentence
from paperlab.site.people import moderation, who
from paperlab.site.replies import actions, orcid
from paperlab.site.replies.models import CHECKING, REFUSED, SHOWN, WAITING, Reply
from paperlab.site.store import clean

_SALT = "paperlab.replies.orcid"
_SIGNING_IN = 1800  # seconds that a sign-in at ORCID may take
PAGE = 100


def _on() -> None:
    """Raise Http404 on a site that takes no replies."""
    if not settings.PAPERLAB_REPLIES:
        raise Http404("no replies are taken on this site: PAPERLAB_REPLIES turns them on")


def _form(request: HttpRequest) -> tuple[str, str]:
    return request.POST.get("name", ""), request.POST.get("body", "")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def write(request: HttpRequest, name: str) -> HttpResponse:
    """The form; by POST, a reply that is still to be proved."""
    _on()
    row, wrong = find(name), ""
    claim = request.POST.get("claim", "") or request.GET.get("claim", "")
    if request.method == "POST":
        try:
            made = actions.write(who.user(request), row, claim, *_form(request))
            return redirect(f"/replies/{made.pk}")
        except actions.Refused as error:
            wrong = sentence(error)
    context = {
        "row": row, "url": addresses.paper(row), "claims": actions.claims_of(row), "claim": claim, "wrong": wrong,
        "name": request.POST.get("name") or who.user(request).first_name, "body": request.POST.get("body", ""),
    }  # fmt: skip
    return render(request, "replies/write.html", context, status=400 if wrong else 200)


def _own(request: HttpRequest, pk: int) -> Reply:
    return get_object_or_404(Reply.objects.select_related("paper", "user"), pk=pk, user=who.user(request))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def reply(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own reply: how it stands, how to prove it; by POST, a change, a look into the repository, its end."""
    _on()
    row, wrong = _own(request, pk), ""
    code = "code" in settings.PAPERLAB_REPLIES
    if request.method == "POST":
        do = request.POST.get("do", "")
        if do == "delete":
            row.delete()
            return redirect(addresses.paper(row.paper))
        if do == "check" and code and not row.proof:
            if wait := who.slow_down(request, "submit", f"user {row.user_id}"):
                return wait
            Reply.objects.filter(pk=row.pk, proof="").update(state=CHECKING, reason="")
            return redirect(f"/replies/{pk}")
        try:
            actions.rewrite(row, *_form(request))
            return redirect(f"/replies/{pk}")
        except actions.Refused as error:
            wrong = sentence(error)
            row.name, row.body = _form(request)
    where = actions.repository(row.paper)
    moderation.look([row], request.user)
    context = {
        "row": row,
        "url": addresses.paper(row.paper),
        "says": dict(actions.claims_of(row.paper)).get(row.claim, ""),
        "wrong": wrong,
        "code": code,
        "repository": f"https://{where[0]}/{where[1]}" if where else "",
        "line": actions.line(row.user, row.paper),
        "files": actions.FILES[:2],
        "orcid": "orcid" in settings.PAPERLAB_REPLIES and orcid.configured(),
    }
    return render(request, "replies/reply.html", context, status=400 if wrong else 200)


def _back(request: HttpRequest) -> str:
    return f"{request.scheme}://{request.get_host()}/replies/orcid"


@never_cache
@require_GET
@who.person
def to_orcid(request: HttpRequest, pk: int) -> HttpResponse:
    """To ORCID's sign-in. A link, because the pages' policy lets no form lead to another site."""
    _on()
    row = _own(request, pk)
    if "orcid" not in settings.PAPERLAB_REPLIES or not orcid.configured():
        raise Http404("no client at ORCID is configured")
    state = signing.dumps([row.pk, row.user_id], salt=_SALT)
    return HttpResponseRedirect(orcid.address(state, _back(request)))


@never_cache
@require_GET
@who.person
def from_orcid(request: HttpRequest) -> HttpResponse:
    """Back from there. The state is of the one who set out, so that no link proves for somebody else."""
    _on()
    try:
        pk, user = signing.loads(request.GET.get("state", ""), salt=_SALT, max_age=_SIGNING_IN)
    except (signing.BadSignature, ValueError, TypeError):
        return refused(request, 400, "Not verified", "This sign-in has expired. Start again from your reply.")
    row = _own(request, pk)
    if row.user_id != user or not request.GET.get("code"):
        actions.unproved(row, "ORCID was not allowed to say who you are")
        return redirect(f"/replies/{row.pk}")
    try:
        number, name = orcid.who(request.GET["code"][:500], _back(request))
    except orcid.Unknown as error:
        actions.unproved(row, str(error))
        return redirect(f"/replies/{row.pk}")
    if row.paper.authors and not actions.is_author(row.paper, name):
        shown = name or "(your name is private there)"
        actions.unproved(row, f"ORCID names you {shown}, and no author of this paper has that name here")
    else:
        note = "" if row.paper.authors else "this site does not know the paper's authors: compare them yourself"
        actions.proved(row, "orcid", f"https://orcid.org/{number}", note)
    return redirect(f"/replies/{row.pk}")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def decide(request: HttpRequest) -> HttpResponse:
    """For the site's staff: the replies that wait, and those that were decided; by POST, a decision."""
    _on()
    if not door.is_keeper(request):
        raise Http404("no such page")
    wrong = ""
    if request.method == "POST":
        pk, show = clean.key(request.POST.get("reply", "")), request.POST.get("do") == "show"
        try:
            actions.decide(pk, show, request.POST.get("mark", ""))
            return redirect("/replies")
        except actions.Refused as error:
            wrong = sentence(error)
    rows = Reply.objects.select_related("paper", "user")
    context = {
        "waiting": rows.filter(state=WAITING),
        "decided": rows.filter(state__in=(SHOWN, REFUSED)).order_by("-decided")[:PAGE],
        "wrong": wrong,
    }
    return render(request, "replies/decide.html", context, status=409 if wrong else 200)
