"""Changes of code that changed no result, as was tried: a verdict from before such a change is not outdated.

Each line of `same_results.jsonl` compares two commits: arms were built and scored under both, on one machine, on the
same seed, and their weights and values had the same bits. `recipes/same_results/compare.py` makes a line; nothing is in
one that differed. A line holds for those arms alone, and for files whose code is what it was in those commits.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from paperlab.core.card import Arm
from paperlab.core.home import BUNDLED

FILE = BUNDLED / "same_results.jsonl"


@dataclass(frozen=True)
class SameResults:
    """One comparison.

    before, after: commits. files: name -> hash of its code before and after, None where there was no such file; of all
    files, since an arm may reach one only since. arms: task -> `name_of` an arm -> [model, first 12 digits of the hash
    of its results]. machine: where both ran. finished: the day, YYYY-MM-DD.
    """

    before: str
    after: str
    files: dict[str, tuple[str | None, str | None]]
    arms: dict[str, dict[str, tuple[str | None, str]]]
    machine: str
    finished: str


def name_of(arm: Arm) -> str:
    """An arm in words, the same in whichever order its parameters were written."""
    return str(Arm(arm.method, dict(sorted(arm.params.items())), None)) + (
        f" after {name_of(arm.after)}" if arm.after else ""
    )


def parse(text: str) -> tuple[SameResults, ...]:
    """The comparisons of a file's text, first to last. Raises ValueError with the number of a line that is none."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = SameResults(**json.loads(line))
            files = {name: (before, after) for name, (before, after) in row.files.items()}
            arms = {task: {arm: (model, sha) for arm, (model, sha) in of.items()} for task, of in row.arms.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{FILE.name}:{number}: not a comparison: {error}") from None
        found.append(SameResults(row.before, row.after, files, arms, row.machine, row.finished))
    return tuple(found)


@cache
def same_results() -> tuple[SameResults, ...]:
    """The shipped comparisons, first to last."""
    return parse(FILE.read_text(encoding="utf-8")) if FILE.exists() else ()


def carried(
    sources: Mapping[str, str],
    arms: Iterable[str],
    task: str,
    known: Iterable[SameResults] | None = None,
    reached: Collection[str] | None = None,
) -> dict[str, str]:
    """The hashes that the files of some arms have after all changes that changed no result of any of them; files that
    a comparison added are among them, whether or not these arms use them.

    sources: name -> hash of the code that made the arms' results. arms: as `name_of` has them. known: the comparisons,
    first to last; the shipped ones unless given. reached: the files that the arms use today, if that is known: other
    ones that an earlier comparison added say nothing, whatever became of them, so that a file which the arms used only
    between two comparisons can have changed there unseen. Files that differ from both sides of a comparison stay as
    they are.
    """
    wanted, now = set(arms), dict(sources)
    counts = lambda name: reached is None or name in sources or name in reached  # noqa: E731
    for one in same_results() if known is None else known:
        if not wanted <= one.arms.get(task, {}).keys():
            continue
        touched = {name: pair for name, pair in one.files.items() if now.get(name) != pair[1]}
        if any(now[name] != before for name, (before, _) in touched.items() if name in now and counts(name)):
            continue  # made by code that neither commit had
        for name, (_, after) in touched.items():
            if after is None:
                now.pop(name, None)
            else:
                now[name] = after
    return now
