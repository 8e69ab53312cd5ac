"""The table of authors' replies."""

import hashlib

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q

from paperlab.site.pages import addresses
from paperlab.site.people.models import Written
from paperlab.site.store.models import Paper

UNPROVED, CHECKING, WAITING, SHOWN, REFUSED = "unproved", "checking", "waiting", "shown", "refused"


class Reply(Written):
    """What an author says. claim: "method:claim", or empty for the paper as a whole. name: under which it stands.

    state: unproved (nobody knows yet that they are an author), checking (the worker looks into the repository),
    waiting (for the site's owner), shown, refused. proof: "code" or "orcid"; source: the repository or the ORCID iD
    that it came from. reason: why it was not proved, or what the owner should know.
    """

    kind = "reply"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="replies")
    claim = models.CharField(max_length=250, blank=True, default="")
    name = models.CharField(max_length=80)
    body = models.TextField()
    state = models.CharField(max_length=10, default=UNPROVED, db_index=True)
    proof = models.CharField(max_length=10, blank=True, default="")
    source = models.CharField(max_length=300, blank=True, default="")
    reason = models.TextField(blank=True, default="")
    made = models.DateTimeField(auto_now_add=True)
    proved = models.DateTimeField(null=True, blank=True)
    decided = models.DateTimeField(null=True, blank=True)

    class Meta:
        """The oldest first; one for each claim and person."""

        ordering = ("made", "pk")
        constraints = (models.UniqueConstraint(fields=("user", "paper", "claim"), name="one_reply_each"),)

    @property
    def mark(self) -> str:
        """Which words these are: whoever decides on a reply decides on the words that they have read."""
        return hashlib.sha256(f"{self.name}\0{self.body}".encode("utf-8", "replace")).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.pk} on {self.paper_id}, {self.state}"

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """Those that stand beside a verdict."""
        return cls.public_ones()

    @classmethod
    def public_ones(cls) -> Q:
        """Those that stand beside a verdict."""
        return Q(state=SHOWN)

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Under which name, and the body."""
        return ("Name", self.name), ("", self.body)

    @property
    def where(self) -> str:
        """On its paper's page."""
        return f"{addresses.paper(self.paper)}#reply-{self.pk}"

    @property
    def called(self) -> str:
        """With its paper."""
        return f"reply {self.pk} on {addresses.name(self.paper)}"
