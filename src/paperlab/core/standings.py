"""Standings: which verdict of each claim counts today, which are outdated, and how a paper's claims fared.

No samples are read here: everything rests on published rows (`core.published`).
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any, Generic, TypeVar

from paperlab.core.card import WITHIN, CardError, Check
from paperlab.core.home import BUNDLED
from paperlab.core.methods import Method, UnknownMethod, filled, methods
from paperlab.core.published import Row, frozen_of, published, row
from paperlab.core.record import Record, records_folder
from paperlab.core.same_results import carried, name_of
from paperlab.core.sources import arm_sources, changed
from paperlab.core.sources import forget as forget_sources
from paperlab.core.statistics import holm
from paperlab.core.task import TASKS, constants, task_version
from paperlab.core.verdict import WORDS, Verdict, data_of

MIXED = "mixed"  # the word where finished runs of a claim disagree; of a claim, where models do
FROZEN = BUNDLED / "frozen.json"
NOT_RUN = "not run"  # there is a check, and no record of it; in addresses and ids of feeds, so it stays
UNKNOWN_SOURCES = "made before sources were recorded"

Entry = TypeVar("Entry", Record, Row)


@dataclass(frozen=True)
class Standings(Generic[Entry]):
    """All entries, sorted by what they are today; each lies in exactly one list.

    current: for each method, claim, task, model, data and scale the one that counts. unfinished: runs of a present
    check that broke or were interrupted and are not the current entry. repeated: other finished runs of a present
    check. superseded: runs of a check that no card has (changed since, gone, or run with other parameters), or of
    another version of the task.
    """

    current: list[Entry]
    unfinished: list[Entry]
    repeated: list[Entry]
    superseded: list[Entry]


def current(
    entries: Iterable[Entry], methods: Mapping[str, Method], versions: Mapping[str, int] | None = None
) -> Standings[Entry]:
    """Sort records or rows by what they are today.

    methods: the cards (`core.methods.methods()`). versions: the tasks' versions, read from their files unless given.
    The current entry is the latest finished one, else the latest one; a broken second run hides no verdict, and no
    run is dropped. Of rows those that are not outdated come first, and where finished ones disagree the last does not
    win: the current row says "mixed" (see `pooled_row`). Rows of the second protocol have then the floor of their
    controls and Holm's correction applied (`corrected`).
    """
    present = present_checks(methods)
    standings: Standings[Any] = Standings([], [], [], [])
    by_claim: dict[tuple[str, ...], list[Any]] = {}
    known: dict[str, int | None] = dict(versions or {})
    for entry in sorted(entries, key=lambda e: (e.started, e.id)):
        if entry.task not in known:
            known[entry.task] = task_version(entry.task) if versions is None else None
        if _check_hash(entry) in present and entry.task_version == known[entry.task]:
            by_claim.setdefault(_question(entry), []).append(entry)
        else:
            standings.superseded.append(entry)
    for runs in by_claim.values():
        chosen = _chosen(runs, present)
        standings.current.append(chosen)
        for run in runs:
            if run.id != chosen.id:
                (standings.repeated if run.status == "finished" else standings.unfinished).append(run)
    if standings.current and isinstance(standings.current[0], Row):
        standings.current[:] = corrected(standings.current, methods)
    return standings


def present_checks(methods: Mapping[str, Method]) -> dict[str, Check]:
    """The checks of all cards by hash."""
    return {check.hash: check for method in methods.values() for check in method.card.checks}


def _check_hash(entry: Record | Row) -> str:
    return entry.check.hash if isinstance(entry, Record) else entry.check_hash


def _question(entry: Record | Row) -> tuple[str, ...]:
    """What makes two runs answers to one question. Other data is another question: nobody's own text may replace the
    default's verdict, nor a text of the same name another's."""
    claim, data = (entry.check.claim, data_of(entry)) if isinstance(entry, Record) else (entry.claim, entry.data)
    frozen = frozen_of(entry) if isinstance(entry, Record) else entry.frozen
    own = "" if data is None or data in frozen_data() else frozen.get(data, "")
    return entry.method, claim, entry.task, entry.model, data or "", own, entry.scale


def _chosen(runs: Sequence[Any], present: Mapping[str, Check]) -> Any:
    """The entry that counts among the runs of one question, oldest first."""
    finished = [run for run in runs if run.status == "finished"]
    if not finished:
        return runs[-1]
    if len(finished) == 1 or isinstance(finished[0], Record):
        return finished[-1]
    fresh = [run for run in finished if not outdated(run, present[run.check_hash])]
    return pooled_row(fresh or finished)


def pooled_row(runs: Sequence[Row]) -> Row:
    """What finished runs of one question say together: the one with the most draws (of those the latest) where all
    have the same word; else that one with the word "mixed" and how many said what.

    Draws are pooled: seeds count from 0, so a run with more of them on the same machine and code has the draws of a
    smaller one, which then has no word of its own.
    """
    best = max(runs, key=lambda run: (run.seeds, run.started, run.id))
    apart = [run for run in runs if not any(_contains(other, run) for other in runs)]
    words = Counter(run.word for run in apart)
    if len(words) == 1:
        return best
    each = ", ".join(f"{word} ({words[word]})" for word in WORDS if word in words)
    reason = f"{len(apart)} finished runs disagree: {each}. The largest of them: {best.reason}"
    return replace(best, word=MIXED, reason=reason)


def _contains(more: Row, run: Row) -> bool:
    """Whether a run has all draws of another, made by the same code on the same machine, and further ones."""
    same = ("machine", "sources", "params", "frozen")
    return (
        min(more.schema, run.schema) >= 2
        and more.seeds > run.seeds
        and all(getattr(more, name) == getattr(run, name) for name in same)
    )


# Outdated


@cache
def frozen_data() -> dict[str, str]:
    """The hash of every bundled text and data set, by name."""
    return dict(json.loads(FROZEN.read_text(encoding="utf-8")))


def outdated(entry: Row, check: Check) -> tuple[str, ...]:
    """What changed since a row's record was made, as short phrases; () where it would be made the same way today.

    Sources whose code changed, came or went; defaults of parameters; bundled data. check: the row's, as its card has
    it. A record without sources (schema 1) may have been made by anything. Changes of code that were shown to change no
    result (`core.same_results`) do not count.
    """
    found = [] if entry.sources else [UNKNOWN_SOURCES]
    if entry.sources:
        try:
            now = _check_sources(check, entry.task)
            then = carried(entry.sources, [name_of(arm) for arm in check.arms], entry.task, reached=now)
            # A file that a comparison added may be one that these arms do not use.
            then = {name: sha for name, sha in then.items() if name in entry.sources or name in now}
            found += [f"{name} changed" for name in changed(then, now)]
        except (UnknownMethod, OSError, SyntaxError, CardError) as error:
            found.append(f"its code is not there: {error}")
    if entry.params:
        for arm, params, today in zip(check.arms, entry.params, _check_params(check), strict=False):
            if params != today:
                found += [f"the default of {name} of {arm.method} changed" for name in _differing(params, today)]
    known = frozen_data()
    found += [f"the data {name} changed" for name, sha in entry.frozen.items() if known.get(name, sha) != sha]
    return tuple(dict.fromkeys(found))


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names that one of two lacks, or that have another value."""
    missing = object()
    return [n for n in sorted(before.keys() | now.keys()) if before.get(n, missing) != now.get(n, missing)]


_params: dict[str, list[dict[str, Any]]] = {}


def _check_params(check: Check) -> list[dict[str, Any]]:
    """The parameters of a check's arms with today's defaults."""
    if check.hash not in _params:
        _params[check.hash] = [filled(arm).params for arm in check.arms]
    return _params[check.hash]


_sources: dict[tuple[str, ...], dict[str, str]] = {}


def _check_sources(check: Check, task: str) -> dict[str, str]:
    """Every file whose code decides the samples of a check's arms on a task, with the hash of its code."""
    if (check.hash, task) not in _sources:
        found: dict[str, str] = {}
        for arm in check.arms:
            key = (task, *(one.method for one in arm.chain))
            if key not in _sources:
                _sources[key] = arm_sources(arm, task)
            found |= _sources[key]
        _sources[check.hash, task] = found
    return _sources[check.hash, task]


@cache
def _data_of_tasks() -> frozenset[str]:
    """Names of the data that tasks come with; some tasks share those of another."""
    return frozenset(name for file in TASKS.glob("*.py") for name in constants(file.stem).get("DATA", {}))


def _comes_with(entry: Row) -> bool:
    """Whether a row's data are of paperlab or of a task, and no user's."""
    return entry.data in frozen_data() or entry.data in _data_of_tasks()


def outdated_checks() -> list[tuple[str, str, str, str, str]]:
    """(method, claim, task, model, scale) of each current verdict that is outdated, in order, each once: what
    `paperlab run --outdated` repeats. Verdicts on a user's own data are not among them."""
    found = [
        (entry.method, entry.claim, entry.task, entry.model, entry.scale)
        for entry in standings().current
        if outdated_of(entry.id) and (entry.data is None or not entry.frozen or _comes_with(entry))
    ]
    return list(dict.fromkeys(found))


# Corrections of the second protocol


def corrected(rows: Sequence[Row], methods: Mapping[str, Method]) -> list[Row]:
    """Current rows with the floor of their A/A controls and Holm's correction applied; those of schema 1 unchanged."""
    floor = floors(rows, methods)
    found = [with_floor(entry, floor, methods) for entry in rows]
    p = adjusted(found)
    return [_after_holm(entry, p[entry.id]) if entry.schema >= 2 and entry.id in p else entry for entry in found]


Group = tuple[str, str, str, str, str, bool]


def _group(entry: Row, methods: Mapping[str, Method]) -> Group:
    family = methods[entry.method].card.family if entry.method in methods else ""
    return family, entry.task, entry.model, entry.scale, entry.metric, entry.draws > 1


def floors(rows: Iterable[Row], methods: Mapping[str, Method]) -> dict[Group, float]:
    """The largest |gain| that an arm may have over itself, by (family, task, model, scale, metric, whether drawn): the
    outer end of the intervals of A/A controls. Smaller gains mean nothing there. What other calibration windows change
    says nothing about arms that look at none, so drawn and undrawn comparisons have floors of their own."""
    found: dict[Group, float] = {}
    for entry in rows:
        if entry.role == "a/a control" and entry.status == "finished" and entry.gain is not None and entry.schema >= 2:
            ends = [math.inf if end is None else abs(end) for end in (entry.low, entry.high)]
            group = _group(entry, methods)
            found[group] = max(found.get(group, 0.0), *ends)
    return found


def with_floor(entry: Row, floor: Mapping[Group, float], methods: Mapping[str, Method]) -> Row:
    """The row, but "undecided" where its gain is smaller than the floor of its group."""
    least = floor.get(_group(entry, methods), 0.0)
    decided = (
        entry.word in ("holds", "holds in direction", "weaker than claimed", "fails") and entry.expect not in WITHIN
    )
    if entry.schema < 2 or not decided or "control" in entry.role or entry.gain is None or abs(entry.gain) >= least:
        return entry
    noise = f"A configuration differs from itself by up to {100 * least:.2f} % here"
    reason = f"{noise}, so this gain means nothing. {entry.reason}"
    return replace(entry, word="undecided", reason=reason)


def adjusted(entries: Iterable[Record | Row]) -> dict[str, float]:
    """Holm's adjusted p by record id, over the claims of one paper.

    Of the second protocol: over all tasks, models and data at one scale, on "beyond the margin". Of the first: on one
    task, model, data and scale, on "no gain". Give the current entries: older runs of a claim would count as further
    claims. Controls and questions are left out. A claim without a p (error, not comparable) counts with p = 1: it was
    asked, so it stays in the number of claims.
    """
    rows = [row(entry) if isinstance(entry, Record) else entry for entry in entries]

    def family(r: Row) -> tuple[str, ...]:
        where = (r.task, r.model, r.data or "") if r.schema == 1 else ("", "", "")
        return r.paper or r.method, str(r.schema), *where, r.scale

    found: dict[str, float] = {}
    for _, members in groupby(sorted((r for r in rows if r.role == "claim"), key=family), key=family):
        claims = list(members)
        values = holm([_p(r) for r in claims])
        found |= {r.id: float(f"{p:.9g}") for r, p in zip(claims, values, strict=True)}
    return found


def _p(entry: Row) -> float:
    p = entry.p if entry.schema == 1 else entry.p_beyond
    return 1.0 if p is None else p


def _after_holm(entry: Row, p: float) -> Row:
    """A claim that holds by itself, but not among all claims of its paper, holds only in direction."""
    if entry.word != "holds" or p <= 0.05:
        return entry
    word = "undecided" if entry.expect in WITHIN else "holds in direction"
    reason = f"Among all claims of its paper p = {p:.3g} (Holm), so it is not sure to be beyond the margin. "
    return replace(entry, word=word, reason=reason + entry.reason)


def survives(word: str, adjusted_p: float) -> bool | None:
    """Whether a claim that holds still differs from 0 (second protocol: from the margin; for "equal": is still
    equivalent) at 5 % after Holm; None for a claim that does not hold."""
    return adjusted_p <= 0.05 if word in ("holds", "holds in direction") else None


def control_ok(check: Check, found: Verdict) -> bool | None:
    """Whether a control did what it is for; None for a claim, and where there is no verdict to judge by.

    positive: must hold, beyond its margin: a task that sees the known effect only in direction is too blunt.
    negative: must not be surely better, not even in direction.
    a/a: the interval includes 0 (an exact 0 is one).
    """
    if "control" not in check.role or found.word in ("error", "not comparable", "not implemented faithfully here"):
        return None
    if check.role == "positive control":
        return found.word == "holds"
    if check.role == "negative control":
        return found.word in ("undecided", "fails")
    low = -math.inf if found.low is None else found.low
    high = math.inf if found.high is None else found.high
    return low <= 0 <= high and found.word != "fails"


# All records


@cache
def standings() -> Standings[Row]:
    """The bundled verdicts and this machine's, sorted by what they are today.

    Raises ValueError naming the file (and line) of a verdict or record that cannot be read.
    """
    rows = {**published(BUNDLED / "records"), **published(records_folder(), refresh=True)}
    return current(rows.values(), methods())


def forget() -> None:
    """Read the verdicts and the code again when next asked: for a process that outlives the runs."""
    for cached in (standings, _mains, _outdated, _current_by):
        cached.cache_clear()
    forget_code()


def forget_code() -> None:
    """Look at the source files again when next asked whether a verdict is outdated."""
    _sources.clear()
    _params.clear()
    forget_sources()


@cache
def _outdated() -> dict[str, tuple[str, ...]]:
    """What changed since each current verdict was made, by record id."""
    return outdated_by_id(standings().current, methods())


def outdated_by_id(rows: Iterable[Row], methods: Mapping[str, Method]) -> dict[str, tuple[str, ...]]:
    """What changed since each row was made, by record id; rows of checks that no card has are left out."""
    present = present_checks(methods)
    return {entry.id: outdated(entry, present[entry.check_hash]) for entry in rows if entry.check_hash in present}


def outdated_of(record_id: str) -> tuple[str, ...]:
    """What changed since a current verdict was made; () for one that would be made the same way today."""
    return _outdated().get(record_id, ())


def of_paper(slug: str) -> list[Row]:
    """The current verdicts of a paper's checks."""
    return list(_current_by("paper").get(slug, ()))


def of_method(slug: str) -> list[Row]:
    """The current verdicts of a method file's checks."""
    return list(_current_by("method").get(slug, ()))


@cache
def _current_by(name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for entry in standings().current:
        found.setdefault(getattr(entry, name) or "", []).append(entry)
    return found


def main(slug: str) -> tuple[Row, ...]:
    """How a paper's main claim fares: its rows of today, one for each task, model and data. () where it was not run."""
    return _mains().get(slug, ())


@cache
def _mains() -> dict[str, tuple[Row, ...]]:
    return mains(standings(), methods())


def mains(standings: Standings[Row], methods: Mapping[str, Method]) -> dict[str, tuple[Row, ...]]:
    """By paper (a method without one: its own slug) the rows of today of its main claim, by task and model.

    The main claim is the first one of its method's card, of the file with the paper's slug where there are several. A
    method that was written from an abstract alone speaks for no paper.
    """
    wanted: dict[str, tuple[str, str]] = {}
    for slug, method in methods.items():
        claim = next((check.claim for check in method.card.checks if check.role == "claim"), None)
        paper = method.card.paper or slug
        if claim is not None and not method.card.abstract_only and (paper not in wanted or slug == paper):
            wanted[paper] = (slug, claim)
    found: dict[str, tuple[Row, ...]] = {}
    for paper, (slug, claim) in wanted.items():
        its = [row for row in standings.current if (row.method, row.claim, row.role) == (slug, claim, "claim")]
        if its:
            found[paper] = tuple(sorted(its, key=lambda row: (row.task, row.model, row.data or "", row.scale)))
    return found


def places(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Where a claim has which word, in the order of WORDS: models, and data and scale where two rows have one."""
    names = [row.model for row in rows]
    found: dict[str, list[str]] = {word: [] for word in (*WORDS, MIXED)}
    for one in rows:
        more = f" ({one.data or one.task}, {one.scale})" if names.count(one.model) > 1 else ""
        found[one.word].append(one.model + more)
    return {word: where for word, where in found.items() if where}


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """On how many models, tasks and data a claim has which word."""
    return {word: len(where) for word, where in places(rows).items()}


def summary(rows: Sequence[Row]) -> str | None:
    """How a claim fares in one line: "holds on abstracts-lm, minilm-l6; fails on smollm2-135m"; None for no rows."""
    return "; ".join(f"{word} on {', '.join(where)}" for word, where in places(rows).items()) or None


def one_word(words: Iterable[str]) -> str | None:
    """The verdict that all share, "mixed", or None for none."""
    different = set(words)
    return MIXED if len(different) > 1 else next(iter(different), None)
