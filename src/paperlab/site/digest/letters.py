"""Compose letters, and send those that go at once: the link to sign in, the question whether to subscribe."""

import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from functools import partial
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from paperlab.site.digest import post
from paperlab.site.digest.models import Subscription
from paperlab.site.people import signing
from paperlab.site.people.models import SignIn

logger = logging.getLogger(__name__)

CONFIRM = timedelta(days=2)


def site() -> str:
    """The address of this site, for links in letters."""
    return str(settings.PAPERLAB_URL).rstrip("/")


def message_id(*parts: object) -> str:
    """The Message-ID of a letter: the same for the same letter, whenever it is made."""
    host = site().partition("://")[2].partition(":")[0] or "localhost"
    made = salted_hmac("paperlab.letter", " ".join(map(str, parts)), algorithm="sha256").hexdigest()[:40]
    return f"<{made}@{host}>"


def letter(to: str, subject: str, text: str, html: str, name: str, headers: Mapping[str, str]) -> EmailMessage:
    """One letter, in text and HTML. Raises ValueError for an address or a header that no letter can have."""
    made = EmailMessage(policy=SMTP)
    made["From"] = settings.PAPERLAB_FROM
    made["To"] = Address(addr_spec=to)
    made["Subject"] = " ".join(subject.split())
    made["Date"] = post.moment()
    made["Message-ID"] = name
    made["Auto-Submitted"] = "auto-generated"
    for header, value in headers.items():
        made[header] = value
    made.set_content(text)
    made.add_alternative(html, subtype="html")
    return made


def _both(template: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """A letter's text and HTML, from the same facts."""
    context = {"site": site(), **context}
    return render_to_string(f"digest/{template}.txt", context), render_to_string(f"digest/{template}.html", context)


def seal(row: Subscription) -> str:
    """What the links of a subscription hold: opaque, its own, nothing of it is kept but the nonce."""
    return f"{row.nonce}{salted_hmac('paperlab.subscription', row.nonce, algorithm='sha256').hexdigest()[:32]}"


def unseal(token: str) -> Subscription | None:
    """The subscription of a link; None for one that we did not make."""
    nonce, seal_ = token[:-32], token[-32:]
    made = salted_hmac("paperlab.subscription", nonce, algorithm="sha256").hexdigest()[:32]
    if not constant_time_compare(seal_, made):
        return None
    return Subscription.objects.filter(nonce=nonce).first()


def urgent() -> bool:
    """The worker's job: send the letters that somebody waits for; whether there was one.

    A token is made when its letter is, so only the letter has it. Of a letter that may not have been sent, the person
    asks for another: none is sent twice.
    """
    did, out = False, post.post()
    try:
        for wish, token in signing.letters():
            if not signing.written(wish, token):
                continue
            did = True
            text, html = _both("sign_in", {"link": f"{site()}/sign-in/{token}"})
            name = message_id("sign-in", signing.digest(token))
            undo = partial(SignIn.objects.filter(pk=wish.pk).update, digest="", expires=None)
            _hand(out, wish.email, "Your link to sign in to paperlab", text, html, name, undo)
        for row in Subscription.objects.filter(wanted=True).order_by("pk")[:50]:
            token = secrets.token_urlsafe(32)
            changed = {"wanted": False, "digest": signing.digest(token), "expires": timezone.now() + CONFIRM}
            if not Subscription.objects.filter(pk=row.pk, wanted=True).update(**changed):
                continue
            did = True
            text, html = _both("confirm_letter", {"link": f"{site()}/subscribe/{token}", "every": row.every})
            name = message_id("confirm", signing.digest(token))
            undo = partial(Subscription.objects.filter(pk=row.pk).update, wanted=True)
            _hand(out, row.email, "Do you want the paperlab digest?", text, html, name, undo)
    finally:
        out.close()
    return did


def _hand(out: post.Post, to: str, subject: str, text: str, html: str, name: str, undo: Callable[[], object]) -> None:
    """Hand over. A refused letter is nobody's business here; with a relay that is away, it is due again."""
    try:
        out.hand_over(letter(to, subject, text, html, name, {}))
    except post.Away:
        undo()
        raise
    except (post.NotTaken, post.Unsure, ValueError) as error:
        logger.warning("a letter was not handed over: %s", " ".join(str(error).split()))
