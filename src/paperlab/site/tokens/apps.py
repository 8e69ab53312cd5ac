"""Tokens as a Django app."""

from django.apps import AppConfig


class Tokens(AppConfig):
    """Personal tokens of the API."""

    name = "paperlab.site.tokens"
    label = "tokens"
    default_auto_field = "django.db.models.BigAutoField"
