"""Signing in by a mailed link, or by a password for those who set one. No answer shows who has an account."""

import hashlib
import secrets
from datetime import timedelta

from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.encoding import punycode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from paperlab.site.pages import addresses
from paperlab.site.people import moderation, who
from paperlab.site.people.models import SignIn

GOOD_FOR = timedelta(minutes=15)
BY_LINK = "by link"  # in a session: when it began, if by a mailed link


def address(text: str) -> str:
    """An e-mail address in its one form, in ASCII. Raises ValidationError.

    A name in quotes may hold anything ("x<victim@example.org"@evil.org), nobody has one, and programs on the way of a
    letter take it for another address.
    """
    plain = text.strip().lower()
    if len(plain) > 150:
        raise ValidationError("the address is longer than 150 characters")
    validate_email(plain)
    name, _, host = plain.rpartition("@")
    if '"' in name:
        raise ValidationError("the address has a name in quotes")
    if not name.isascii():  # "\u017f" is an "s" to a pattern that does not heed capitals
        raise ValidationError("the address has characters that this site cannot send e-mail to")
    try:
        return f"{name}@{punycode(host)}"
    except UnicodeError as error:
        raise ValidationError("the address has no host that e-mail can be sent to") from error


def mailbox(email: str) -> str:
    """Whose mailbox an address is, as far as one sees: me+anything@example.org is me@example.org."""
    name, _, host = email.rpartition("@")
    return f"{name.partition('+')[0]}@{host}"


def digest(token: str) -> str:
    """A token as it is kept."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def is_fresh(request: HttpRequest) -> bool:
    """Whether this session was begun by a mailed link just now: whoever reads the mail may set a new password."""
    began = request.session.get(BY_LINK)
    return began is not None and timezone.now().timestamp() - float(began) < GOOD_FOR.total_seconds()


def _closed(request: HttpRequest, user: User) -> HttpResponse:
    """What the person of a closed account is told, who has shown that it is theirs."""
    return render(request, "people/closed.html", {"why": moderation.why_closed(user)}, status=403)


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """The form; by POST, a wish for a letter, or a password."""
    context = {"next": who.back(request, ""), "email": "", "wrong": ""}
    if request.method != "POST":
        return render(request, "people/sign_in.html", context)
    try:
        email = address(request.POST.get("email", ""))
    except ValidationError:
        context |= {
            "wrong": "Enter an e-mail address, such as name@example.org.",
            "email": request.POST.get("email", "")[:150],
        }
        return render(request, "people/sign_in.html", context, status=400)
    if password := request.POST.get("password", ""):
        if wait := who.slow_down(request, "password", email):
            return wait
        closed = User.objects.filter(username=email, is_active=False).first()
        if closed is not None and closed.check_password(password[:4096]):  # nobody else is told of it
            return _closed(request, closed)
        user = None if closed is not None else authenticate(request, username=email, password=password[:4096])
        if user is None:
            context |= {"wrong": "The e-mail address or the password is wrong.", "email": email}
            return render(request, "people/sign_in.html", context, status=400)
        login(request, user)
        return redirect(who.back(request, "/"))
    if wait := who.slow_down(request, "sign-in", mailbox(email)):
        return wait
    SignIn.objects.create(email=email, next=who.back(request, ""))
    return render(request, "people/sent.html", {"email": email})


def letters() -> list[tuple[SignIn, str]]:
    """The wishes that wait for their letter, each with a new token; what is long over is forgotten."""
    now = timezone.now()
    SignIn.objects.filter(asked__lt=now - timedelta(days=1)).delete()
    waiting = SignIn.objects.filter(digest="", used=None, asked__gt=now - timedelta(hours=1)).order_by("pk")[:50]
    return [(row, secrets.token_urlsafe(32)) for row in waiting]


def written(row: SignIn, token: str) -> bool:
    """Note that a letter with this token is about to go; False where another worker was first."""
    until = timezone.now() + GOOD_FOR
    return bool(SignIn.objects.filter(pk=row.pk, digest="").update(digest=digest(token), expires=until))


def spent(request: HttpRequest, how: str, *, good_for: str, again: str) -> HttpResponse:
    """The page for a mailed link that does not work. how: used, expired or unknown; again: where to ask for another."""
    context = {"how": how, "good_for": good_for, "again": again}
    return render(request, "people/spent.html", context, status=410)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def link(request: HttpRequest, token: str) -> HttpResponse:
    """The mailed link: reading it asks, for programs read mail too; only the button signs in, and only once."""
    now = timezone.now()
    row = SignIn.objects.filter(digest=digest(token)).first()
    how = "" if row else "unknown"
    if row and row.used:
        how = "used"
    elif row and (row.expires is None or row.expires <= now):
        how = "expired"
    elif row and request.method == "POST" and not SignIn.objects.filter(pk=row.pk, used=None).update(used=now):
        how = "used"
    if row is None or how:
        answer = spent(request, how, good_for="15 minutes", again="/sign-in")
    elif request.method == "POST":
        user, _ = User.objects.get_or_create(username=row.email, defaults={"email": row.email})
        if user.is_active:
            login(request, user, backend="django.contrib.auth.backends.ModelBackend")
            request.session[BY_LINK] = now.timestamp()
            answer = redirect(addresses.inside(row.next, "/"))
        else:
            answer = _closed(request, user)
    else:
        answer = render(request, "people/link.html", {"email": row.email})
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer


@never_cache
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("/")
