"""What readers report and moderators decide: something hidden or shown, reports dismissed, an account closed or opened.

All of it is for whatever people write for others (`models.Written`): comments, collections, groups, replies.

Each decision is one transaction with its line in the trail of decisions, which nothing changes.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from paperlab.site.people.actions import Refused, moved
from paperlab.site.people.models import Decision, Report, Written, kinds
from paperlab.site.people.who import HERE
from paperlab.site.store import clean
from paperlab.site.store.models import Paper


def told(reason: str, note: str) -> str:
    """A reason as it is told: one of the reports' in words, and what else the moderator wrote. Raises Refused."""
    if reason and reason not in Report.REASONS:
        raise Refused("choose a reason")
    return ": ".join(part for part in (Report.REASONS.get(reason, ""), clean.line(note)) if part)[:500]


def _type(model: type[Written] | Written) -> ContentType:
    return ContentType.objects.get_for_model(model)


def find(kind: str, pk: int, *conditions: Q) -> Written | None:
    """What somebody wrote, where it meets the conditions. kind: its word."""
    model = kinds().get(kind)
    return None if model is None else model.objects.filter(*conditions, pk=pk).distinct().first()


def look(rows: Iterable[Written], user: object) -> None:
    """Note on each row what its page needs: `seen`, whether the reader sees its words; `own`, whether they wrote it;
    `why` it is hidden, for its writer."""
    reader = getattr(user, "pk", None)
    asked: dict[ContentType, list[Written]] = {}
    for row in rows:
        row.seen = row.seen_by(reader)
        row.own = reader is not None and row.writer is not None and row.writer.pk == reader
        row.why = ""
        if row.hidden and row.own:
            asked.setdefault(_type(row), []).append(row)
    for what, hidden in asked.items():
        decided = Decision.objects.filter(what=what, which__in=[row.pk for row in hidden], act="hide")
        reasons = dict(decided.order_by("at", "pk").values_list("which", "reason"))
        for row in hidden:
            row.why = reasons.get(row.pk, "")


def report(user: User, row: Written, reason: str, note: str) -> None:
    """Tell the moderators about what somebody wrote, once; again where it was edited since they saw to it. Raises
    Refused."""
    if row.writer is not None and row.writer.pk == user.pk:
        raise Refused(f"this {row.kind} is your own; you can change or delete it")
    if reason not in Report.REASONS:
        raise Refused("choose a reason")
    words = {"reason": reason, "note": clean.line(note)[:500]}
    made, new = Report.objects.get_or_create(user=user, what=_type(row), which=row.pk, defaults=words)
    edited = getattr(row, "edited", None)
    if not new and made.closed and edited and edited > made.closed:
        Report.objects.filter(pk=made.pk).update(closed=None, at=timezone.now(), **words)


def _decided(by: User, act: str, reason: str, account: User | None, row: Written | None = None) -> None:
    who = "" if account is None else "you" if account.username == HERE else f"reader {account.pk}"
    about = " by ".join(part for part in (row.called if row else "", who) if part)
    Decision.objects.create(
        by=by, by_name=f"account {by.pk}", act=act, reason=reason, account=account,
        what=_type(row) if row else None, which=row.pk if row else None, about=about[:200],
    )  # fmt: skip


def _close_reports(row: Written) -> bool:
    """Whether there were any."""
    return bool(row.reports.filter(closed=None).update(closed=timezone.now()))


def hide(by: User, row: Written, on: bool, reason: str = "") -> None:
    """Hide what somebody wrote from everybody but them, or show it again; doing it twice changes nothing."""
    with transaction.atomic():
        changed = type(row).objects.filter(pk=row.pk, hidden=not on).update(hidden=on)
        _close_reports(row)
        if changed:
            _decided(by, "hide" if on else "show", reason, row.writer, row)
            moved(row.counted)


def dismiss(by: User, row: Written) -> None:
    """Leave something as it is, and take its reports from the list."""
    with transaction.atomic():
        if _close_reports(row):
            _decided(by, "dismiss", "", row.writer, row)


def end_sessions(user: User) -> None:
    """Delete all sessions of an account: a cookie kept until the account is opened again opens nothing."""
    for row in Session.objects.filter(expire_date__gt=datetime.now(UTC)).iterator():
        if row.get_decoded().get(SESSION_KEY) == str(user.pk):
            row.delete()


def close(by: User, account: User, on: bool, reason: str = "") -> None:
    """Close an account, or open it again.

    One that is closed cannot sign in, its sessions end, its votes and what it wrote are shown to nobody. Raises
    Refused.
    """
    if on and (account.pk == by.pk or account.is_staff or account.is_superuser or account.username == HERE):
        raise Refused("accounts of the site's staff are closed in its administration (/admin), not here")
    with transaction.atomic():
        if not User.objects.filter(pk=account.pk, is_active=on).update(is_active=not on):
            return
        if on:
            end_sessions(account)
            for model in kinds().values():
                written = model.objects.filter(user=account).values("pk")
                Report.objects.filter(what=_type(model), which__in=written, closed=None).update(closed=timezone.now())
        _decided(by, "close" if on else "open", reason, account)
        touched = Paper.objects.filter(votes__user=account) | Paper.objects.filter(site_comments__user=account)
        moved(list(touched.distinct()))


def why_closed(account: User) -> str:
    """What the person of a closed account is told; "" where nobody gave a reason."""
    last = Decision.objects.filter(account=account, act="close").first()
    return last.reason if last else ""
