"""What is one's own on any list: only what one voted for, saved or read, without what one has read.

`?mine=voted`, `saved`, `read` or `unread`, and `?hide=read` beside any of them, on every list; `narrow` makes them
conditions of a query that walk the indexes on (user, paper).
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode

from django.db import DatabaseError, connection, models
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest

from paperlab.site.people.models import OPENED, UNREAD, Choice, Kept, Read, Vote
from paperlab.site.store.models import Paper
from paperlab.site.store.prepared import Prepared

logger = logging.getLogger(__name__)

SHOWS = ("unread", "saved", "voted", "read")
PLACES = ("from", "cursor", "offset")  # in a list, which another filter makes void
BUSY = 50  # milliseconds that opening a page waits for the database, to note that it was opened

Row = TypeVar("Row", bound=models.Model)


def _read(user: int) -> "QuerySet[Read]":
    return Read.objects.filter(user=user).exclude(state=UNREAD)


def taken(user: int, what: str) -> "QuerySet[Any]":
    """The rows (each with its `paper`) of what somebody voted for, saved or read."""
    if what == "voted":
        return Vote.objects.filter(user=user)
    return Kept.objects.filter(collection__user=user) if what == "saved" else _read(user)


@dataclass(frozen=True)
class Mine:
    """What the reader wants to see of a list. user: None for a stranger, for whom nothing is filtered.

    path, others: the list's address and its other parameters, for links to it.
    """

    user: int | None = None
    show: str = ""
    hide: bool = False
    path: str = ""
    others: tuple[tuple[str, str], ...] = ()

    @property
    def active(self) -> bool:
        """Whether anything is filtered."""
        return self.user is not None and bool(self.show or self.hide)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """As parameters."""
        pairs = [("mine", self.show), ("hide", "read" * self.hide)]
        return [(name, value) for name, value in pairs if value]

    @property
    def more(self) -> str:
        """As the end of an address that has parameters already."""
        return "".join(f"&{name}={value}" for name, value in self.fields)

    @property
    def address(self) -> str:
        """The address of the list with these filters."""
        kept = [*self.others, *self.fields]
        return f"{self.path}?{urlencode(kept)}" if kept else self.path

    @property
    def links(self) -> list[tuple[str, str, bool]]:
        """(what is shown, address, whether it is now) of every choice."""
        return [(one or "all", replace(self, show=one).address, self.show == one) for one in ("", *SHOWS)]

    @property
    def all_address(self) -> str:
        """The address of the list without these filters."""
        return replace(self, show="", hide=False).address

    @property
    def other_hide(self) -> str:
        """The address with what was read shown where it is hidden, and hidden where it is shown."""
        return replace(self, hide=not self.hide).address

    def narrow(self, rows: "QuerySet[Row]", paper: str = "pk") -> "QuerySet[Row]":
        """Only the rows whose paper is wanted. paper: the name of its column in `rows`."""
        if self.user is None:
            return rows
        if self.show and self.show != "unread":
            # The person's few papers, from which the query starts: no walk over the whole store.
            rows = rows.filter(**{f"{paper}__in": taken(self.user, self.show).values("paper")})
        if self.hide or self.show == "unread":
            rows = rows.exclude(Exists(_read(self.user).filter(paper=OuterRef(paper))))
        return rows

    def keep(self, keys: Iterable[int]) -> list[int]:
        """Of some papers those that are wanted, in their order."""
        listed = list(keys)
        if not self.active:
            return listed
        wanted = set(self.narrow(Paper.objects.filter(pk__in=listed).order_by()).values_list("pk", flat=True))
        return [key for key in listed if key in wanted]

    @cached_property
    def only(self) -> frozenset[int] | None:
        """The papers to which a search is confined; None: to none."""
        if self.user is None or not self.show or self.show == "unread":
            return None
        return frozenset(taken(self.user, self.show).values_list("paper", flat=True))

    @cached_property
    def without(self) -> frozenset[int]:
        """The papers that a search leaves out."""
        if self.user is None or not (self.hide or self.show == "unread"):
            return frozenset()
        return frozenset(_read(self.user).values_list("paper", flat=True))


EVERYTHING = Mine()


def read(request: HttpRequest) -> Mine:
    """What a request wants to see; what cannot be meant is not asked for."""
    show, hide = request.GET.get("mine", ""), request.GET.get("hide", "")
    others = tuple(
        (name, value)
        for name, values in request.GET.lists()
        if name not in ("mine", "hide", *PLACES)
        for value in values
    )
    user = request.user.pk if request.user.is_authenticated else None
    return Mine(user, show if show in SHOWS else "", hide == "read", request.path, others)


# -- what is kept of reading -------------------------------------------------------------------------------------------


def choice(user: int) -> Choice:
    """What somebody chose; the defaults if nothing yet."""
    return Choice.objects.filter(user=user).first() or Choice(user_id=user)


_SEEN = Prepared(lambda user, paper: Read.objects.filter(user=user, paper=paper).order_by())


def seen(request: HttpRequest, paper: Paper) -> Read | None:
    """What is kept of the reader's reading of a paper, asked for once in a request; None if nothing is."""
    known: dict[int, Read | None] = request.__dict__.setdefault("paperlab_seen", {})
    if paper.pk not in known:
        known[paper.pk] = next(iter(_SEEN.objects(request.user.pk, paper.pk)), None)
    return known[paper.pk]


def opened(request: HttpRequest, paper: Paper) -> None:
    """Note that somebody opened a paper's page, once, unless they want no such notes.

    Only what a person does in a browser counts: no picture or frame of another site, nothing fetched in advance. A
    database that is busy is not waited for: the page matters more than the note.
    """
    headers = request.headers
    if request.method != "GET" or headers.get("Sec-Fetch-Dest", "document") != "document":
        return
    if headers.get("Sec-Purpose") or headers.get("Purpose"):
        return
    if headers.get("Sec-Fetch-Site") == "cross-site" and headers.get("Sec-Fetch-User") != "?1":
        return
    if not request.user.is_authenticated or seen(request, paper) is not None:
        return
    if not choice(request.user.pk).remember:
        return
    try:
        with _impatient():
            Read.objects.bulk_create([Read(user_id=request.user.pk, paper=paper, state=OPENED)], ignore_conflicts=True)
    except DatabaseError as error:
        logger.info("not noted that a paper was opened: %s", error)


@contextmanager
def _impatient() -> Iterator[None]:
    """On SQLite, wait for another writer only a moment."""

    def wait(milliseconds: int) -> None:
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout={milliseconds}")

    wait(BUSY)
    try:
        yield
    finally:
        wait(round(1000 * connection.settings_dict["OPTIONS"].get("timeout", 5)))
