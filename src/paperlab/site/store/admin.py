"""The store in Django's admin: to look, to search, to mend one row; imports are the command line's."""

from typing import Any

from django.contrib import admin
from django.db.models import Field, QuerySet
from django.forms import ChoiceField
from django.http import HttpRequest, HttpResponse

from paperlab.core.paper import FAMILIES
from paperlab.site.store import arriving, hangs, timetable
from paperlab.site.store.models import Entry, Fetching, Hang, Harvest, Paper, Ranking, SetAside


@admin.register(Paper)
class PaperAdmin(admin.ModelAdmin):
    """Papers by title, id or slug."""

    list_display = ("title", "arxiv", "slug", "published", "upvotes", "withdrawn")
    list_filter = ("family", "kind", "withdrawn")
    search_fields = ("title", "arxiv", "slug")
    readonly_fields = ("title_key", "revision", "origins", "added")
    date_hierarchy = "published"
    show_full_result_count = False  # a count over all of arXiv on every page

    def save_model(self, request: HttpRequest, obj: Paper, form: Any, change: bool) -> None:
        """Save it; a family that was set here is never guessed over."""
        super().save_model(request, obj, form, change)
        if "family" in form.changed_data:
            from paperlab.site.search.families import correct  # the search is more than most commands need

            correct(obj, obj.family)

    def formfield_for_dbfield(self, db_field: "Field[Any, Any]", request: HttpRequest, **options: Any) -> Any:
        """A list to choose the family from."""
        if db_field.name == "family":
            return ChoiceField(choices=[("", "none"), *((name, name) for name in FAMILIES)], required=False)
        return super().formfield_for_dbfield(db_field, request, **options)


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


@admin.register(Fetching)
class FetchingAdmin(admin.ModelAdmin):
    """What the worker reads by itself: last success, next run, errors, and "fetch now". PAPERLAB_FETCH names them."""

    list_display = ("name", "each", "last_success", "brought", "next_run", "failures", "error")
    readonly_fields = ("name", "every", "next_run", "last_tried", "last_success", "counts", "failures", "error")
    exclude = ("holder",)
    actions = ("fetch_now",)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, of what the setting names now."""
        arriving.sync()
        title = (
            "Automatic fetching"
            if Fetching.objects.exists()
            else "PAPERLAB_FETCH is off: nothing is fetched automatically"
        )
        return super().changelist_view(request, {**(extra_context or {}), "title": title})

    def has_add_permission(self, request: HttpRequest) -> bool:
        """PAPERLAB_FETCH names them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """PAPERLAB_FETCH names them."""
        return False

    @admin.display(description="every", ordering="every")
    def each(self, row: Fetching) -> str:
        """How often."""
        return timetable.words(row.every)

    @admin.display(description="last result")
    def brought(self, row: Fetching) -> str:
        """What the last reading brought."""
        return ", ".join(f"{row.counts[name]:,} {name}" for name in ("found", "new", "changed") if name in row.counts)

    @admin.action(description="Fetch now")
    def fetch_now(self, request: HttpRequest, chosen: QuerySet[Fetching]) -> None:
        """Let the worker read the chosen sources at its next look."""
        asked = arriving.ask(list(chosen.values_list("name", flat=True)))
        self.message_user(request, f"The worker fetches {asked} source{'s' if asked != 1 else ''} now.")


@admin.register(Hang)
class HangAdmin(admin.ModelAdmin):
    """Jobs of the worker that hung; one that is deleted here is tried again at once."""

    list_display = ("name", "stands")
    readonly_fields = ("name", "times", "at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """The worker notes them."""
        return False

    @admin.display(description="how it stands")
    def stands(self, row: Hang) -> str:
        """How often, when, and whether it is set aside."""
        return hangs.sentence(row)
