"""Trending score: votes and comments in daily lists, each worth half after HALF_LIFE days.

    trending(paper, day) = sum over the days it was listed, up to `day`, of
                           (1 + votes + comments / 2) * 2^(-(day - listed) / HALF_LIFE)
                         + the same sum without the 1 over the votes and comments on this site, each on its own
                           day, or on the third day of a new account; not those that moderators hid

In force since 2026-11-30. The order of papers does not depend on `day` as long as nothing is listed later, because
every score shrinks by the same factor: log2 of the sum, counted from year 1, is a number that an index can keep.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from django.db.models import Count, QuerySet

from paperlab.site.people.counting import today
from paperlab.site.people.models import Comment, Vote
from paperlab.site.store.models import Sighting

HALF_LIFE = 3.0  # days
WINDOW = 60  # days looked back: what is older counts less than a millionth
NEVER = -1.0  # static score of a paper that no list has shown


def points(upvotes: int | None, comments: int | None) -> float:
    """What one day in a list is worth on that day."""
    return 1 + (upvotes or 0) + (comments or 0) / 2


def _days(
    lists: QuerySet[Sighting], votes: QuerySet[Vote], comments: QuerySet[Comment]
) -> Iterator[tuple[int, date, float]]:
    """(paper, day, what that day is worth) of the lists and of the people here."""
    for paper, day, upvotes, count in lists.values_list("paper", "day", "upvotes", "comments"):
        yield paper, day, points(upvotes, count)
    shown = ((votes, 1.0), (comments.filter(hidden=False), 0.5))
    for rows, worth in shown:
        here = rows.filter(user__is_active=True).values_list("paper", "counts").annotate(count=Count("pk")).order_by()
        for paper, day, count in here:
            yield paper, day, worth * count


def trending(on: date, limit: int = 50) -> list[tuple[int, float]]:
    """The papers that are talked about on a day: (key, score), highest first; later votes are not looked at."""
    scores: dict[int, float] = defaultdict(float)
    after = date.fromordinal(max(1, on.toordinal() - WINDOW))
    lists = Sighting.objects.filter(day__lte=on, day__gt=after, paper__withdrawn=False)
    votes = Vote.objects.filter(counts__lte=on, counts__gt=after, paper__withdrawn=False)
    comments = Comment.objects.filter(counts__lte=on, counts__gt=after, paper__withdrawn=False)
    for paper, day, worth in _days(lists, votes, comments):
        scores[paper] += worth * 2 ** (-(on - day).days / HALF_LIFE)
    return sorted(scores.items(), key=lambda row: (-row[1], row[0]))[:limit]


def static(papers: Iterable[int]) -> dict[int, float]:
    """The number that orders papers as `trending` does, whatever the day: log2 of the sum, the day being year 1."""
    logs: dict[int, list[float]] = defaultdict(list)
    keys, now = set(papers), today()
    if not keys:
        return {}
    within: dict[str, Any] = {"paper__in": keys}
    if max(keys) - min(keys) < 4 * len(keys):  # papers that came together: a range, as a list of keys costs more
        within = {"paper__gte": min(keys), "paper__lte": max(keys)}
    lists = Sighting.objects.filter(**within)
    votes = Vote.objects.filter(**within, counts__lte=now)
    comments = Comment.objects.filter(**within, counts__lte=now)
    for paper, day, worth in _days(lists, votes, comments):
        if paper in keys:
            logs[paper].append(math.log2(worth) + day.toordinal() / HALF_LIFE)
    # 2^(day/3) has thousands of digits: the largest is taken out of the sum
    return {paper: max(some) + math.log2(sum(2 ** (one - max(some)) for one in some)) for paper, some in logs.items()}
