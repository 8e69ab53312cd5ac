"""Queries whose SQL is written once: the same rows as Django's own, whatever the values, and no value lost."""

from datetime import date
from typing import Any

import pytest


@pytest.fixture
def days(store: None) -> None:
    from paperlab.site.store.models import Paper, Sighting

    for n in range(1, 6):
        row = Paper.objects.create(title=f"Title {n}", title_key=str(n), authors=[f"A{n}"], published=date(2024, 5, n))
        Sighting.objects.create(paper=row, source="daily", day=date(2024, 6, n), upvotes=n)


def test_the_rows_are_those_of_the_query_for_every_value(days: None) -> None:
    from paperlab.site.store.models import Paper
    from paperlab.site.store.prepared import Prepared

    def build(words: str | None, first: date, keys: list[int], last: date, *, back: bool = False) -> Any:
        rows = Paper.objects.filter(published__range=(first, last), pk__in=keys, sightings__day__gt=first)
        rows = rows if words is None else rows.exclude(title=words)
        return rows.order_by("-pk" if back else "pk").values_list("pk", "published", "authors", "withdrawn")[:3]

    prepared = Prepared(build)
    every = list(Paper.objects.values_list("pk", flat=True))
    for words in (None, "Title 2", "Title 3"):
        for first, last in ((1, 5), (2, 4), (3, 3)):
            for keys in (every, every[:3], every[3:]):
                for back in (False, True):
                    given = (words, date(2024, 5, first), keys, date(2024, 5, last))
                    wanted = list(build(*given, back=back))
                    assert [tuple(row) for row in prepared.rows(*given, back=back)] == wanted
    assert prepared.rows(None, date(2024, 5, 1), [], date(2024, 5, 5)) == []


def test_a_query_that_leaves_a_value_out_is_refused(store: None) -> None:
    from paperlab.site.store.models import Paper
    from paperlab.site.store.prepared import Prepared

    with pytest.raises(ValueError, match="leaves out 1 of its 2 values"):
        Prepared(lambda key, other: Paper.objects.filter(pk=key).values_list("pk")).rows(1, 2)
