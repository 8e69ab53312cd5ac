"""Read a source into the store page by page; an interrupted reading is resumed after the last page stored."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict

from django.db import DatabaseError, transaction
from django.utils import timezone

from paperlab.core.home import home
from paperlab.site.start import StoreError
from paperlab.site.store import write
from paperlab.site.store.item import Source, SourceError
from paperlab.site.store.models import Harvest
from paperlab.site.store.write import Counts

Progress = Callable[[str, Counts, int | None], None]  # source, so far, items in all if known


def harvest(source: Source, progress: Progress | None = None) -> Counts:
    """Read a source to its end; the counts of what that did.

    Raises SourceError, and StoreError where the database gives up; what was read until then is kept, and the next call
    goes on behind it.
    """
    import filelock

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    named = hashlib.sha256(source.key.encode()).hexdigest()[:32]
    try:
        with filelock.FileLock(folder / f"harvest-{named}.lock", timeout=0):
            return _harvest(source, progress)
    except filelock.Timeout as error:
        raise SourceError(f"{source.name}: another paperlab is reading the same; wait for it or stop it") from error
    except DatabaseError as error:  # locked for half a minute, a full disk, a server that went away
        message = " ".join(str(error).split())
        raise StoreError(
            f"the database gives up: {message}; what was read is kept, the next call goes on there"
        ) from error


def _harvest(source: Source, progress: Progress | None) -> Counts:
    state, _ = Harvest.objects.get_or_create(key=source.key, defaults={"source": source.name})
    counts, run = Counts(), write.Run(source.name)
    if not state.resume:
        state.started = timezone.now()
    state.finished = None
    for page in source.pages(dict(state.resume), dict(state.reached)):
        if page.stored:
            write.recall(page, run)
            continue
        with transaction.atomic():
            done = write.take(page, run)
            counts.add(done)
            state.resume, state.counts = page.resume, asdict(counts)
            state.save()
        if progress:
            progress(source.name, counts, page.total)
    state.resume, state.reached, state.counts = {}, source.reached, asdict(counts)
    state.finished = timezone.now()
    state.save()
    return counts
