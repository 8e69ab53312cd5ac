"""Tables of people's accounts, votes, comments and lists. All of it goes with the account, and is in its export."""

from typing import ClassVar

from django.conf import settings
from django.db import models

from paperlab.site.people.counting import today
from paperlab.site.store.models import Paper


def _user() -> "models.ForeignKey[models.Model, models.Model]":
    return models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)


class SignIn(models.Model):
    """A wish to sign in by a mailed link. digest: of the token, which only the mail holds; empty until it is sent."""

    email = models.CharField(max_length=150)
    next = models.CharField(max_length=500, blank=True, default="")
    digest = models.CharField(max_length=64, blank=True, default="", db_index=True)
    asked = models.DateTimeField(auto_now_add=True, db_index=True)
    expires = models.DateTimeField(null=True, blank=True)
    used = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.pk}, {self.asked}"


class Vote(models.Model):
    """One of a person for a paper. day: when, in UTC. counts: the day on which it counts for trending."""

    user = _user()
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="votes")
    day = models.DateField()
    counts = models.DateField(default=today, db_index=True)

    class Meta:
        """Once."""

        constraints = (models.UniqueConstraint(fields=("paper", "user"), name="one_vote_each"),)

    def __str__(self) -> str:
        return f"{self.user_id} for {self.paper_id}"


class Comment(models.Model):
    """A comment in Markdown. once: what its form was sent with; the same form sent twice is one comment.

    counts: the day on which it counts for trending. hidden: by a moderator, and shown to its writer alone. Those of an
    account that is closed are shown to nobody.
    """

    user = _user()
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="site_comments")
    body = models.TextField()
    once = models.CharField(max_length=64, unique=True)
    day = models.DateField()
    counts = models.DateField(default=today, db_index=True)
    at = models.DateTimeField(auto_now_add=True)
    edited = models.DateTimeField(null=True, blank=True)
    hidden = models.BooleanField(default=False)

    class Meta:
        """In the order in which they were written."""

        ordering = ("at", "pk")

    def __str__(self) -> str:
        return f"{self.pk} on {self.paper_id}"


class Collection(models.Model):
    """A list of papers of one's own, with a note. shared: what its link is made with; empty: nobody else sees it."""

    user = _user()
    name = models.CharField(max_length=120)
    note = models.TextField(blank=True, default="")
    shared = models.CharField(max_length=32, blank=True, default="", db_index=True)
    made = models.DateTimeField(auto_now_add=True)

    class Meta:
        """By name, each once."""

        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("user", "name"), name="one_collection_of_a_name"),)

    def __str__(self) -> str:
        return self.name


class Kept(models.Model):
    """A paper in a collection, with a note."""

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="kept")
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE)
    note = models.TextField(blank=True, default="")
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        """The last first, each paper once."""

        ordering = ("-added", "-pk")
        constraints = (models.UniqueConstraint(fields=("collection", "paper"), name="kept_once"),)

    def __str__(self) -> str:
        return f"{self.paper_id} in {self.collection_id}"


class Tag(models.Model):
    """A word of one's own on a paper in a collection."""

    kept = models.ForeignKey(Kept, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=40)

    class Meta:
        """Each once, by name."""

        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("kept", "name"), name="tagged_once"),)

    def __str__(self) -> str:
        return self.name


OPENED, READ, UNREAD = "opened", "read", "unread"


class Read(models.Model):
    """A paper that somebody opened. state: opened, read (marked by hand), or unread (marked by hand: stays unread)."""

    user = _user()
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE)
    state = models.CharField(max_length=6, default=READ)
    at = models.DateTimeField(auto_now=True)

    class Meta:
        """Once."""

        constraints = (models.UniqueConstraint(fields=("user", "paper"), name="read_once"),)

    def __str__(self) -> str:
        return f"{self.user_id}: {self.paper_id}"


class Choice(models.Model):
    """What somebody chose. remember: keep which papers they open. feed: what the link of their feed is made with."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True)
    remember = models.BooleanField(default=True)
    feed = models.CharField(max_length=32, blank=True, default="", db_index=True)

    def __str__(self) -> str:
        return f"{self.user_id}"


class Follow(models.Model):
    """What somebody follows. kind: family, author, search (as an address has it) or claim (method:claim)."""

    user = _user()
    kind = models.CharField(max_length=10)
    value = models.CharField(max_length=500)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Once."""

        ordering = ("kind", "value")
        constraints = (models.UniqueConstraint(fields=("user", "kind", "value"), name="followed_once"),)

    def __str__(self) -> str:
        return f"{self.kind}: {self.value}"


class Submission(models.Model):
    """An arXiv id that somebody asked for. state: waiting, here, unknown (to arXiv) or failed; reason: of a failure."""

    arxiv = models.CharField(max_length=40, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    state = models.CharField(max_length=10, default="waiting", db_index=True)
    reason = models.TextField(db_column="said", blank=True, default="")
    tries = models.PositiveSmallIntegerField(default=0)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """The last first."""

        ordering = ("-at", "-pk")

    def __str__(self) -> str:
        return f"{self.arxiv}: {self.state}"


class NameLook(models.Model):
    """How the name of an account looks, in the forms of `names.skeletons`: no other account may look like it."""

    user = _user()
    look = models.CharField(max_length=255, unique=True)

    def __str__(self) -> str:
        return f"{self.user_id}: {self.look}"


class Report(models.Model):
    """A reader's word to the moderators about a comment. reason: one of REASONS. closed: when a moderator saw to it."""

    REASONS: ClassVar = {
        "spam": "Spam or advertising",
        "abuse": "Insults, threats or hate",
        "private": "Somebody's private data",
        "false": "Pretends to be somebody else, or misleads",
        "other": "Something else",
    }

    user = _user()
    comment = models.ForeignKey(Comment, on_delete=models.CASCADE, related_name="reports")
    reason = models.CharField(max_length=10)
    note = models.CharField(max_length=500, blank=True, default="")
    at = models.DateTimeField(auto_now_add=True)
    closed = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        """One of a person for a comment."""

        constraints = (models.UniqueConstraint(fields=("comment", "user"), name="reported_once"),)

    def __str__(self) -> str:
        return f"{self.comment_id}: {self.reason}"


class Decision(models.Model):
    """What a moderator did, never changed. act: one of ACTS. reason: as its account was told.

    about, by_name: in words, without anybody's address or text, for what stays when an account or a comment is gone.
    """

    ACTS: ClassVar = {
        "hide": "hid",
        "show": "showed again",
        "dismiss": "dismissed the reports on",
        "close": "closed the account of",
        "open": "opened again the account of",
    }

    at = models.DateTimeField(auto_now_add=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="decided")
    by_name = models.CharField(max_length=60)
    act = models.CharField(max_length=10)
    account = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    comment = models.ForeignKey(Comment, on_delete=models.SET_NULL, null=True, related_name="decisions")
    about = models.CharField(max_length=200)
    reason = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        """The last first."""

        ordering = ("-at", "-pk")

    def __str__(self) -> str:
        return f"{self.by_name}: {self.act}, {self.about}"
