"""Runs as a Django app."""

from django.apps import AppConfig


class Runs(AppConfig):
    """The queue of runs and its pages."""

    name = "paperlab.site.runs"
    label = "runs"
    default_auto_field = "django.db.models.BigAutoField"
