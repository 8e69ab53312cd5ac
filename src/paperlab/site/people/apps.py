"""People as a Django app."""

from django.apps import AppConfig


class People(AppConfig):
    """Accounts and what they hold."""

    name = "paperlab.site.people"
    label = "people"
    default_auto_field = "django.db.models.BigAutoField"
