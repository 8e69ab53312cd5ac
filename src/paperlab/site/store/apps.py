"""The store as a Django app. Its label stays "catalogue", which names its tables and migrations."""

from django.apps import AppConfig


class Store(AppConfig):
    """Papers and where they were seen."""

    name = "paperlab.site.store"
    label = "catalogue"
    default_auto_field = "django.db.models.BigAutoField"
