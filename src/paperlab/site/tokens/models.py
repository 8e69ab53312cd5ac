"""The table of personal tokens."""

from django.conf import settings
from django.db import models

# What a token may be allowed, and how the form says it.
SCOPES = {
    "read": "read your votes, comments, collections and reading history",
    "vote": "vote for papers, and remove votes",
    "collect": "create and edit collections, mark papers as read",
    "comment": "post comments under your name",
    "runs": "start and cancel runs, if you are allowed to",
}


class Token(models.Model):
    """A token of somebody. digest: SHA-256 of the secret, which is kept nowhere; hint: its beginning, to know it by.
    scopes: of SCOPES, with spaces between. expires: null for never. used: when last, to the minute."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    name = models.CharField(max_length=60)
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=12)
    scopes = models.CharField(max_length=100)
    made = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField(null=True, blank=True)
    used = models.DateTimeField(null=True, blank=True)

    class Meta:
        """The newest first; a name once for each person."""

        ordering = ("-made", "-pk")
        constraints = (models.UniqueConstraint(fields=("user", "name"), name="one_token_of_a_name"),)

    def __str__(self) -> str:
        return f"{self.hint}… of {self.user_id}"

    @property
    def allowed(self) -> tuple[str, ...]:
        """Its scopes."""
        return tuple(self.scopes.split())
