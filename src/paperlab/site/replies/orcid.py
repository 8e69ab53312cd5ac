"""Who somebody is, by ORCID's sign-in: its public API with the scope /authenticate, which tells name and iD alone.

https://info.orcid.org/documentation/api-tutorials/api-tutorial-get-and-authenticated-orcid-id/
"""

import re
from typing import Any
from urllib.parse import urlencode

from django.conf import settings

from paperlab.site.store.sources.http import agent

TIMEOUT = 15.0  # seconds
SIZE = 100_000  # bytes of an answer
_FORM = re.compile(r"\d{4}-\d{4}-\d{4}-\d{3}[\dX]")


class Unknown(RuntimeError):
    """ORCID did not say who it is; the message says why."""


def configured() -> bool:
    """Whether the site has a client at ORCID."""
    return bool(settings.PAPERLAB_ORCID_CLIENT and settings.PAPERLAB_ORCID_SECRET)


def address(state: str, back: str) -> str:
    """Where a browser goes to sign in. state: comes back as it is; back: where to."""
    asked = {
        "client_id": settings.PAPERLAB_ORCID_CLIENT,
        "response_type": "code",
        "scope": "/authenticate",
        "redirect_uri": back,
        "state": state,
    }
    return f"{settings.PAPERLAB_ORCID}/oauth/authorize?{urlencode(asked)}"


def valid(number: str) -> bool:
    """Whether it is an ORCID iD: its form and its check digit (ISO 7064, 11-2)."""
    if not _FORM.fullmatch(number):
        return False
    total = 0
    for digit in number.replace("-", "")[:-1]:
        total = (total + int(digit)) * 2
    left = (12 - total % 11) % 11
    return number[-1] == ("X" if left == 10 else str(left))


def who(code: str, back: str) -> tuple[str, str]:
    """(iD, name, "" where it is private) of whoever a code was given for. Raises Unknown."""
    import httpx2

    form = {
        "client_id": settings.PAPERLAB_ORCID_CLIENT,
        "client_secret": settings.PAPERLAB_ORCID_SECRET,
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": back,
    }
    headers = {"Accept": "application/json", "User-Agent": agent()}
    try:
        answer = httpx2.post(f"{settings.PAPERLAB_ORCID}/oauth/token", data=form, headers=headers, timeout=TIMEOUT)
        told: Any = answer.json() if len(answer.content) <= SIZE else None
    except (httpx2.HTTPError, ValueError) as error:
        raise Unknown(f"ORCID could not be asked ({type(error).__name__}); try again in a few minutes") from error
    if answer.status_code != 200 or not isinstance(told, dict) or not valid(str(told.get("orcid", ""))):
        raise Unknown("ORCID did not say who you are; sign in there once more")
    return str(told["orcid"]), str(told.get("name") or "")
