"""Pages of the queue: ask for a run, see it live, cancel it."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from asgiref.sync import sync_to_async
from django.core.paginator import Paginator
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from paperlab.core.methods import methods
from paperlab.core.paper import papers as catalogue
from paperlab.site import door, records
from paperlab.site.api import shapes
from paperlab.site.pages import text
from paperlab.site.runs import forms, queue
from paperlab.site.runs.models import RUNNING, WAITING, Run
from paperlab.site.runs.progress import ended

PAGE = 30
LOOK = 1.0  # seconds between two looks at a run that is watched
WATCHED = 300.0  # seconds after which a stream ends; browsers open it again
STREAMS = 24  # at once, in one process: each looks once a second
_watching = 0


def _refused(request: HttpRequest) -> HttpResponse:
    return render(request, "runs/refused.html", status=403)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def ask(request: HttpRequest, name: str) -> HttpResponse:
    """The form for a paper's checks; by POST, into the queue."""
    if not door.is_keeper(request):
        return _refused(request)
    row = None if "\0" in name else shapes.find(name)
    slug = (row.slug or "") if row is not None else name
    choices = queue.of_paper(slug) if slug else []
    if not choices:
        raise Http404("no check is written for this paper")
    wrong: dict[str, str] = {}
    sent = request.POST.dict()
    chosen = sent.get("method", "") if request.method == "POST" else request.GET.get("method", "")
    if request.method == "POST":
        method = next((m for m in choices if m.slug == chosen), choices[0] if not chosen else None)
        if method is None:
            wrong[""] = f"{slug} has no method {chosen[:80]!r}"
        else:
            try:
                run = queue.ask(method, {name: str(value) for name, value in sent.items()}, request.user)
                return redirect(f"/runs/{run.pk}")
            except queue.Refused as error:
                wrong = error.problems
    claim = request.GET.get("claim", "") if request.method != "POST" else sent.get("claim", "")
    context = {
        "title": catalogue()[choices[0].card.paper].title if choices[0].card.paper in catalogue() else choices[0].slug,
        "back": f"/papers/{quote(name, safe='/~')}",
        "forms": [form(m, claim, sent if m.slug == chosen else None, wrong) for m in choices],
        "wrong": wrong,
        "present": queue.present(),
    }
    return render(request, "runs/ask.html", context, status=400 if wrong else 200)


def form(method: Any, claim: str = "", sent: Any = None, wrong: Any = None) -> dict[str, Any]:
    """What the form of one method needs."""
    claims = {check.claim: text.plain(check.says) for check in method.card.checks}
    chosen = claim if claim in claims else ""
    return {
        "method": method.slug,
        "claims": claims.items(),
        "claim": chosen,
        "scale": (sent or {}).get("scale", "quick"),
        "fields": forms.fields(method, chosen, sent, wrong if sent else None),
        "once": queue.once(),
    }


@never_cache
@require_GET
def runs(request: HttpRequest) -> HttpResponse:
    """The queue, newest first."""
    if not door.is_keeper(request):
        return _refused(request)
    page = Paginator(Run.objects.defer("log").select_related("who"), PAGE).get_page(request.GET.get("page"))
    if request.path.endswith(".json"):
        return JsonResponse({"runs": [as_json(run) for run in page], "worker": queue.present()})
    return render(request, "runs/runs.html", {"page": page, "present": queue.present()})


def as_json(run: Run) -> dict[str, Any]:
    """A run as JSON."""
    return {
        "id": run.pk,
        "method": run.method,
        "paper": run.paper or None,
        "claim": run.claim or None,
        "scale": run.scale,
        "params": run.params,
        "state": run.state,
        "stopping": run.stop and run.open,
        "progress": run.progress,
        "records": run.records,
        "error": run.error or None,
        "starts": run.starts,
        "asked": shapes.moment(run.asked),
        "started": shapes.moment(run.started),
        "ended": shapes.moment(run.ended),
    }


def _context(run: Run) -> dict[str, Any]:
    """The template variables of a run's page."""
    known = records.record_index() if run.records else None
    present = queue.present() if run.open else True
    progress = run.progress
    waiting = progress.get("waiting", []) if run.open else []
    stages = [*progress.get("before", {}).items()]
    if progress.get("arms") or waiting:
        stages.append((progress["stage"], progress["arms"]))
    found = [(stage, [Row(name, *step) for name, step in arms.items()]) for stage, arms in stages]
    rows = [row for _, arms in found for row in arms]
    return {
        "run": run,
        "stages": found,
        "stage": progress.get("stage", ""),
        "waiting": waiting,
        "finished": sum(row.ended for row in rows),
        "verdicts": [known.verdicts[name] for name in run.records if known and name in known.verdicts],
        "left": _left(run) if present else "",
        "usual": _usual(run),
        "ahead": queue.ahead(run) if run.open else 0,
        "present": present,
    }


@dataclass(frozen=True)
class Row:
    """A configuration's progress. phase: what is done, or "failed"; done, total: its steps."""

    name: str
    phase: str
    done: int
    total: int

    @property
    def ended(self) -> bool:
        """Whether it is finished, or broke."""
        return ended([self.phase, self.done, self.total])

    @property
    def share(self) -> int:
        """Per cent that is done."""
        return round(100 * self.done / self.total) if self.total else 0


def _left(run: Run) -> str:
    """The time until a running run should end, in words; "" where nothing is known, or it does not run.

    By its process's own estimate, else by how long the same run took before.
    """
    if run.state != RUNNING:
        return ""
    ends = run.progress.get("ends")
    if ends is None and run.started and (usual := queue.usual(run)):
        ends = run.started.timestamp() + usual
    if ends is None:
        return ""
    left = ends - time.time()
    return f"about {minutes(left)} left" if left > 0 else "longer than estimated"


def _usual(run: Run) -> str:
    """How long a queued run took before, in words; "" where it never ran."""
    usual = queue.usual(run) if run.state == WAITING else None
    return minutes(usual) if usual else ""


def minutes(seconds: float) -> str:
    """A span in words, rounded up: "1 minute", "4 minutes", "1 h 20 min"."""
    whole = max(1, math.ceil(seconds / 60))
    if whole < 60:
        return f"{whole} minute{'s' * (whole > 1)}"
    return f"{whole // 60} h {whole % 60} min" if whole % 60 else f"{whole // 60} h"


@never_cache
@require_GET
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """One run, live."""
    if not door.is_keeper(request):
        return _refused(request)
    row = get_object_or_404(Run, pk=pk)
    if request.path.endswith(".json"):
        return JsonResponse({**as_json(row), "log": row.log, "worker": queue.present()})
    if request.path.endswith("/live"):
        return JsonResponse(_live(row))
    return _page(request, row)


def _page(request: HttpRequest, row: Run, wrong: dict[str, str] | None = None) -> HttpResponse:
    checks = methods()[row.method].card.checks if row.method in methods() else ()
    says = next((text.plain(check.says) for check in checks if check.claim == row.claim), "")
    context = {**_context(row), "once": queue.once(), "wrong": wrong, "says": says}
    return render(request, "runs/run.html", context, status=400 if wrong else 200)


def _live(row: Run) -> dict[str, Any]:
    context = _context(row)
    parts = {name: render_to_string(f"runs/{name}.html", context).strip() for name in ("state", "live")}
    return {"open": row.open, "state": parts["state"], "html": parts["live"]}


@never_cache
@require_POST
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """Take a run back."""
    if not door.is_keeper(request):
        return _refused(request)
    queue.cancel(get_object_or_404(Run, pk=pk))
    return redirect(f"/runs/{pk}")


@never_cache
@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    """Go on with an interrupted run."""
    if not door.is_keeper(request):
        return _refused(request)
    queue.resume(get_object_or_404(Run, pk=pk))
    return redirect(f"/runs/{pk}")


@never_cache
@require_POST
def again(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask for a run with the same settings."""
    if not door.is_keeper(request):
        return _refused(request)
    row = get_object_or_404(Run, pk=pk)
    try:
        return redirect(f"/runs/{queue.repeat(row, request.POST.get('once', ''), request.user).pk}")
    except queue.Refused as error:
        return _page(request, row, error.problems)


def _look(pk: int) -> dict[str, Any] | None:
    try:
        row = Run.objects.filter(pk=pk).first()
        return None if row is None else _live(row)
    finally:
        connections.close_all()  # a stream lives for minutes: it must not keep a connection of the pool


def _enter(request: HttpRequest, pk: int) -> HttpResponse | None:
    if not door.is_keeper(request):
        return _refused(request)
    get_object_or_404(Run, pk=pk)
    return None


@require_GET
async def events(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The run as server-sent events: one at once, one whenever something has changed, the last when it has ended."""
    refused = await sync_to_async(_enter)(request, pk)
    if refused is not None:
        return refused
    if _watching >= STREAMS:
        return HttpResponse("too many are watching; ask again", status=503, headers={"Retry-After": "5"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(_stream(pk), content_type="text/event-stream", headers=headers)


async def _stream(pk: int) -> AsyncIterator[bytes]:
    global _watching
    _watching += 1
    try:
        before, loop = "", asyncio.get_running_loop()
        end = loop.time() + WATCHED
        yield b"retry: 2000\n\n"
        while loop.time() < end:
            live = await sync_to_async(_look)(pk)
            now = json.dumps(live)
            # A comment now and then: it keeps proxies from closing, and shows a reader that has left.
            yield f"data: {now}\n\n".encode() if now != before else b":\n\n"
            before = now
            if live is None or not live["open"]:
                return
            await asyncio.sleep(LOOK)
    finally:
        _watching -= 1
