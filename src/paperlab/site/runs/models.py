"""Tables of the queue: one row for each run, from the request to its end."""

from django.conf import settings
from django.db import models

WAITING, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
CANCELLED, INTERRUPTED = "cancelled", "interrupted"
STATES = (WAITING, RUNNING, DONE, FAILED, CANCELLED, INTERRUPTED)
OPEN = (WAITING, RUNNING)


class Run(models.Model):
    """One run of a method's checks.

    once: what the form was sent with; the same form sent twice is one run. params: {name: value}, those that differ
    from the card. progress: what `progress.EventFile.progress` gives.
    log: its end. records: ids of those it made. starts: how often its process was started. worker: the data folder
    whose worker runs it. stop: cancel was asked.
    """

    once = models.CharField(max_length=64, unique=True)
    method = models.CharField(max_length=120)
    paper = models.CharField(max_length=120, blank=True, default="", db_index=True)
    claim = models.CharField(max_length=120, blank=True, default="")
    scale = models.CharField(max_length=10)
    params = models.JSONField(default=dict, blank=True)
    who = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True)

    state = models.CharField(max_length=12, default=WAITING, db_index=True)
    stop = models.BooleanField(default=False)
    worker = models.CharField(max_length=300, blank=True, default="")
    starts = models.PositiveSmallIntegerField(default=0)
    progress = models.JSONField(default=dict, blank=True)
    log = models.TextField(blank=True, default="")
    records = models.JSONField(default=list, blank=True)
    error = models.TextField(blank=True, default="")

    asked = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True, blank=True)
    ended = models.DateTimeField(null=True, blank=True)

    class Meta:
        """The newest first."""

        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.pk}: {self.method} {self.claim} {self.scale}, {self.state}"

    @property
    def open(self) -> bool:
        """Whether something is still to come."""
        return self.state in OPEN


class Beat(models.Model):
    """When a worker was last at work. name: its data folder on its machine."""

    name = models.CharField(max_length=300, primary_key=True)
    at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.at}"
