"""Tables of people's accounts, votes, comments and lists. All of it goes with the account, and is in its export."""

from typing import Any, ClassVar

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import Q

from paperlab.site.pages import addresses
from paperlab.site.people import links
from paperlab.site.people.counting import today
from paperlab.site.store.models import Paper

SHARED = "collection"  # the kind of the links to collections


def _user() -> "models.ForeignKey[models.Model, models.Model]":
    return models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)


class Written(models.Model):
    """What a person wrote and others may read: any of it can be reported, and hidden by a moderator.

    user: its writer, None where that is not known. hidden: shown to its writer alone. What the writer of a closed
    account wrote is shown to nobody. kind: its word, for readers and in addresses.
    """

    hidden = models.BooleanField(default=False)
    reports = GenericRelation("people.Report", content_type_field="what", object_id_field="which")

    kind: ClassVar[str]
    owners: ClassVar[tuple[str, ...]] = ("user",)  # paths to the accounts that must be open for it to be shown
    user: Any

    class Meta:
        """Each kind has a table of its own."""

        abstract = True

    @property
    def writer(self) -> Any:
        """The account that wrote it, None where that is not known."""
        return self.user

    @classmethod
    def shown(cls) -> Q:
        """The condition of what is neither hidden nor of a closed account."""
        found = Q(hidden=False)
        for path in cls.owners:
            found &= Q(**{f"{path}__is_active": True}) | Q(**{f"{path}__isnull": True})
        return found

    @property
    def is_shown(self) -> bool:
        """Whether it is neither hidden nor of a closed account."""
        return not self.hidden and (self.writer is None or self.writer.is_active)

    def seen_by(self, user: int | None) -> bool:
        """Whether its words are shown to an account, of whoever is on the page where it stands."""
        return self.is_shown or (self.writer is not None and self.writer.is_active and self.writer.pk == user)

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """The condition of what somebody can read, beside `shown`. link: the end of a shared link that they have."""
        raise NotImplementedError

    @classmethod
    def public_ones(cls) -> Q:
        """The condition of what every reader may come by, beside `shown`: moderators may look at the latest of it."""
        raise NotImplementedError

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Its words, each with a label, "" where one is enough."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """The address at which it stands, "" for one that is reached by a secret link alone."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """What the trail of decisions calls it, without anybody's words."""
        return f"{self.kind} {self.pk}"

    @property
    def counted(self) -> list[Paper]:
        """The papers whose place in trending depends on it."""
        return []


def kinds() -> dict[str, type[Written]]:
    """Everything that people write for others, by its word."""
    return {model.kind: model for model in apps.get_models() if issubclass(model, Written)}


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


class Comment(Written):
    """A comment in Markdown. once: what its form was sent with; the same form sent twice is one comment.

    counts: the day on which it counts for trending.
    """

    kind = "comment"

    user = _user()
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE, related_name="site_comments")
    body = models.TextField()
    once = models.CharField(max_length=64, unique=True)
    day = models.DateField()
    counts = models.DateField(default=today, db_index=True)
    at = models.DateTimeField(auto_now_add=True)
    edited = models.DateTimeField(null=True, blank=True)

    class Meta:
        """In the order in which they were written."""

        ordering = ("at", "pk")

    def __str__(self) -> str:
        return f"{self.pk} on {self.paper_id}"

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """All of them."""
        return Q()

    @classmethod
    def public_ones(cls) -> Q:
        """All of them."""
        return Q()

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Its body."""
        return (("", self.body),)

    @property
    def where(self) -> str:
        """On its paper's page."""
        return f"{addresses.paper(self.paper)}#comment-{self.pk}"

    @property
    def called(self) -> str:
        """With its paper."""
        return f"comment {self.pk} on {addresses.name(self.paper)}"

    @property
    def counted(self) -> list[Paper]:
        """Its paper."""
        return [self.paper]


class Collection(Written):
    """A list of papers of one's own, with a note. shared: what its link is made with; empty: nobody else sees it, but
    for the groups with which it is shared."""

    kind = "collection"

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

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """Those of a link, and those that are shared with a group that one can read."""
        number = links.number(SHARED, link) if link else None
        there = Q(in_groups__group__public=True) | Q(in_groups__group__members__user=user)
        return (there | Q(shared=number)) if number else there

    @classmethod
    def public_ones(cls) -> Q:
        """Those with a link, and those of public groups."""
        return ~Q(shared="") | Q(in_groups__group__public=True)

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Its name and note."""
        return (("Name", self.name), *([("Note", self.note)] if self.note else []))

    @property
    def where(self) -> str:
        """In a group, or only by its link."""
        group = self.in_groups.values_list("group", flat=True).first()
        return f"/groups/{group}#collections" if group else ""


class Kept(Written):
    """A paper in a collection, with a note. user: who wrote the note, None for the collection's owner."""

    kind = "note"
    owners = ("user", "collection__user")

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
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

    @property
    def writer(self) -> Any:
        """Who wrote the note."""
        return self.user or self.collection.user

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """Those of a collection that one can read."""
        of = Collection.objects.filter(Collection.shown(), Collection.readable(user, link))
        return Q(collection__in=of)

    @classmethod
    def public_ones(cls) -> Q:
        """Those of collections that others see, where something is written."""
        return Q(collection__in=Collection.objects.filter(Collection.public_ones())) & ~Q(note="", tags=None)

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Its note and tags."""
        tags = ", ".join(tag.name for tag in self.tags.all())
        return tuple((label, text) for label, text in (("", self.note), ("Tags", tags)) if text)

    @property
    def where(self) -> str:
        """Where its collection is."""
        return self.collection.where

    @property
    def called(self) -> str:
        """With its collection."""
        return f"note {self.pk} in collection {self.collection_id}"


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
    """A reader's word to the moderators about what somebody wrote. what, which, thing: it, of any kind. reason: one of
    REASONS. closed: when a moderator saw to it."""

    REASONS: ClassVar = {
        "spam": "Spam or advertising",
        "abuse": "Insults, threats or hate",
        "private": "Somebody's private data",
        "false": "Pretends to be somebody else, or misleads",
        "other": "Something else",
    }

    user = _user()
    what = models.ForeignKey(ContentType, on_delete=models.CASCADE, related_name="+")
    which = models.BigIntegerField()
    thing = GenericForeignKey("what", "which")
    reason = models.CharField(max_length=10)
    note = models.CharField(max_length=500, blank=True, default="")
    at = models.DateTimeField(auto_now_add=True)
    closed = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        """One of a person for a thing."""

        constraints = (models.UniqueConstraint(fields=("what", "which", "user"), name="reported_once"),)

    def __str__(self) -> str:
        return f"{self.what_id} {self.which}: {self.reason}"


class Decision(models.Model):
    """What a moderator did, never changed. act: one of ACTS. what, which, thing: to what, if not to the account as a
    whole; what is gone is None. reason: as its account was told.

    about, by_name: in words, without anybody's address or text, for what stays when an account or a comment is gone.
    """

    ACTS: ClassVar = {
        "hide": "hid",
        "show": "showed again",
        "dismiss": "dismissed the reports on",
        "close": "closed the account of",
        "open": "reopened the account of",
    }

    at = models.DateTimeField(auto_now_add=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="decided")
    by_name = models.CharField(max_length=60)
    act = models.CharField(max_length=10)
    account = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    what = models.ForeignKey(ContentType, on_delete=models.SET_NULL, null=True, related_name="+")
    which = models.BigIntegerField(null=True)
    thing = GenericForeignKey("what", "which")
    about = models.CharField(max_length=200)
    reason = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        """The last first."""

        ordering = ("-at", "-pk")
        indexes = (models.Index(fields=("what", "which"), name="decided_on"),)

    def __str__(self) -> str:
        return f"{self.by_name}: {self.act}, {self.about}"
