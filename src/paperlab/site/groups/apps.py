"""Groups as a Django app."""

from django.apps import AppConfig


class Groups(AppConfig):
    """Labs and their journal clubs."""

    name = "paperlab.site.groups"
    label = "groups"
    default_auto_field = "django.db.models.BigAutoField"
