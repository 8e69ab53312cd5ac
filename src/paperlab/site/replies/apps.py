"""Replies as a Django app."""

from django.apps import AppConfig


class Replies(AppConfig):
    """What authors say to verdicts on their papers."""

    name = "paperlab.site.replies"
    label = "replies"
    default_auto_field = "django.db.models.BigAutoField"
