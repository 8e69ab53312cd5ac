"""Compose letters, and send those that go at once: the link to sign in, the question whether to subscribe."""

import logging
import secrets
import textwrap
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.headerregistry import Address, BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP, Policy
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.encoding import iri_to_uri, punycode

from paperlab.site.digest import post, relay
from paperlab.site.digest.models import Subscription
from paperlab.site.people import links, signing
from paperlab.site.people.models import SignIn

logger = logging.getLogger(__name__)

SUBSCRIPTION = "subscription"  # the kind of its links
CONFIRM = timedelta(days=2)


class _AsItIs(BaseHeader):
    """A header whose syntax knows no encoded words (RFC 2369, 2919, 8058). Python would take it for text, and make
    encoded words of what is longer than a line; mail programs do not decode those."""

    max_count = 1

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Raises ValueError for what no such header can hold."""
        if not (value.isascii() and value.isprintable() and len(value) <= 900):
            raise ValueError(f"no such header can be: {value[:80]!r}")
        kwds["parse_tree"], kwds["decoded"] = None, value

    def fold(self, *, policy: Policy) -> str:
        """The header's lines: broken at its spaces alone."""
        width = (policy.max_line_length or 998) - len(self.name) - 2
        lines = textwrap.wrap(str(self), width, break_long_words=False, break_on_hyphens=False)
        return f"{self.name}: {f'{policy.linesep} '.join(lines)}{policy.linesep}"


_HEADERS = HeaderRegistry()
for _name in ("list-unsubscribe", "list-unsubscribe-post", "list-id", "precedence", "auto-submitted"):
    _HEADERS.map_to_type(_name, _AsItIs)
# 7 bits: nobody asks the relay whether it takes 8. 76: then encoded words have at most 75 characters (RFC 2047).
POLICY = SMTP.clone(header_factory=_HEADERS, cte_type="7bit", max_line_length=76)


def site() -> str:
    """The address of this site, for links in letters: in ASCII, without a slash at its end."""
    scheme, _, rest = str(settings.PAPERLAB_URL).rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host if host.isascii() else punycode(host)}{slash}{iri_to_uri(path)}"


def host() -> str:
    """The name of this site's machine, for names of letters and lists."""
    name = urlsplit(site()).hostname or ""
    return name if name and ":" not in name else "localhost"


def message_id(*parts: object) -> str:
    """The Message-ID of a letter: the same for the same letter, whenever it is made."""
    made = salted_hmac("paperlab.letter", " ".join(map(str, parts)), algorithm="sha256").hexdigest()[:40]
    return f"<{made}@{host()}>"


def sender() -> str:
    """Who letters are from. Raises SmtpError."""
    text = str(settings.PAPERLAB_FROM)
    try:
        made = EmailMessage(policy=POLICY)
        made["From"] = text
        post.address(made, "From")
    except ValueError as error:
        raise post.SmtpError(
            f"PAPERLAB_FROM: expected one address, such as paperlab <digest@papers.example.org>, not {text[:80]!r}"
        ) from error
    return text


def letter(to: str, subject: str, text: str, html: str, name: str, headers: Mapping[str, str]) -> EmailMessage:
    """One letter, in text and HTML. Raises ValueError for an address or a header that no letter can have."""
    made = EmailMessage(policy=POLICY)
    made["From"] = sender()
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
    return links.token(SUBSCRIPTION, row.nonce)


def unseal(token: str) -> Subscription | None:
    """The subscription of a link; None for one that we did not make."""
    return Subscription.objects.filter(nonce=links.number(SUBSCRIPTION, token)).first()


def urgent() -> bool:
    """The worker's job: send the letters that somebody waits for; whether there was one.

    A token is made when its letter is, so only the letter has it. Of a letter that may not have been sent, the person
    asks for another: none is sent twice.
    """
    did, out = False, relay.relay()
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
            text, html = _both(
                "confirm_letter", {"link": f"{site()}/subscribe/{token}", "every": row.changes.get("every", row.every)}
            )
            name = message_id("confirm", signing.digest(token))
            undo = partial(Subscription.objects.filter(pk=row.pk).update, wanted=True)
            _hand(out, row.email, "Confirm your subscription to the paperlab digest", text, html, name, undo)
    finally:
        out.close()
    return did


def _hand(out: relay.Relay, to: str, subject: str, text: str, html: str, name: str, undo: Callable[[], object]) -> None:
    """Hand over. With a relay that is away or refuses us it is due again; of a letter that was refused for itself, the
    person asks for another."""
    try:
        out.hand_over(letter(to, subject, text, html, name, {}))
    except post.Away:
        undo()
        raise
    except (post.NotTaken, post.Unsure, ValueError) as error:
        logger.warning("an e-mail was not handed over: %s", " ".join(str(error).split()))
