"""Who a request is from: on one's own machine the person who sits there, elsewhere whoever has signed in."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.functional import SimpleLazyObject

from paperlab.core.home import home
from paperlab.site import door
from paperlab.site.api import limits
from paperlab.site.pages import addresses
from paperlab.site.pages.refused import refused
from paperlab.site.store.prepared import Prepared

HERE = "you"  # the name of the one person on a machine of one's own

View = Callable[..., HttpResponse]
# How often one client, or one account, may do a thing: so many a second on the long run, so many at once.
RATES = {
    "sign-in": limits.Rate(1 / 60, 5),
    "sign-in to": limits.Rate(10 / 86_400, 5),  # e-mails to one address, whoever asks for them
    "password": limits.Rate(1 / 120, 8),
    "write": limits.Rate(1 / 5, 30),
    "comment": limits.Rate(1 / 60, 10),
    "report": limits.Rate(1 / 60, 5),
    "submit": limits.Rate(1 / 60, 10),
    "subscribe": limits.Rate(1 / 60, 5),
    "subscribe to": limits.Rate(2 / 86_400, 3),
}


def local(request: HttpRequest) -> bool:
    """Whether this is the one person whose site it is."""
    return door.is_owner(request)


def user(request: HttpRequest) -> User:
    """The person, in a view for people (`person`)."""
    found = request.user
    assert isinstance(found, User)  # `person` has seen to it
    return found


_NAMED = Prepared(lambda name: User.objects.filter(username=name))


class Here:
    """Middleware behind Django's own: at one's own machine, nobody needs to sign in, and all of the administration is
    theirs. What was made for one person is kept by no cache but their browser's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer to a request."""
        if local(request):
            known = request.user

            def user() -> AbstractBaseUser | AnonymousUser:
                if known.is_authenticated:
                    return known
                own: User = next(iter(_NAMED.objects(HERE)), None) or User.objects.get_or_create(username=HERE)[0]
                own.is_staff = own.is_superuser = True  # for this request: the site may be others' one day
                return own

            request.user = SimpleLazyObject(user)
        answer = self.get_response(request)
        if local(request) or request.session.accessed:
            answer.headers.setdefault("Cache-Control", "private, no-cache")
        return answer


def back(request: HttpRequest, otherwise: str) -> str:
    """Where the form wants to go then: an address of this site, or `otherwise`."""
    return addresses.inside(request.POST.get("next") or request.GET.get("next") or "", otherwise)


@cache
def _buckets(what: str) -> limits.Buckets:
    return limits.Buckets(home() / "rates.sqlite3", RATES[what])


def slow_down(request: HttpRequest, what: str, *names: str) -> HttpResponse | None:
    """The answer to who does a thing too often: this client, or anybody to one of these names. None if all is well.

    At one's own machine nothing is limited.
    """
    if local(request):
        return None
    client = limits.client(request.META.get("REMOTE_ADDR") or "")
    to = f"{what} to" if f"{what} to" in RATES else what
    taken = [_buckets(what).take(f"{what} {client}"), *(_buckets(to).take(f"{to} {name}") for name in names)]
    wait = max(one.wait for one in taken)
    if all(one.allowed for one in taken):
        return None
    said = f"{max(1, round(wait))} seconds" if wait < 120 else f"{wait / 60:.0f} minutes"
    answer = refused(request, 429, "Too often", f"Wait {said}, then try again.")
    answer.headers["Retry-After"] = str(max(1, round(wait)))
    return answer


def person(view: View) -> View:
    """A view for people who have signed in; others are led there and back."""

    @wraps(view)
    def inner(request: HttpRequest, *words: Any, **named: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            to = request.get_full_path() if request.method == "GET" else back(request, "/")
            return redirect(f"/sign-in?{urlencode({'next': to})}")
        if request.method == "POST" and (wait := slow_down(request, "write", f"user {request.user.pk}")):
            return wait
        return view(request, *words, **named)

    return inner
