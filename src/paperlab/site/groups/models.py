"""Tables of groups."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q
from django.db.models.signals import post_delete
from django.dispatch import receiver

from paperlab.site.people.models import Collection, Written
from paperlab.site.store.models import Paper


class Group(Written):
    """A lab. public: anybody may read its page. invitation: raised to make links that were given out worthless. user:
    who wrote its name and text last."""

    kind = "group"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    name = models.CharField(max_length=120)
    about = models.TextField(blank=True, default="")
    public = models.BooleanField(default=False)
    invitation = models.PositiveIntegerField(default=1)
    made = models.DateTimeField(auto_now_add=True)

    class Meta:
        """By name."""

        ordering = ("name", "pk")

    def __str__(self) -> str:
        return self.name

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """Public ones, and those one is in."""
        return Q(public=True) | Q(members__user=user)

    @classmethod
    def public_ones(cls) -> Q:
        """Public ones."""
        return Q(public=True)

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Its name and text."""
        return (("Name", self.name), *([("Description", self.about)] if self.about else []))

    @property
    def where(self) -> str:
        """Its page."""
        return f"/groups/{self.pk}"


class Member(models.Model):
    """Somebody in a group. leads: may invite, remove others, and change or delete the group."""

    group = models.ForeignKey(Group, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    leads = models.BooleanField(default=False)
    joined = models.DateTimeField(auto_now_add=True)

    class Meta:
        """In the order in which they came, each once."""

        ordering = ("joined", "pk")
        constraints = (models.UniqueConstraint(fields=("group", "user"), name="one_membership"),)

    def __str__(self) -> str:
        return f"{self.user_id} in {self.group_id}"


class Shared(models.Model):
    """A collection of a member that the whole group sees and fills."""

    group = models.ForeignKey(Group, on_delete=models.CASCADE, related_name="shared")
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="in_groups")

    class Meta:
        """By name, each once."""

        ordering = ("collection__name", "pk")
        constraints = (models.UniqueConstraint(fields=("group", "collection"), name="shared_once"),)

    def __str__(self) -> str:
        return f"{self.collection_id} in {self.group_id}"


class Meeting(Written):
    """One date of the journal club. presenter: a name, maybe of somebody who has no account. user: who wrote the notes
    and the presenter's name last."""

    kind = "meeting"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    group = models.ForeignKey(Group, on_delete=models.CASCADE, related_name="meetings")
    day = models.DateField()
    paper = models.ForeignKey(Paper, on_delete=models.CASCADE)
    presenter = models.CharField(max_length=80, blank=True, default="")
    notes = models.TextField(blank=True, default="")

    class Meta:
        """By date."""

        ordering = ("day", "pk")

    def __str__(self) -> str:
        return f"{self.day}: {self.paper_id}"

    @classmethod
    def readable(cls, user: User, link: str) -> Q:
        """Those of groups that one can read."""
        return Q(group__public=True) | Q(group__members__user=user)

    @classmethod
    def public_ones(cls) -> Q:
        """Those of public groups, where something is written."""
        return Q(group__public=True) & ~Q(presenter="", notes="")

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Who presents, and the notes."""
        return tuple(pair for pair in (("Presenter", self.presenter), ("Notes", self.notes)) if pair[1])

    @property
    def where(self) -> str:
        """On its group's page."""
        return f"/groups/{self.group_id}#meeting-{self.pk}"

    @property
    def called(self) -> str:
        """With its group."""
        return f"meeting {self.pk} of group {self.group_id}"


@receiver(post_delete, sender=Member)
def _left(instance: Member, **_: Any) -> None:
    """Whoever leaves takes their collections along; a group always has somebody who leads, or ends."""
    Shared.objects.filter(group=instance.group_id, collection__user=instance.user_id).delete()
    left = Member.objects.filter(group=instance.group_id)
    first = left.first()
    if first is None:
        Group.objects.filter(pk=instance.group_id).delete()
    elif not left.filter(leads=True).exists():
        Member.objects.filter(pk=first.pk).update(leads=True)
