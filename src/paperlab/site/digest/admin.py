"""The digest in Django's admin: who is subscribed, and what became of their mail."""

from django.contrib import admin

from paperlab.site.digest.models import Delivery, Subscription, Trouble


@admin.register(Subscription)
class SubscriptionAdmin(admin.ModelAdmin):
    """Subscriptions by address; a suppressed one can be set active again."""

    list_display = ("email", "state", "every", "confirmed", "reason")
    list_filter = ("state", "every")
    search_fields = ("email",)
    readonly_fields = ("email", "asked", "confirmed", "expires", "reason")
    exclude = ("nonce", "digest", "wanted")


@admin.register(Delivery)
class DeliveryAdmin(admin.ModelAdmin):
    """What was sent, and why not, to read."""

    list_display = ("day", "subscription", "state", "tries", "reason", "at")
    list_filter = ("state",)
    date_hierarchy = "day"
    list_select_related = ("subscription",)

    def has_add_permission(self, request: object) -> bool:
        """A row is made by sending."""
        return False

    def has_change_permission(self, request: object, obj: object = None) -> bool:
        """What was sent was sent."""
        return False


@admin.register(Trouble)
class TroubleAdmin(admin.ModelAdmin):
    """What the relay says against this site's mail; it goes away by itself once the relay takes some."""

    list_display = ("since", "run", "reason", "at")

    def has_add_permission(self, request: object) -> bool:
        """The relay makes it."""
        return False

    def has_change_permission(self, request: object, obj: object = None) -> bool:
        """It is what the relay said."""
        return False
