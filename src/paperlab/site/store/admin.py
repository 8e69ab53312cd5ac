"""The store in Django's admin: to look, to search, to mend one row; imports are the command line's."""

from django.contrib import admin

from paperlab.site.store.models import Entry, Harvest, Paper, Ranking, SetAside


@admin.register(Paper)
class PaperAdmin(admin.ModelAdmin):
    """Papers by title, id or slug."""

    list_display = ("title", "arxiv", "slug", "published", "upvotes", "withdrawn")
    list_filter = ("family", "kind", "withdrawn")
    search_fields = ("title", "arxiv", "slug")
    readonly_fields = ("title_key", "revision", "origins", "added")
    date_hierarchy = "published"
    show_full_result_count = False  # a count over all of arXiv on every page


class EntryInline(admin.TabularInline):
    """The places of a list, to read."""

    model = Entry
    fields = readonly_fields = ("rank", "paper", "shown")
    extra = 0
    can_delete = False

    def has_add_permission(self, request: object, obj: object = None) -> bool:
        """A list is as its page was."""
        return False


@admin.register(Ranking)
class RankingAdmin(admin.ModelAdmin):
    """Saved pages and days."""

    list_display = ("name", "source", "day", "added")
    list_filter = ("source",)
    inlines = (EntryInline,)


@admin.register(SetAside)
class SetAsideAdmin(admin.ModelAdmin):
    """What could not be taken, and why."""

    list_display = ("reason", "where", "source", "added")
    list_filter = ("source",)
    search_fields = ("reason", "where")


@admin.register(Harvest)
class HarvestAdmin(admin.ModelAdmin):
    """How far each source has been read."""

    list_display = ("key", "started", "finished", "counts")
