"""The queue of runs: add, cancel and resume them, and who may."""

import math
import os
import secrets
import socket
from collections.abc import Mapping
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from paperlab.core.card import Scalar
from paperlab.core.home import home
from paperlab.core.methods import Method, methods, parameters, parse
from paperlab.core.signature import Parameter, ParameterError
from paperlab.core.task import SCALES
from paperlab.site import door
from paperlab.site.runs.models import CANCELLED, INTERRUPTED, OPEN, RUNNING, WAITING, Beat, Run

MOST = 20  # runs that may wait at once
LIMIT = 100  # characters of one parameter
ABSENT = timedelta(seconds=20)  # after which a worker that has not been heard of counts as absent


class Refused(ValueError):
    """A run that cannot be asked for. problems: what is wrong, by the field's name."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(problems.values()))


def me() -> str:
    """This worker: its machine and its data folder."""
    return f"{socket.gethostname()}:{home()}"[:300]


def may(request: HttpRequest) -> bool:
    """Whether a request may see and add runs: the one whose site it is, or the site's staff."""
    user = getattr(request, "user", None)
    return bool(
        door.is_owner(request) or (user is not None and user.is_authenticated and user.is_active and user.is_staff)
    )


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
            low, high = bounds(parameter)
            if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
                raise ParameterError(f"{name}={text}: a number from {low:,} to {high:,} is expected")
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


def bounds(parameter: Parameter) -> tuple[int, int]:
    """The least and the greatest number that the form takes for a parameter, both included. A method says no bounds of
    its own; these keep a run within what a machine can do, and leave room for every experiment that makes sense."""
    if parameter.name.endswith("bits"):
        return 1, 16
    default = parameter.default
    usual = abs(default) if isinstance(default, int | float) else 655  # a group size that is off by default
    most = max(100, math.ceil(100 * usual))
    return -most, most


def ask(method: Method, given: Mapping[str, str], who: object = None) -> Run:
    """Put a run into the queue; the same form sent again is the run that it was. Raises Refused."""
    claim, scale, params = read(method, given)
    token = given.get("once", "")[:64] or once()
    known = Run.objects.filter(once=token).first()
    if known is not None:
        return known
    if Run.objects.filter(state=WAITING).count() >= MOST:
        raise Refused({"": f"{MOST} runs are waiting already; cancel one, or wait for one to end"})
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


def again(run: Run) -> None:
    """Put an interrupted run back into the queue; it goes on where it stopped."""
    Run.objects.filter(pk=run.pk, state=INTERRUPTED).update(state=WAITING, stop=False, error="", ended=None)


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
