"""Tables of groups."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.signals import post_delete
from django.dispatch import receiver

from paperlab.site.people.models import Collection
from paperlab.site.store.models import Paper


class Group(models.Model):
    """A lab. public: anybody may read its page. invitation: raised to make links that were given out worthless."""

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


class Meeting(models.Model):
    """One date of the journal club. presenter: a name, maybe of somebody who has no account."""

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
