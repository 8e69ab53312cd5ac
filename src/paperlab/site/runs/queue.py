"""The queue of runs: add, cancel and resume them, and who may."""

import os
import secrets
from collections.abc import Mapping
from datetime import timedelta
from statistics import median

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from paperlab.core.card import Scalar
from paperlab.core.home import me
from paperlab.core.methods import Method, methods, parameters, parse
from paperlab.core.signature import ParameterError, show
from paperlab.core.task import SCALES
from paperlab.site.runs.models import CANCELLED, DONE, INTERRUPTED, OPEN, RUNNING, WAITING, Beat, Run

MOST = 20  # runs that may wait at once
LIMIT = 100  # characters of one parameter
ABSENT = timedelta(seconds=20)  # after which a worker that has not been heard of counts as absent


class Refused(ValueError):
    """A run that cannot be asked for. problems: what is wrong, by the field's name."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(problems.values()))


def of_paper(slug: str) -> list[Method]:
    """The methods with checks behind a paper's slug, or behind a method's."""
    matching = [m for m in methods().values() if m.card.checks and slug in (m.card.paper, m.slug)]
    return sorted(matching, key=lambda m: m.slug)


def once() -> str:
    """A token that makes a form one run, however often it is sent."""
    return secrets.token_urlsafe(16)


def read(method: Method, given: Mapping[str, str]) -> tuple[str, str, dict[str, Scalar]]:
    """(claim, scale, parameters) of a form that was sent. Raises Refused naming every bad field."""
    wrong: dict[str, str] = {}
    claim, scale = given.get("claim", ""), given.get("scale", "quick")
    if claim and claim not in [check.claim for check in method.card.checks]:
        wrong["claim"] = f"{method.slug} has no check {claim[:80]!r}"
    if scale not in SCALES or scale == "gpu":
        wrong["scale"] = f"no scale {scale[:40]!r}; quick takes minutes, full up to half an hour"
    params: dict[str, Scalar] = {}
    for parameter in parameters(method):
        text = given.get(f"set-{parameter.name}", "").strip()
        if not text:
            continue
        try:
            if len(text) > LIMIT or not text.isprintable():
                raise ParameterError(f"{parameter.name}: {parameter.allowed}, in at most {LIMIT} characters")
            name, value = parse(method, f"{parameter.name}={text}")
            params[name] = value
        except ParameterError as error:
            wrong[f"set-{parameter.name}"] = str(error)
    known = {f"set-{parameter.name}" for parameter in parameters(method)}
    for name in given:
        if name.startswith("set-") and name not in known:
            wrong[name[:60]] = f"{method.slug} has no parameter {name[4:60]!r}"
    if wrong:
        raise Refused(wrong)
    return claim, scale, params


def ask(method: Method, given: Mapping[str, str], who: object = None) -> Run:
    """Put a run into the queue; the same form sent again is the run that it was. Raises Refused."""
    claim, scale, params = read(method, given)
    token = given.get("once", "")[:64] or once()
    known = Run.objects.filter(once=token).first()
    if known is not None:
        return known
    if Run.objects.filter(state=WAITING).count() >= MOST:
        raise Refused({"": f"{MOST} runs are queued already; cancel one, or wait until one finishes"})
    try:
        with transaction.atomic():
            return Run.objects.create(
                once=token,
                method=method.slug,
                paper=method.card.paper or "",
                claim=claim,
                scale=scale,
                params=params,
                who=who if getattr(who, "pk", None) else None,
            )
    except IntegrityError:  # the same form, sent twice at once
        return Run.objects.get(once=token)


def cancel(run: Run) -> None:
    """Take a run back: one that waits at once, one that runs as soon as its worker sees it."""
    now = timezone.now()
    if not Run.objects.filter(pk=run.pk, state=WAITING).update(state=CANCELLED, ended=now):
        Run.objects.filter(pk=run.pk, state=RUNNING).update(stop=True)


def resume(run: Run) -> None:
    """Put an interrupted run back into the queue; it goes on where it stopped."""
    Run.objects.filter(pk=run.pk, state=INTERRUPTED).update(state=WAITING, stop=False, error="", ended=None)


def repeat(run: Run, token: str, who: object = None) -> Run:
    """Put a run with the same settings into the queue. Raises Refused where they are no longer taken."""
    method = methods().get(run.method)
    if method is None:
        raise Refused({"method": f"there is no method {run.method} any more"})
    params = {f"set-{name}": show(value) for name, value in run.params.items()}
    return ask(method, {"claim": run.claim, "scale": run.scale, "once": token, **params}, who)


def usual(run: Run) -> float | None:
    """Seconds that runs with the same settings took here: the median of the last five that were not interrupted."""
    same = Run.objects.filter(method=run.method, claim=run.claim, scale=run.scale, params=run.params, state=DONE)
    times = same.filter(starts=1, started__isnull=False, ended__isnull=False).values_list("started", "ended")[:5]
    return median((ended - started).total_seconds() for started, ended in times) if times else None


def ahead(run: Run) -> int:
    """How many runs come before one that waits."""
    return Run.objects.filter(state__in=OPEN, pk__lt=run.pk).count()


def waiting() -> "QuerySet[Run]":
    """What waits, in order."""
    return Run.objects.filter(state=WAITING).order_by("pk")


def beat() -> None:
    """Say that this worker is at work."""
    Beat.objects.update_or_create(name=me(), defaults={"at": timezone.now()})


def present() -> bool:
    """Whether a worker is at work."""
    return Beat.objects.filter(at__gt=timezone.now() - ABSENT).exists()


def memory() -> int:
    """Bytes that a run may take: PAPERLAB_RUN_MEMORY in GB, else three quarters of the machine's."""
    named: float | None = settings.PAPERLAB_RUN_MEMORY
    if named is not None:
        return int(named * 1e9)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
