"""What moderators decide: a comment hidden or shown, reports dismissed, an account closed or opened.

Each decision is one transaction with its line in the trail of decisions, which nothing changes.
"""

from datetime import UTC, datetime

from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.utils import timezone

from paperlab.site.pages import addresses
from paperlab.site.people.actions import Refused, moved
from paperlab.site.people.models import Comment, Decision, Report
from paperlab.site.people.who import HERE
from paperlab.site.store import clean
from paperlab.site.store.models import Paper


def told(reason: str, note: str) -> str:
    """A reason as it is told: one of the reports' in words, and what else the moderator wrote. Raises Refused."""
    if reason and reason not in Report.REASONS:
        raise Refused("choose a reason")
    return ": ".join(part for part in (Report.REASONS.get(reason, ""), clean.line(note)) if part)[:500]


def _decided(by: User, act: str, reason: str, account: User, comment: Comment | None = None) -> None:
    who = "you" if account.username == HERE else f"reader {account.pk}"
    about = f"comment {comment.pk} on {addresses.name(comment.paper)} by {who}" if comment else who
    Decision.objects.create(
        by=by, by_name=f"account {by.pk}", act=act, reason=reason,
        account=account, comment=comment, about=about[:200],
    )  # fmt: skip


def _close_reports(of: Comment) -> None:
    Report.objects.filter(comment=of, closed=None).update(closed=timezone.now())


def hide(by: User, row: Comment, on: bool, reason: str = "") -> None:
    """Hide a comment from everybody but its writer, or show it again; doing it twice changes nothing."""
    with transaction.atomic():
        changed = Comment.objects.filter(pk=row.pk, hidden=not on).update(hidden=on)
        _close_reports(row)
        if changed:
            _decided(by, "hide" if on else "show", reason, row.user, row)
            moved([row.paper])


def dismiss(by: User, row: Comment) -> None:
    """Leave a comment as it is, and take its reports from the list."""
    with transaction.atomic():
        if row.reports.filter(closed=None).exists():
            _close_reports(row)
            _decided(by, "dismiss", "", row.user, row)


def end_sessions(user: User) -> None:
    """Delete all sessions of an account: a cookie kept until the account is opened again opens nothing."""
    for row in Session.objects.filter(expire_date__gt=datetime.now(UTC)).iterator():
        if row.get_decoded().get(SESSION_KEY) == str(user.pk):
            row.delete()


def close(by: User, account: User, on: bool, reason: str = "") -> None:
    """Close an account, or open it again.

    One that is closed cannot sign in, its sessions end, its comments and votes are shown to nobody. Raises Refused.
    """
    if on and (account.pk == by.pk or account.is_staff or account.is_superuser or account.username == HERE):
        raise Refused("accounts of the site's staff are closed in its administration (/admin), not here")
    with transaction.atomic():
        if not User.objects.filter(pk=account.pk, is_active=on).update(is_active=not on):
            return
        if on:
            end_sessions(account)
            Report.objects.filter(comment__user=account, closed=None).update(closed=timezone.now())
        _decided(by, "close" if on else "open", reason, account)
        touched = Paper.objects.filter(votes__user=account) | Paper.objects.filter(site_comments__user=account)
        moved(list(touched.distinct()))


def why_closed(account: User) -> str:
    """What the person of a closed account is told; "" where nobody gave a reason."""
    last = Decision.objects.filter(account=account, act="close").first()
    return last.reason if last else ""
