"""The relay as the site uses it: its refusals are kept, for the owner and for pages that would promise an e-mail, and a
run of equal ones ends the sending before every subscriber has been refused."""

import logging
from dataclasses import dataclass, field
from email.message import EmailMessage

from django.db.models import F

from paperlab.site import alive
from paperlab.site.digest import post
from paperlab.site.digest.models import Trouble

logger = logging.getLogger(__name__)

RUN = 5  # equal refusals in a row, with no letter taken between them, that speak against us and not against a letter


def trouble() -> Trouble | None:
    """What the relay has against this site's mail, as far as is known."""
    return Trouble.objects.order_by("-at").first()


def _note(kind: str, reason: str) -> int:
    """Keep a refusal; how many equal ones came in a row."""
    if not Trouble.objects.filter(kind=kind).update(run=F("run") + 1, reason=reason[:500]):
        Trouble.objects.all().delete()
        Trouble.objects.create(kind=kind, run=1, reason=reason[:500])
    return Trouble.objects.filter(kind=kind).values_list("run", flat=True).first() or 1


@dataclass
class Relay:
    """Where letters are handed over, watched: a `post.Post`."""

    inner: post.Post
    _troubled: bool = field(default_factory=lambda: Trouble.objects.exists())

    def hand_over(self, letter: EmailMessage) -> None:
        """Raises Away, Refusing at the end of a run of equal refusals, NotTaken, Unsure; ValueError for no letter."""
        alive.sign()
        try:
            self.inner.hand_over(letter)
        except post.NotTaken as error:
            if error.gone:  # says nothing against us
                raise
            self._troubled = True
            run = _note(error.kind, str(error))
            if run < RUN:
                raise
            raise post.Refusing(
                f"the relay has refused {run} e-mails in a row, so no more are sent: {error}"
            ) from error
        except post.Away as error:
            self._troubled = True
            _note("away", str(error))
            raise
        if self._troubled:
            Trouble.objects.all().delete()
            logger.warning("the relay takes mail again")
            self._troubled = False

    def close(self) -> None:
        """No more letters for now."""
        self.inner.close()


def relay() -> Relay:
    """The relay of the settings, or else the outbox."""
    return Relay(post.post())
