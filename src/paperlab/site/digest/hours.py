"""When the digest of a day goes: at PAPERLAB_DIGEST_HOUR of the day after, in PAPERLAB_TIMEZONE."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from django.conf import settings

READ = timedelta(hours=2)  # after a day's end, until its list has been read for the last time


def zone() -> tzinfo:
    """Where it is Monday, and the hour, at which digests go."""
    name = str(settings.PAPERLAB_TIMEZONE)
    return UTC if name == "UTC" else ZoneInfo(name)


def goes(day: date) -> datetime:
    """When the digest of a day goes.

    Lists are dated in UTC, and grow until their day is over there: east of it, a digest waits for that.
    """
    after = day + timedelta(1)
    asked = datetime.combine(after, time(), zone()) + timedelta(hours=settings.PAPERLAB_DIGEST_HOUR)
    return max(asked, (datetime.combine(after, time(), UTC) + READ).astimezone(zone()))


def begins(now: datetime) -> str:
    """The hour of the day at which digests go, where they go: "6:00"."""
    at = goes(now.astimezone(zone()).date())
    return f"{at.hour}:{at.minute:02d}"
