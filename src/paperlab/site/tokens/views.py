"""The page of one's tokens."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from paperlab.site.pages.refused import sentence
from paperlab.site.people import who
from paperlab.site.store import clean
from paperlab.site.tokens import actions
from paperlab.site.tokens.models import SCOPES, Token


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def tokens(request: HttpRequest) -> HttpResponse:
    """One's tokens; by POST, a new one, whose secret is on this answer and never again, or the end of one."""
    user, secret, wrong, made = who.user(request), "", "", None
    if request.method == "POST" and (number := request.POST.get("revoke", "")):
        get_object_or_404(Token, pk=clean.key(number), user=user).delete()
        return redirect("/account/tokens")
    chosen = request.POST.getlist("scope") if request.method == "POST" else ["read"]
    days = request.POST.get("days", "90")
    if request.method == "POST":
        try:
            made, secret = actions.make(
                user, request.POST.get("name", ""), chosen, int(days) if days.isascii() and days.isdecimal() else -1
            )
        except actions.Refused as error:
            wrong = sentence(error)
    context = {
        "rows": Token.objects.filter(user=user),
        "made": made,
        "secret": secret,
        "wrong": wrong,
        "name": request.POST.get("name", "")[: actions.NAME] if wrong else "",
        "scopes": [(name, says, name in chosen) for name, says in SCOPES.items()],
        "days": [(str(number), number, str(number) == days) for number in actions.DAYS],
        "forever": days == "0",
        "site": f"{request.scheme}://{request.get_host()}",
    }
    return render(request, "tokens/tokens.html", context, status=400 if wrong else 200)
