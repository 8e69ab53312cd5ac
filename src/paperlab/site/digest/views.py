"""Subscribe, confirm, unsubscribe. The answers are the same whoever is subscribed."""

import secrets
from datetime import timedelta
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from paperlab.core.paper import FAMILIES
from paperlab.site.digest import hours, letters
from paperlab.site.digest.models import ACTIVE, STOPPED, SUPPRESSED, Subscription
from paperlab.site.people import actions, signing, who

MOST = 50  # interests
AGAIN = timedelta(days=7)  # between two e-mails to an address at which there was nobody


def _interests(request: HttpRequest) -> list[tuple[str, str]]:
    """What the form asks for. Raises actions.Refused."""
    given = [("family", value) for value in request.POST.getlist("family")]
    given += [("author", value) for value in request.POST.get("authors", "").split(",") if value.strip()]
    if words := request.POST.get("search", "").strip():
        given.append(("search", urlencode({"q": words})))
    given += [("claim", value) for value in request.POST.getlist("claim") if value]
    if len(given) > MOST:
        raise actions.Refused(f"a subscription can follow at most {MOST} things")
    return list(dict.fromkeys(actions.interest(kind, value) for kind, value in given))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def subscribe(request: HttpRequest) -> HttpResponse:
    """The form; by POST, an e-mail that asks whether the owner of the address wants the digest."""
    context = {
        "families": FAMILIES,
        "claim": request.GET.get("claim", "")[:300],
        "hour": hours.begins(timezone.now()),
        "zone": str(hours.zone()),
        "wrong": "",
    }
    if request.method != "POST":
        return render(request, "digest/subscribe.html", context)
    try:
        email, interests = signing.address(request.POST.get("email", "")), _interests(request)
    except ValidationError:
        context["wrong"] = "This is not an e-mail address that we can write to."
    except actions.Refused as error:
        context["wrong"] = str(error)
    if context["wrong"]:
        return render(request, "digest/subscribe.html", context, status=400)
    if wait := who.slow_down(request, "subscribe", signing.mailbox(email)):
        return wait
    every = "week" if request.POST.get("every") == "week" else "day"
    changes = {"every": every, "interests": interests, "for_you": request.POST.get("without") != "for-you"}
    row, _ = Subscription.objects.get_or_create(email=email, defaults={"nonce": secrets.token_hex(12)})
    # Nothing changes before the owner of the address says so. Where there was nobody, somebody may be by now.
    asked_lately = row.expires is not None and row.expires > timezone.now() - AGAIN + letters.CONFIRM
    if row.state != SUPPRESSED or not asked_lately:
        Subscription.objects.filter(pk=row.pk).update(changes=changes, wanted=True)
    return render(request, "digest/sent.html", {"email": email})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest, token: str) -> HttpResponse:
    """The mailed link: reading it asks, the button confirms, once."""
    now = timezone.now()
    row = Subscription.objects.filter(digest=signing.digest(token)).first()
    if row is None or row.expires is None or row.expires <= now:
        how = "unknown" if row is None else "used" if row.expires is None else "expired"
        return signing.spent(request, how, good_for="two days", again="/subscribe")
    if request.method == "POST":
        changed = {"state": ACTIVE, "confirmed": now, "expires": None, "changes": {}, "reason": ""}
        wanted = {key: row.changes[key] for key in ("every", "interests", "for_you") if key in row.changes}
        if not Subscription.objects.filter(digest=row.digest, expires__gt=now).update(**changed, **wanted):
            return signing.spent(request, "used", good_for="two days", again="/subscribe")
        context = {"every": wanted.get("every", row.every), "zone": str(hours.zone())}
        return render(request, "digest/confirmed.html", context)
    answer = render(request, "digest/confirm.html", {"email": row.email})
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer


@csrf_exempt  # RFC 8058: mail programs post here without a cookie; the link itself is the permission
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """One-click unsubscription by POST; reading the link only asks."""
    row = letters.unseal(token)
    if row is None:
        raise Http404("no such link")
    if request.method == "POST":
        Subscription.objects.filter(pk=row.pk).update(state=STOPPED, wanted=False, digest="")
        return render(request, "digest/stopped.html")
    answer = render(request, "digest/unsubscribe.html", {"stopped": row.state != ACTIVE})
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer
