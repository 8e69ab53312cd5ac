"""Make, find and revoke tokens."""

import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from paperlab.site.api.problems import Problem
from paperlab.site.people.signing import digest
from paperlab.site.store import clean
from paperlab.site.tokens.models import SCOPES, Token

PREFIX = "plab_"  # by which scanners of public code, and people, know what they have found
MOST = 20
NAME = 60
DAYS = (7, 30, 90, 365)  # 0 is for ever
NOTED = timedelta(minutes=1)  # how exactly the last use is kept: not a write for each request


class Refused(ValueError):
    """A token that cannot be made; the message says why."""


def make(user: User, name: str, scopes: Iterable[str], days: int) -> tuple[Token, str]:
    """(a new token, its secret, which nobody can be shown again). days: until it expires; 0: never. Raises Refused."""
    name, chosen = clean.line(name), [scope for scope in SCOPES if scope in set(scopes)]
    if not name:
        raise Refused("a token needs a name, such as the program that will use it")
    if len(name) > NAME:
        raise Refused(f"the name has {len(name)} characters; at most {NAME} are allowed")
    if not chosen:
        raise Refused("choose at least one thing that the token may do")
    if days not in (0, *DAYS):
        raise Refused(f"a token lasts {', '.join(map(str, DAYS))} days, or 0 for ever")
    if Token.objects.filter(user=user).count() >= MOST:
        raise Refused(f"you can have at most {MOST} tokens; revoke one first")
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        with transaction.atomic():
            made = Token.objects.create(
                user=user,
                name=name,
                digest=digest(secret),
                hint=secret[:9],
                scopes=" ".join(chosen),
                expires=timezone.now() + timedelta(days=days) if days else None,
            )
    except IntegrityError:
        raise Refused(f"you have a token named {name!r} already; revoke it, or choose another name") from None
    return made, secret


def of(request: HttpRequest) -> Token | None:
    """The token that a request carries; None without one. Raises Problem for one that is not, or no longer, good.

    A bearer token of another kind is no business of ours: clients of the known API send theirs everywhere.
    """
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip().startswith(PREFIX):
        return None
    now = timezone.now()
    found = Token.objects.select_related("user").filter(digest=digest(secret.strip())).first()
    if found is None or not found.user.is_active:
        raise Problem(401, "no such token: it was revoked, or is not whole; /account/tokens makes another")
    if found.expires is not None and found.expires <= now:
        raise Problem(401, f"the token expired on {found.expires:%Y-%m-%d}; /account/tokens makes another")
    unnoted = Q(used=None) | Q(used__lt=now - NOTED)
    if found.used is None or found.used < now - NOTED:
        Token.objects.filter(unnoted, pk=found.pk).update(used=now)
    return found


def exported(user: User) -> list[dict[str, Any]]:
    """Somebody's tokens as their export has them."""
    return [
        {
            "name": one.name,
            "begins": one.hint,
            "scopes": one.allowed,
            "made": str(one.made),
            "expires": str(one.expires) if one.expires else None,
            "used": str(one.used) if one.used else None,
        }
        for one in Token.objects.filter(user=user)
    ]
