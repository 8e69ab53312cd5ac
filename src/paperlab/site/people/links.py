"""Links that let in whoever has them: opaque, checked by the site's key; only a number drawn at random is stored.

A link ends when its number is deleted, and a new number makes another link.
"""

import secrets

from django.utils.crypto import constant_time_compare, salted_hmac


def fresh() -> str:
    """A number for a new link."""
    return secrets.token_urlsafe(16)


def token(kind: str, number: str) -> str:
    """The link's token. kind: of the link, so that none opens what is of another kind."""
    made = salted_hmac(f"paperlab.{kind}", number, algorithm="sha256").hexdigest()[:32]
    return f"{number}{made}"


def number(kind: str, given: str) -> str:
    """The number of a token; "" for one that this site did not make."""
    found = given[:-32][:32]
    return found if found and constant_time_compare(token(kind, found), given) else ""
