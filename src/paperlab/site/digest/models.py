"""Tables of the digest: subscriptions, and what was sent when."""

from django.db import models

PENDING, ACTIVE, STOPPED, SUPPRESSED = "pending", "active", "stopped", "suppressed"
SENDING, SENT, UNSURE, REFUSED, NOTHING = "sending", "sent", "unsure", "refused", "nothing"


class Subscription(models.Model):
    """An address that wants the digest. every: day or week. interests: [[kind, value], …]; none: all that is trending.

    state: pending until confirmed by the mailed link, suppressed once there was nobody at the address: until somebody
    there confirms again. digest: of the token that confirms; expires: of that token, None once it was used. wanted: a
    letter that asks to confirm is due. nonce: what its links are made with. changes: what is asked for, and comes true
    once it is confirmed. reason: why its mail was refused. for_you: whether it has papers picked by the votes and reads
    of the account of the same address.
    """

    email = models.CharField(max_length=150, unique=True)
    every = models.CharField(max_length=4, default="day")
    interests = models.JSONField(default=list, blank=True)
    for_you = models.BooleanField(default=True)
    state = models.CharField(max_length=10, default=PENDING, db_index=True)
    changes = models.JSONField(default=dict, blank=True)
    digest = models.CharField(max_length=64, blank=True, default="", db_index=True)
    expires = models.DateTimeField(null=True, blank=True)
    wanted = models.BooleanField(default=False, db_index=True)
    nonce = models.CharField(max_length=32, unique=True)
    asked = models.DateTimeField(auto_now_add=True)
    confirmed = models.DateTimeField(null=True, blank=True)
    reason = models.TextField(db_column="said", blank=True, default="")

    def __str__(self) -> str:
        return f"{self.pk}: {self.state}"


class Delivery(models.Model):
    """The digest of one day for one subscription: the row is there before anything is sent, so it is sent once at most.

    state: sending (now, or when it was killed), sent, unsure (the relay went away before it answered: not sent again),
    refused (tried again while tries last), nothing (there was nothing new). reason: of a refusal.
    """

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="deliveries")
    day = models.DateField(db_index=True)
    state = models.CharField(max_length=10, default=SENDING)
    message_id = models.CharField(max_length=320)  # 40 characters, and a host of at most 255
    tries = models.PositiveSmallIntegerField(default=0)
    reason = models.TextField(db_column="said", blank=True, default="")
    at = models.DateTimeField(auto_now=True)

    class Meta:
        """Once a person and day."""

        constraints = (models.UniqueConstraint(fields=("subscription", "day"), name="one_digest_a_day"),)

    def __str__(self) -> str:
        return f"{self.day}: {self.state}"


class Trouble(models.Model):
    """What the relay has against this site's mail now: one row, or none. kind: see `post.NotTaken`. run: equal refusals
    in a row. reason: the last one's words."""

    kind = models.CharField(max_length=60)
    run = models.PositiveIntegerField(default=0)
    reason = models.TextField()
    since = models.DateTimeField(auto_now_add=True)
    at = models.DateTimeField(auto_now=True)

    class Meta:
        """In the administration."""

        verbose_name_plural = "trouble"

    def __str__(self) -> str:
        return f"{self.run} times since {self.since}: {self.reason}"
