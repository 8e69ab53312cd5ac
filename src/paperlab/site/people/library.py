"""Pages of one's library: what one voted for, saved and read; collections with notes and tags; shared by a link."""

from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from paperlab.site.api import shapes
from paperlab.site.pages import cards, citing
from paperlab.site.pages.bibtex import bibtex
from paperlab.site.pages.paper import find
from paperlab.site.pages.refused import refused, sentence
from paperlab.site.people import actions, links, mine, moderation, who
from paperlab.site.people.models import SHARED, Collection, Kept, Tag
from paperlab.site.store.models import Paper

PAGE = 50


def _papers(user: int, wanted: mine.Mine, tag: str) -> "QuerySet[Paper]":
    """The papers of a library that are wanted, the newest first."""
    rows = Paper.objects.order_by("-published", "-pk")
    if not wanted.show or wanted.show == "unread":
        every = [Q(pk__in=mine.taken(user, what).values("paper")) for what in ("voted", "saved", "read")]
        rows = rows.filter(every[0] | every[1] | every[2])
    if tag:
        rows = rows.filter(pk__in=Kept.objects.filter(collection__user=user, tags__name=tag).values("paper"))
    return wanted.narrow(rows)


def _tags(kept: "QuerySet[Kept]") -> list[tuple[str, int]]:
    """The tags of some papers that were saved, with how many have each."""
    counted = Tag.objects.filter(kept__in=kept.order_by()).values("name").annotate(count=Count("pk")).order_by("name")
    return [(row["name"], row["count"]) for row in counted]


@never_cache
@require_GET
@who.person
def library(request: HttpRequest) -> HttpResponse:
    """What one voted for, saved and read, with the filters of every list and by tag."""
    user, wanted, tag = int(request.user.pk), mine.read(request), request.GET.get("tag", "")[: actions.TAG]
    page = Paginator(_papers(user, wanted, tag).defer(*shapes.UNREAD), PAGE).get_page(request.GET.get("page"))
    kept = urlencode([*wanted.fields, *([("tag", tag)] if tag else [])])
    context = {
        "mine": wanted,
        "cards": cards.of_rows(page),
        "page": page,
        "kept": kept,
        "tag": tag,
        "untagged": f"/library?{urlencode(wanted.fields)}",
        "mine_fields": urlencode(wanted.fields),
        "tags": _tags(Kept.objects.filter(collection__user=user)),
        "collections": Collection.objects.filter(user=user).annotate(count=Count("kept")),
        "remember": mine.choice(user).remember,
        "opened": mine.taken(user, "read").count(),
    }
    return render(request, "people/library.html", context)


@never_cache
@require_GET
@who.person
def library_file(request: HttpRequest, kind: str) -> HttpResponse:
    """The same papers for a reference manager. kind: bib or ris."""
    user, wanted, tag = int(request.user.pk), mine.read(request), request.GET.get("tag", "")[: actions.TAG]
    rows = list(_papers(user, wanted, tag))
    kept: dict[int, list[Kept]] = {}
    for row in _noted(Kept.objects.filter(collection__user=user), user):
        kept.setdefault(row.paper_id, []).append(row)
    return _file(kind, "library", [(row, kept.get(row.pk, [])) for row in rows])


def _noted(kept: "QuerySet[Kept]", reader: int | None) -> list[Kept]:
    """Papers as they were saved, with the notes and tags that a reader may see."""
    rows = list(kept.select_related("paper", "user", "collection__user").prefetch_related("tags"))
    return [row for row in rows if row.seen_by(reader)]


def _file(kind: str, name: str, papers: list[tuple[Paper, list[Kept]]]) -> HttpResponse:
    """Papers with what was noted on them as a file."""
    if kind == "bib":
        return citing.answer(citing.joined(bibtex(row) for row, _ in papers), kind, name)
    written = [
        citing.ris(
            row,
            " ".join(dict.fromkeys(one.note for one in kept if one.note)),
            list(dict.fromkeys(tag.name for one in kept for tag in one.tags.all())),
        )
        for row, kept in papers
    ]
    return citing.answer("".join(written), kind, name)


@never_cache
@require_POST
@who.person
def reading(request: HttpRequest) -> HttpResponse:
    """Keep which papers one opens, or no longer; or forget all that was kept of it."""
    user = who.user(request)
    if request.POST.get("do") == "forget":
        actions.forget_reading(user)
    else:
        actions.remember(user, request.POST.get("remember") == "1")
    return redirect("/library#reading")


# -- collections -------------------------------------------------------------------------------------------------------


def _shown(row: Collection, request: HttpRequest) -> dict[str, Any]:
    """A collection's papers as its pages show them."""
    tag, own = request.GET.get("tag", "")[: actions.TAG], request.user.pk == row.user_id
    every = row.kept.select_related("paper", "user", "collection__user").prefetch_related("tags")
    tagged = every if own else every.filter(Kept.shown())
    chosen = tagged.filter(tags__name=tag) if tag else every
    shown: Page[Kept] = Paginator(chosen, PAGE).get_page(request.GET.get("page"))
    listed = list(shown)
    made = cards.of_rows([one.paper for one in listed])
    moderation.look([row, *listed], request.user)
    return {
        "row": row,
        "page": shown,
        "tag": tag,
        "tags": _tags(tagged),
        "here": who.HERE,
        "cards": made,  # by which the votes on all of them are asked for at once
        "kept": list(zip(listed, made, strict=True)),
    }


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@who.person
def collection(request: HttpRequest, pk: int) -> HttpResponse:
    """One collection; by POST, its name and note, its link, or its end."""
    row = get_object_or_404(Collection, pk=pk, user=who.user(request))
    if request.method != "POST":
        context = _shown(row, request)
        where = f"{request.scheme}://{request.get_host()}"
        link = f"{where}/shared/{links.token(SHARED, row.shared)}" if row.shared else ""
        return render(request, "people/collection.html", {**context, "link": link})
    do = request.POST.get("do", "")
    if do == "delete":
        row.delete()
        return redirect("/collections")
    try:
        if do in ("share", "unshare"):
            actions.share(row, do == "share")
            return redirect(f"/collections/{pk}#share")
        if "name" in request.POST:
            actions.name_collection(row, request.POST["name"])
    except actions.Refused as error:
        return refused(request, 400, "Not changed", sentence(error))
    note = request.POST.get("note", "")[: actions.NOTE].replace("\0", "")
    Collection.objects.filter(pk=pk).update(note=note)
    return redirect(f"/collections/{pk}")


def _with_notes(row: Collection, reader: int | None) -> list[tuple[Paper, list[Kept]]]:
    noted = {one.paper_id: [one] for one in _noted(row.kept.all(), reader)}
    return [(one.paper, noted.get(one.paper_id, [])) for one in row.kept.select_related("paper")]


@never_cache
@require_GET
@who.person
def collection_file(request: HttpRequest, pk: int, kind: str) -> HttpResponse:
    """One collection for a reference manager. kind: bib or ris."""
    row = get_object_or_404(Collection, pk=pk, user=who.user(request))
    return _file(kind, row.name, _with_notes(row, row.user_id))


@never_cache
@require_POST
@who.person
def annotate(request: HttpRequest, pk: int) -> HttpResponse:
    """The note and the tags of one paper in a collection."""
    row = get_object_or_404(Collection, pk=pk, user=who.user(request))
    paper = find(request.POST.get("paper", ""))
    if not row.kept.filter(paper=paper).exists():
        raise Http404("this paper is not in the collection")
    try:
        actions.keep(row, paper, True, request.POST.get("note", ""), request.POST.get("tags", ""))
    except actions.Refused as error:
        return refused(request, 400, "Not saved", sentence(error))
    return redirect(who.back(request, f"/collections/{pk}"))


def _of_link(token: str) -> Collection:
    """The collection of a link. Raises Http404 for one that was never made, or ended."""
    found = links.number(SHARED, token)
    row = Collection.objects.filter(shared=found).select_related("user").first() if found else None
    if row is None:
        raise Http404("this link is not, or no longer, one to a collection")
    return row


@never_cache
@require_GET
def shared(request: HttpRequest, token: str) -> HttpResponse:
    """A collection as whoever has its link sees it: its papers, notes and tags, not whose it is."""
    row = _of_link(token)
    if not row.is_shown:
        return _gone(request)
    answer = render(request, "people/shared.html", {**_shown(row, request), "token": token})
    answer.headers["X-Robots-Tag"] = "noindex"
    answer.headers["Referrer-Policy"] = "same-origin"  # the address is the key
    return answer


def _gone(request: HttpRequest) -> HttpResponse:
    return refused(request, 410, "Not shown", "A moderator hid this collection.")


@never_cache
@require_GET
def shared_file(request: HttpRequest, token: str, kind: str) -> HttpResponse:
    """A shared collection for a reference manager. kind: bib or ris."""
    row = _of_link(token)
    if not row.is_shown:
        return _gone(request)
    answer = _file(kind, row.name, _with_notes(row, None))
    answer.headers["X-Robots-Tag"] = "noindex"
    return answer
