"""Teasers: the small pictures on cards. Read once when their paper arrives, drawn anew small, kept in the data folder.

A reader's browser asks this site alone. What comes from outside is not trusted: it is read through the fetcher that
looks at addresses, sizes and times, is decoded only if its format and its number of pixels are allowed, and only its
pixels are kept. A picture that cannot be had is asked for again after a day and after a week, then no more.
"""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from paperlab.core.files import write_atomically
from paperlab.core.home import home
from paperlab.site.store.item import SourceError
from paperlab.site.store.models import Teaser
from paperlab.site.store.prepared import Prepared
from paperlab.site.store.sources import daily_papers, named
from paperlab.site.store.sources.http import Polite

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

SHOWN = (160, 90)  # CSS pixels
SIZE = (320, 180)  # pixels of the file, for screens with two to one
MOST = 12_000  # bytes of one file
QUALITIES = (60, 45, 30, 15, 5)  # of WebP, until the file is small enough
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # no other decoder is let near it
PIXELS = 25_000_000  # of a picture that is decoded: 100 MB
LEAST = 64  # pixels of its shorter side: what is smaller is a sign, or counts readers
BYTES = 8 * 2**20  # of a picture that is read
SILENCE, DEADLINE = 10.0, 20.0  # seconds without a byte, and for all of it
AGAIN = (timedelta(days=1), timedelta(days=7))  # until a picture that could not be had is asked for again
LEASE = timedelta(minutes=30)  # for which a worker has a picture to itself
CHUNK = 500  # papers in one query


class Unusable(ValueError):
    """What came is no picture that can be shown; the message says why."""


def folder() -> Path:
    """Where the files are."""
    return home() / "teasers"


def small(content: bytes) -> bytes:
    """A picture as a WebP of SIZE and at most MOST bytes, its middle where the shape differs, without metadata. Raises
    Unusable."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > PIXELS:
                raise Unusable(f"{width} x {height} pixels; at most {PIXELS:,} are decoded")
            if min(width, height) < LEAST:
                raise Unusable(f"{width} x {height} pixels; at least {LEAST} are wanted")
            picture.draft("RGB", (4 * SIZE[0], 4 * SIZE[1]))  # a JPEG is decoded smaller at once
            picture.thumbnail((4 * SIZE[0], 4 * SIZE[0]), reducing_gap=2.0)
            fitted = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGBA"), SIZE)
        drawn = Image.new("RGB", SIZE, "white")  # it has nothing of the original but what is drawn
        drawn.paste(fitted, mask=fitted)
        return _packed(drawn)
    except Unusable:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, DecompressionBombError
        raise Unusable(f"no picture that can be read: {' '.join(str(error).split())[:200]}") from error


def _packed(drawn: "Image.Image") -> bytes:
    for quality in QUALITIES:
        out = io.BytesIO()
        drawn.save(out, "WEBP", quality=quality, method=6)
        if out.tell() <= MOST:
            return out.getvalue()
    raise Unusable(f"more than {MOST:,} bytes, however it is packed")


def wanted(pictures: Iterable[tuple[int, list[str]]]) -> None:
    """Note the addresses at which papers have pictures, the best first. What is there already stays, and what could not
    be had is asked for anew only at other addresses. Inside the transaction that stores the papers."""
    asked = dict(pictures)
    keys = list(asked)
    changed = []
    for start in range(0, len(keys), CHUNK):
        for row in Teaser.objects.filter(paper__in=keys[start : start + CHUNK]):
            addresses = asked.pop(row.paper_id)
            if addresses != row.addresses:
                row.addresses = addresses
                if not row.file:
                    row.failures, row.next_try = 0, timezone.now()
                changed.append(row)
    Teaser.objects.bulk_update(changed, ["addresses", "failures", "next_try"], batch_size=100)
    now = timezone.now()
    made = [Teaser(paper_id=key, addresses=addresses, next_try=now) for key, addresses in asked.items()]
    Teaser.objects.bulk_create(made, ignore_conflicts=True, batch_size=150)


_SHOWN = Prepared(
    lambda papers: Teaser.objects.filter(paper__in=papers).exclude(file="").order_by().values_list("paper", "file")
)


def shown(papers: Iterable[int]) -> dict[int, str]:
    """The files of papers that have one; none where PAPERLAB_PICTURES is off."""
    if not settings.PAPERLAB_PICTURES:
        return {}
    return dict(_SHOWN.rows(list(papers)))


def client() -> Polite:
    """Who asks for pictures: one line for all of them, whoever's they are."""
    return Polite(
        "pictures", gap=0.5, tries=1, timeout=SILENCE, deadline=DEADLINE, size_limit=BYTES,
        inside=named.inside(daily_papers.base()),
    )  # fmt: skip


def due(asks: Callable[[], Polite] = client) -> Callable[[], bool]:
    """The worker's job: fetches the picture of one paper, the newest first; whether there was one to fetch."""
    looked = False

    def run() -> bool:
        nonlocal looked
        if not settings.PAPERLAB_PICTURES:
            return False
        if not looked:
            _look()
            looked = True
        now = timezone.now()
        row = Teaser.objects.filter(next_try__lte=now).order_by("-paper").first()
        if row is None:
            return False
        if Teaser.objects.filter(pk=row.pk, next_try=row.next_try).update(next_try=now + LEASE):
            _fetch(row, asks())
        return True

    return run


def _look() -> None:
    """Have fetched again what is no longer in the folder, as after a backup without it was restored."""
    there = set(os.listdir(folder())) if folder().exists() else set()
    kept = Teaser.objects.exclude(file="").values_list("pk", "file")
    gone = [key for key, file in kept.iterator() if file not in there]
    for start in range(0, len(gone), CHUNK):
        Teaser.objects.filter(pk__in=gone[start : start + CHUNK]).update(file="", failures=0, next_try=timezone.now())


def _fetch(row: Teaser, asks: Polite) -> None:
    reasons = []
    for content, reason in _tried(row, asks):
        if content:
            file = f"{row.paper_id}-{hashlib.sha256(content).hexdigest()[:16]}.webp"
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder() / file, content)
            with transaction.atomic():
                kept = Teaser.objects.filter(pk=row.pk).update(file=file, error="", failures=0, next_try=None)
            if not kept:  # the paper was deleted meanwhile
                (folder() / file).unlink(missing_ok=True)
            return
        reasons.append(reason)
    again = timezone.now() + AGAIN[row.failures] if row.failures < len(AGAIN) else None
    reason = "; ".join(reasons)[:1_000]
    Teaser.objects.filter(pk=row.pk).update(failures=row.failures + 1, next_try=again, error=reason)
    logger.debug("no picture of paper %d: %s", row.paper_id, reason)


def _tried(row: Teaser, asks: Polite) -> Iterator[tuple[bytes, str]]:
    """What each address gives: a small picture, or why there is none."""
    for address in row.addresses:
        try:
            answer = asks.get(address)
            if answer.status != 200:
                raise Unusable(f"status {answer.status}")
            yield small(answer.content), ""
        except (SourceError, Unusable) as error:
            yield b"", " ".join(str(error).split())


@receiver(post_delete, sender=Teaser)
def _deleted(instance: Teaser, **_: object) -> None:
    """With a paper its picture goes, once that is certain."""
    if instance.file:
        transaction.on_commit(partial((folder() / instance.file).unlink, missing_ok=True))
