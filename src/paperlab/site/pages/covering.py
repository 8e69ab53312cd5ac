"""The coverage page: every paper of the catalogue, how far it is, and what it still needs."""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from paperlab.core.paper import FAMILIES, Paper, papers
from paperlab.core.standings import MIXED
from paperlab.core.verdict import WORDS
from paperlab.site.pages import cards, text
from paperlab.site.pages.lists import offset
from paperlab.site.people import mine
from paperlab.site.records import RecordIndex, coverage, record_index, runnable
from paperlab.site.store import models as store

STATES = {
    "checked": "at least one verdict",
    "not yet run": "a check is written, but it was not run here yet",
    "planned": "an experiment is planned, no check is written",
    "nothing to run": "no experiment here could test its claims",
}
PAGE = 20  # papers on a page
EFFORT = {"S": "small", "M": "medium", "L": "large"}


@dataclass(frozen=True)
class Row:
    """One paper. needs: what is still to do."""

    paper: Paper
    title: SafeString
    state: str
    badges: tuple[cards.Badge, ...]
    needs: str


def row(paper: Paper, known: RecordIndex) -> Row:
    """Where a paper stands."""
    badges = cards.badges(paper.slug, known)
    counted = known.counts.get(paper.slug, {})
    if counted:
        unsettled = [word for word in ("undecided", "error", "not comparable") if word in counted]
        state = "checked"
        needs = {"undecided": "more samples", "error": "a run without errors", "not comparable": "equal budgets"}
        todo = "; ".join(needs[word] for word in unsettled)
    elif paper.slug in runnable():
        state, todo = "not yet run", f"a run: paperlab run {paper.slug}"
    elif paper.plan is not None:
        plan = paper.plan
        state = "planned"
        todo = f"a check on {plan.task}, effort {EFFORT.get(plan.effort, plan.effort)}"
        todo += f"; {', '.join(plan.needs)}" if plan.needs else ""
    else:
        state, todo = "nothing to run", paper.why_not or ""
    return Row(paper, text.rich(paper.title, drawn=False), state, badges, todo)


def page(request: HttpRequest) -> HttpResponse:
    """The catalogue by family and state."""
    family, state = request.GET.get("family", ""), request.GET.get("state", "")
    family = family if family in FAMILIES else ""
    wanted = mine.read(request)
    if state not in STATES:  # what was checked comes first; a family, and a reader's own choice, are shown whole
        state = "" if state or family or wanted.active else "checked"
    slugs = None
    if wanted.active:
        rows = wanted.narrow(store.Paper.objects.filter(slug__isnull=False).order_by())
        slugs = frozenset(rows.values_list("slug", flat=True))
    choices = render_to_string("pages/places/mine.html", {"mine": wanted})
    context = {
        "body": _body(record_index().mark, family, state, offset(request), slugs, choices, wanted.more),
        "atom": "/feeds/checks.atom",
        "atom_title": "What was checked",
    }
    return render(request, "pages/coverage.html", context)


@lru_cache(maxsize=64)
def _body(
    mark: str, family: str, state: str, start: int, slugs: frozenset[str] | None, choices: SafeString, more: str
) -> SafeString:
    """The page within its frame, which changes only with the records. start: how many papers come before its first.

    slugs: the only papers to list; None: all. choices, more: the reader's own filters, as links and as the end of an
    address.
    """
    known, covered = record_index(), coverage()
    everything = [row(paper, known) for paper in papers().values()]
    counted = {name: sum(one.state == name for one in everything) for name in STATES}
    shown = [
        one
        for one in everything
        if (not family or one.paper.family == family)
        and (not state or one.state == state)
        and (slugs is None or one.paper.slug in slugs)
    ]

    def asked(place: int) -> str:
        return urlencode({"family": family, "state": state or "all", **({"from": place} if place else {})}) + more

    order = list(STATES)
    shown.sort(key=lambda one: (order.index(one.state), one.paper.family, one.paper.slug))
    context = {
        "total": covered["total"],
        "unreadable": covered["unreadable"],
        "families": [(name, covered["families"][name]) for name in FAMILIES if name in covered["families"]],
        "states": [(name, means, counted[name]) for name, means in STATES.items()],
        "verdicts": [(word, covered["total"]["verdicts"][word]) for word in (*WORDS, MIXED)],
        "rows": shown[start : start + PAGE],
        "first": start + 1,
        "last": min(start + PAGE, len(shown)),
        "found": len(shown),
        "start": start,
        "before": asked(max(0, start - PAGE)) if start else None,
        "next": asked(start + PAGE) if start + PAGE < len(shown) else "",
        "family": family,
        "state": state,
        "choices": choices,
        "more": more,
    }
    return render_to_string("pages/parts/coverage.html", context)
