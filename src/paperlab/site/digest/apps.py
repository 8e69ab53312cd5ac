"""The digest as a Django app."""

from django.apps import AppConfig


class Digest(AppConfig):
    """Subscriptions and what was sent."""

    name = "paperlab.site.digest"
    label = "digest"
    default_auto_field = "django.db.models.BigAutoField"
