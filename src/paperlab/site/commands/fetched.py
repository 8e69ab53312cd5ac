"""What `paperlab doctor` says of the worker: the sources that it reads by itself, the jobs that hung."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from paperlab.core.home import home


def findings() -> list[dict[str, Any]]:
    """One row for each source and each job that hung, as the doctor's other rows are. Looks only: makes no store,
    brings no table up to date."""
    if importlib.util.find_spec("django") is None:
        return []
    from paperlab.site.settings import SettingError, fetched
    from paperlab.site.store import timetable

    try:
        wanted = fetched(os.environ.get("PAPERLAB_FETCH"))
    except SettingError as error:
        return [_row("PAPERLAB_FETCH", "cannot be read", False, str(error))]
    if not wanted:
        return [_row("fetched", "nothing automatically: PAPERLAB_FETCH is off", None, None), *_hung()]
    said = {name: f"every {timetable.words(every)}, once `paperlab up` runs" for name, every in wanted.items()}
    rows = _stored()
    sources = [
        _row(f"fetched: {name}", *(rows.get(name) or (said[name], None)), _advice(rows.get(name))) for name in wanted
    ]
    return [*sources, *_hung()]


def _is_stored() -> bool:
    """Whether there is a store to look into, which is then configured."""
    from django.conf import settings

    if not settings.configured:
        if not os.environ.get("PAPERLAB_DATABASE") and not (home() / "paperlab.sqlite3").exists():
            return False
        from paperlab.site.start import configure

        configure()
    database = settings.DATABASES["default"]
    return not database["ENGINE"].endswith("sqlite3") or Path(database["NAME"]).exists()


def _hung() -> list[dict[str, Any]]:
    """One row for each job of the worker that hung the last time."""
    if not _is_stored():
        return []
    from django.db import DatabaseError

    from paperlab.site.store import hangs
    from paperlab.site.store.models import Hang

    advice = "it is tried again then; sooner: delete it at /admin/catalogue/hang/"
    try:
        return [_row(f"worker: {row.name}", hangs.sentence(row), False, advice) for row in Hang.objects.all()]
    except DatabaseError:  # of an older version, or away: the site says so when it starts
        return []


def _stored() -> dict[str, tuple[str, bool | None]]:
    """How each source is doing, and whether its last reading came to its end; {} where there is no store yet."""
    if not _is_stored():
        return {}
    from django.db import DatabaseError

    from paperlab.site.store import arriving
    from paperlab.site.store.models import Fetching

    try:
        return {
            row.name: (arriving.sentence(row), not row.error if row.last_tried else None)
            for row in Fetching.objects.all()
        }
    except DatabaseError:  # of an older version, or away: the site says so when it starts
        return {}


def _advice(found: tuple[str, bool | None] | None) -> str | None:
    if found is None or found[1] is not False:
        return None
    return "it is tried again automatically; if this machine stays offline, set PAPERLAB_FETCH=off"


def _row(name: str, value: str, ok: bool | None, advice: str | None) -> dict[str, Any]:
    return {"part": "site", "name": name, "value": value, "ok": ok, "advice": advice}
