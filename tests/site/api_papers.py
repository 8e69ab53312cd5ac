"""Papers for tests of the API, taken into the store the way any source's are."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

HOSTILE = {
    "script": "<script>alert(1)</script> </script> & \"quoted\" 'single'",
    "right to left": "שלום עולם: مرحبا بالعالم",
    "astral": "𝔸ttention 🤖 \U0001f9ea is 𝒶ll",
    "latex": r"$\mathcal{O}(n^2)$ \textbf{bold} \\ {\'e}",
    "line separators": "one\u2028two\u2029three\ttab",
    "template": "{{ 7*7 }} {% load x %} ${7*7}",
    "json": '"},{"id":"forged","x":"\\u0000',
}


def item(number: int, **facts: Any) -> Any:
    """A paper of a number: id, title, abstract, authors and date follow from it."""
    from paperlab.site.store.item import Item

    known = {
        "arxiv": f"2401.{number:05d}",
        "title": f"Paper number {number} on quantization",
        "abstract": f"We study number {number}. " * 40,
        "authors": [f"Author {n} of {number}" for n in range(8)],
        "published": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number // 3),
        "categories": ["cs.CL", "cs.LG"],
        "code": "https://github.com/someone/something" if number % 2 else "",
        "as_of": "2024-06-01",
    }
    return Item(**{**known, **facts}).checked()


def take(items: Iterable[Any], source: str = "daily-papers") -> None:
    """Store items as one page of a source."""
    from paperlab.site.store import write
    from paperlab.site.store.item import Page

    write.take(Page(list(items)), write.Run(source))


def seen(day: date, upvotes: int) -> list[Any]:
    """A paper's place in the list of a day."""
    from paperlab.site.store.item import Sighting

    return [Sighting(day, upvotes, 3)]
