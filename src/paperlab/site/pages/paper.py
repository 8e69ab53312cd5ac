"""The page of a paper: what it claims, what its checks found, how to use its method."""

import math
import re
from calendar import month_name
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.safestring import SafeString, mark_safe

from paperlab.core import charts
from paperlab.core.card import WITHIN, Check
from paperlab.core.methods import Method, methods, parameters, snippet, verb_of
from paperlab.core.paper import papers as catalogue
from paperlab.core.signature import Parameter, show
from paperlab.core.words import check_sentence, what_was_read
from paperlab.site import tex
from paperlab.site.api import shapes
from paperlab.site.pages import addresses, cards, citing, figures, text
from paperlab.site.pages.bibtex import bibtex
from paperlab.site.people import mine
from paperlab.site.records import record_index, runnable
from paperlab.site.search import rank
from paperlab.site.store import clean
from paperlab.site.store.models import Paper, Sighting
from paperlab.site.store.prepared import Prepared

AUTHORS = 12  # shown before the rest is folded
RELATED = 6


@dataclass(frozen=True)
class Run:
    """One record with its verdict."""

    row: dict[str, Any]
    details: figures.RecordFigures | None
    place: str

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return "record-" + re.sub(r"[^\w-]", "", str(self.row["id"]))


@dataclass(frozen=True)
class Checked:
    """One check with its runs: those of today, then the others."""

    check: Check
    method: str
    key: str
    sentence: str
    now: tuple[Run, ...]
    before: tuple[Run, ...]
    plot: SafeString | None


_DAY = ("day", "source", "upvotes")
_DAYS = Prepared(lambda paper: Sighting.objects.filter(paper=paper).order_by("-day").values_list(*_DAY)[:10])


def find(name: str) -> Paper:
    """The paper of a name. Raises Http404."""
    row = None if "\0" in name else shapes.find(name)
    if row is None:
        raise Http404(f"no paper {name[:120]!r} here")
    return row


def paper(request: HttpRequest, name: str) -> HttpResponse:
    """The page of one paper."""
    row = find(name)
    known = clean.arxiv_id(name[:200])
    if known and known[0] != name:  # a version, an old spelling, a whole address: one page has one address
        return HttpResponseRedirect(f"/papers/{known[0]}")
    ours = catalogue().get(row.slug or "")
    records = record_index()
    checks = checked(row.slug or "", records.mark)
    hits = rank.related(row.pk, RELATED)
    main = records.mains.get(row.slug or "", [])
    first = {(one["method"], one["claim"]) for one in main}
    claims = [c for c in checks if c.check.role == "claim"]
    claims.sort(key=lambda c: (c.method, c.check.claim) not in first)  # the main claim, then as the cards have them
    names = tex.names(row.authors[:500])
    described = text.beginning(text.plain(row.summary or row.upstream_summary or row.abstract), 200)
    context = {
        "row": row,
        "name": addresses.name(row),
        "url": addresses.paper(row),
        "title": text.rich(row.title, lines=False),
        "bare": text.plain(row.title),
        "authors": names[:AUTHORS],
        "others": names[AUTHORS:],
        "unnamed": max(0, max(row.author_count or 0, len(row.authors)) - len(names)),
        "when": f"{month_name[ours.month]} {ours.year}" if ours and ours.month else row.year,
        "code": addresses.web(row.code),
        "links": _links(row),
        "ours": ours,
        "claims": claims,
        "questions": [c for c in checks if c.check.role == "question"],
        "controls": [c for c in checks if c.check.role not in ("claim", "question")],
        "badges": cards.badges(row.slug, records),
        "main": main,
        "level": 90 if claims and claims[0].check.expect in WITHIN else 95,  # of the intervals of core.verdict
        "runnable": (row.slug or "") in runnable(),
        "uses": uses(row.slug or ""),
        "read": [said for method in _methods(row.slug or "") if (said := what_was_read(method.card))],
        "departs": [text_ for method in _methods(row.slug or "") for text_ in method.card.departs],
        "related": cards.with_hits(cards.cards([(hit.paper, None, None) for hit in hits]), hits),
        "bibtex": bibtex(row),
        "days": [dict(zip(_DAY, seen, strict=True)) for seen in _DAYS.rows(row.pk)],
        "described": described,
        "site": f"{request.scheme}://{request.get_host()}",
        "references": citing.tags(row, f"{request.scheme}://{request.get_host()}"),
    }
    answer = render(request, "pages/paper.html", context)
    mine.opened(request, row)
    return answer


def _links(row: Paper) -> list[tuple[str, str]]:
    """Links from outside as (address, what it is called), those that a browser may be sent to."""
    links = []
    for link in row.links[:20]:
        if isinstance(link, dict):
            address, label = str(link.get("url") or ""), str(link.get("kind") or "")
        else:
            address, label = str(link), ""
        safe = addresses.web(address)
        if safe and safe != row.code:
            links.append((safe, label[:80] or re.sub(r"^https?://(www\.)?", "", safe)[:60]))
    return links


def _methods(slug: str) -> list[Method]:
    return [method for method in methods().values() if slug and method.card.paper == slug]


@lru_cache(maxsize=512)
def checked(slug: str, mark: str) -> list[Checked]:
    """Every check of a paper with its runs. mark: the record index's, so that a new record shows."""
    rows = figures.rows(slug)
    listed = []
    for method in _methods(slug):
        for check in method.card.checks:
            its = [row for row in rows if row["method"] == method.slug and row["claim"] == check.claim]
            now = [row for row in its if row["state"] == "current" and row["check_hash"] == check.hash]
            before = [row for row in its if row not in now]
            places = _places(now + before)
            runs = [Run(row, figures.record(row["id"]), place) for row, place in zip(now + before, places, strict=True)]
            key = f"claim-{re.sub(r'[^a-z0-9]+', '-', check.claim.lower()).strip('-')}-{check.hash[:6]}"
            metrics = sorted(set(check.tasks.values()))
            sentence = _upper(check_sentence(check, " or ".join(metrics)))
            today = runs[: len(now)]
            listed.append(
                Checked(
                    check, method.slug, key, sentence, tuple(today), tuple(runs[len(now) :]), _plot(check, today, key)
                )
            )
    return listed


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _places(rows: list[dict[str, Any]]) -> list[str]:
    """Where each run was, in the fewest words: the model, and what else is not the same for all."""
    parts = [(r["model"], f"{r['task']} v{r['task_version']}", r["data"] or "", r["scale"]) for r in rows]
    different = [i for i in range(4) if i == 0 or len({part[i] for part in parts}) > 1]
    return [" · ".join(str(part[i]) for i in different if part[i]) for part in parts]


def _plot(check: Check, runs: list[Run], key: str) -> SafeString | None:
    bars = []
    for run in runs:
        row = run.row
        if row["gain"] is None:
            continue
        low = -math.inf if row["low"] is None else row["low"]
        high = math.inf if row["high"] is None else row["high"]
        kind = cards.SIGNS[row["word"]][0]
        bars.append(charts.Bar(run.place, row["gain"], low, high, row["word"], kind, f"#{run.anchor}"))
    drawn = charts.gains(bars, margin=check.margin, expect=check.expect, baseline=check.baseline.method)
    return None if drawn is None else mark_safe(drawn.inline(key))


@dataclass(frozen=True)
class Use:
    """How a method is used in one's own code."""

    slug: str
    snippet: str
    own_model: bool
    parameters: tuple[tuple[Parameter, str], ...]


@lru_cache(maxsize=512)
def uses(slug: str) -> tuple[Use, ...]:
    """The methods of a paper, each with the lines that use it."""
    examples = []
    for method in _methods(slug):
        verb, lines = verb_of(method), snippet(method)
        if verb is not None and lines is not None:
            known = tuple((p, show(p.default)) for p in parameters(method))
            examples.append(Use(method.slug, lines, verb.own_model, known))
    return tuple(examples)


def cite_ris(request: HttpRequest, name: str) -> HttpResponse:
    """The paper as a .ris file."""
    row = find(name)
    return citing.answer(citing.ris(row), "ris", addresses.name(row))


def cite(request: HttpRequest, name: str) -> HttpResponse:
    """The paper as a .bib file."""
    return HttpResponse(bibtex(find(name)), content_type="application/x-bibtex; charset=utf-8")
