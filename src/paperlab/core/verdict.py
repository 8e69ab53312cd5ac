"""Verdicts: what a record says about a claim, here. Nothing stores a verdict in a record; it is always recomputed.

Beside the records of a folder lies `verdicts.json`, so that listings need not resample. It is a copy, never the
source: `verify` recomputes every verdict from the samples and compares.
"""

import fcntl
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from paperlab.core.card import Check
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED
from paperlab.core.methods import Method
from paperlab.core.record import ArmResult, Record, read, records_folder
from paperlab.core.statistics import Gain, aggregate, flips, holm, is_right_wrong, relative_gain
from paperlab.core.task import Metric, task_version

Word = Literal["holds", "holds in direction", "fails", "undecided", "not comparable", "error"]
WORDS: tuple[Word, ...] = ("holds", "holds in direction", "fails", "undecided", "not comparable", "error")

FILE = "verdicts.json"


@dataclass(frozen=True)
class Verdict:
    """What a record says. Every number is None where it cannot be had; low or high also where it is infinite.

    gain, low, high: relative, positive in the direction that the check expects (for "equal": where the method is
    better); the interval has level 95 %, for "equal" 90 %, which is two one-sided tests at 5 %. p: of "no gain",
    two-sided; for "equal" of "not equivalent". n: pairs. minimum_effect: the least gain that n pairs with this
    spread would have found with a chance of 80 %; for "equal" the least margin they could have shown.
    extra: the other metrics of both arms ("kl method", "kl baseline"), and for each right/wrong key the share
    of items that changed ("right flips"). Numbers are rounded to 9 digits, so that mathematical libraries that differ
    in the last bit give the same verdict.
    """

    word: Word
    reason: str
    margin: float
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    minimum_effect: float | None = None
    method_value: float | None = None
    baseline_value: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


def verdict(record: Record) -> Verdict:
    """The verdict of a record; a pure function of it.

    error             the run did not finish, an arm broke, or neither arm has a finite figure
    not comparable    a total that should be equal is not or is missing; values cannot be paired; no baseline figure
    lower, higher     holds: the interval lies beyond the margin; holds in direction: beyond 0; fails: beyond 0 the
                      other way; undecided: it includes 0
    equal             holds: the interval lies within ± margin; fails: wholly outside; undecided: across an end

    An arm that diverges (a value, or its figure, is inf or nan) counts as infinitely bad. The method alone: the claim
    fails, unless it was that the method does harm; that holds in direction, as the harm has no size to set
    beside a margin. The baseline alone: not comparable, for being better than a baseline that broke says nothing.
    """
    check, metric = record.check, record.metrics[record.metric]
    margin = check.margin
    where = _where(record)
    if record.status != "finished":
        why = f": {record.error}" if record.error else ""
        return Verdict("error", f"The run is {record.status}{why}; {where}.", margin)
    method, baseline = record.arms[:2]
    for arm in (method, baseline):
        if arm.error:
            return Verdict("error", f"{arm.arm} broke: {arm.error}; {where}.", margin)

    try:
        pairs = _pairs(record, metric)
    except ValueError as error:
        return Verdict("not comparable", f"The arms cannot be paired: {error}; {where}.", margin)
    values, how = pairs, "mean" if record.paired_by == "seeds" else metric.aggregate
    figures = [aggregate(side, how) for side in values]
    finite = [
        math.isfinite(figure) and all(map(math.isfinite, side)) for figure, side in zip(figures, values, strict=True)
    ]
    known: dict[str, Any] = {
        "n": len(values[0]),
        "method_value": _tidy(figures[0]) if finite[0] else None,
        "baseline_value": _tidy(figures[1]) if finite[1] else None,
        "extra": _extra(record),
    }
    if not any(finite):
        return Verdict("error", f"Neither arm has a finite {record.metric}; {where}.", margin, **known)
    if unequal := _unequal(check, method, baseline):
        return Verdict("not comparable", f"{unequal}; {where}.", margin, **known)
    if not finite[1]:
        reason = f"The baseline {baseline.arm} has no finite {record.metric}, so there is nothing to compare with"
        return Verdict("not comparable", f"{reason}; {where}.", margin, **known)
    if not finite[0]:
        harm = check.expect not in ("equal", metric.better)
        said = ", as the claim says, by no finite amount" if harm else ""
        reason = f"{method.arm} diverged: its {record.metric} is not finite{said}; {where}."
        return Verdict("holds in direction" if harm else "fails", reason, margin, **known)

    gain = relative_gain(
        *values,
        expect=metric.better if check.expect == "equal" else check.expect,
        how=how,
        by=record.paired_by,
        level=0.9 if check.expect == "equal" else 0.95,
        equivalence=margin if check.expect == "equal" else None,
    )
    low, high = _tidy(gain.low), _tidy(gain.high)
    word = _word(check.expect, margin, low, high)
    return Verdict(
        word,
        f"{_sentence(record, gain, word)}; {where}.",
        margin,
        gain=_finite(gain.gain),
        low=_finite(low),
        high=_finite(high),
        p=_tidy(gain.p),
        minimum_effect=_finite(gain.minimum),
        **known,
    )


def _word(expect: str, margin: float, low: float, high: float) -> Word:
    if expect == "equal":
        if -margin <= low and high <= margin:
            return "holds"
        return "fails" if low > margin or high < -margin else "undecided"
    if low > 0:
        return "holds" if low > margin else "holds in direction"
    return "fails" if high < 0 else "undecided"


def _sentence(record: Record, gain: Gain, word: Word) -> str:
    check, percent = record.check, lambda x: f"{100 * x:,.2f}"
    margin = f"{100 * check.margin:g} %"
    said = {
        "holds": f"beyond the margin of {margin}",
        "holds in direction": f"beyond 0 but not beyond the margin of {margin}",
        "fails": "beyond 0 the other way",
        "undecided": "which includes 0",
    }
    aim = f"{check.expect} {record.metric} than {check.baseline}: relative gain"
    if check.expect == "equal":
        aim = f"{record.metric} equal to that of {check.baseline}: relative difference"
        said = {
            "holds": f"within ± {margin}",
            "fails": f"outside ± {margin}",
            "undecided": f"neither within nor outside ± {margin}",
        }
    of = " of the larger arm, the baseline being near zero," if gain.of == "larger arm" else ""
    interval = f"{100 * gain.level:.0f} % interval {percent(gain.low)} to {percent(gain.high)}"
    return f"{aim[0].upper()}{aim[1:]} {percent(gain.gain)} %{of} ({interval}, n = {gain.n}), {said[word]}"


def _where(record: Record) -> str:
    return f"here: {record.model}, {data_of(record) or record.task}, {record.scale} scale"


def data_of(record: Record) -> str | None:
    """The id of the data that a record was made on, where its setting tells."""
    data = record.setting.get("data")
    if isinstance(data, Mapping):
        data = data.get("id") or data.get("name")
    return None if data is None else str(data)


def _unequal(check: Check, method: ArmResult, baseline: ArmResult) -> str | None:
    """The first total that should agree and does not; tolerances are relative to the larger of the two."""
    for name, tolerance in check.equal.items():
        ours, theirs = method.totals.get(name), baseline.totals.get(name)
        if ours is None or theirs is None:
            arm = method if ours is None else baseline
            return f"{name} should be equal, but {arm.arm} has no such total"
        if not abs(ours - theirs) <= tolerance * max(abs(ours), abs(theirs)):  # nan is unequal too
            return f"{name} should be equal within {100 * tolerance:g} %, but is {ours:g} against {theirs:g}"
    return None


def _pairs(record: Record, metric: Metric) -> tuple[list[float], list[float]]:
    """Values of method and baseline, paired by position.

    By seeds: the figure of each seed. By items: each item's mean over the seeds, because one item seen under
    several seeds is one item. Raises ValueError saying why values cannot be paired.
    """
    seeds = [str(seed) for seed in record.seeds]
    sides: list[list[list[float]]] = []
    for arm in record.arms[:2]:
        if set(arm.samples) != set(seeds):
            raise ValueError(f"{arm.arm} has the seeds {', '.join(sorted(arm.samples)) or 'none'}, not {record.seeds}")
        sides.append([arm.samples[seed].get(metric.of, []) for seed in seeds])
    for seed, ours, theirs in zip(seeds, *sides, strict=True):
        if len(ours) != len(theirs) or not ours:
            raise ValueError(f"{len(ours)} and {len(theirs)} values of {metric.of} with seed {seed}")
    if record.paired_by == "seeds":
        method, baseline = ([aggregate(values, metric.aggregate) for values in side] for side in sides)
    else:
        if len({len(values) for values in sides[0]}) > 1:
            raise ValueError("the number of items differs between seeds")
        method, baseline = ([_mean(values) for values in zip(*side, strict=True)] for side in sides)
    return method, baseline


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(values) == 1 else aggregate(values, "mean")


def _extra(record: Record) -> dict[str, float]:
    """The other metrics of both arms and the flips of right/wrong keys, where the samples have them."""
    method, baseline = record.arms[:2]
    extra: dict[str, float] = {}
    for name, metric in record.metrics.items():
        for side, arm in (("method", method), ("baseline", baseline)):
            figures = [
                aggregate(seed[metric.of], metric.aggregate) for seed in arm.samples.values() if metric.of in seed
            ]
            if name != record.metric and figures and math.isfinite(figure := aggregate(figures, "mean")):
                extra[f"{name} {side}"] = _tidy(figure)
    for key in sorted({key for seed in method.samples.values() for key in seed}):
        ours, theirs = (
            [value for _, seed in sorted(arm.samples.items()) for value in seed.get(key, [])]
            for arm in (method, baseline)
        )
        if ours and len(ours) == len(theirs) and is_right_wrong([*ours, *theirs]):
            extra[f"{key} flips"] = _tidy(flips(ours, theirs))
    return extra


def _tidy(x: float) -> float:
    return float(f"{x:.9g}")


def _finite(x: float) -> float | None:
    return _tidy(x) if math.isfinite(x) else None


def control_ok(check: Check, said: Verdict) -> bool | None:
    """Whether a control did what it is for; None for a claim or question, and where there is no verdict to judge by.

    positive: must hold, beyond its margin: a task that sees the known effect only in direction is too blunt.
    negative: must not hold; in direction it may, since item intervals do not cover the luck of one rounding.
    a/a: the interval includes 0 (an exact 0 is one).
    """
    if check.role in ("claim", "question") or said.word in ("error", "not comparable"):
        return None
    if check.role == "positive control":
        return said.word == "holds"
    if check.role == "negative control":
        return said.word != "holds"
    low = -math.inf if said.low is None else said.low
    high = math.inf if said.high is None else said.high
    return low <= 0 <= high and said.word != "fails"


@dataclass(frozen=True)
class Row:
    """A line of `verdicts.json`: what listings need of a record and its verdict, without the samples."""

    id: str
    method: str
    paper: str | None
    claim: str
    role: str
    task: str
    task_version: int
    model: str
    data: str | None
    scale: str
    check_hash: str
    status: str
    started: str
    word: Word
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str


def row(record: Record) -> Row:
    """The record's line; computes its verdict (a tenth of a second where items are resampled)."""
    said, check = verdict(record), record.check
    named = {name: getattr(record, name) for name in Row.__dataclass_fields__ if hasattr(record, name)}
    given = {name: getattr(said, name) for name in ("word", "gain", "low", "high", "p", "reason")}
    return Row(**named, claim=check.claim, role=check.role, data=data_of(record), **given)


Entry = TypeVar("Entry", Record, Row)


def _claim(entry: Record | Row) -> tuple[str, ...]:
    """What makes two runs answers to one question. Other data is another question: nobody's own text may replace the
    default's verdict."""
    claim, data = (entry.check.claim, data_of(entry)) if isinstance(entry, Record) else (entry.claim, entry.data)
    return entry.method, claim, entry.task, entry.model, data or "", entry.scale


def adjusted(entries: Iterable[Record | Row]) -> dict[str, float]:
    """Holm's adjusted p by record id, over the claims of one paper on one task, model, data and scale.

    Give the current entries: older runs of a claim would count as further claims. Controls are left out. A claim
    without a p (error, not comparable) counts with p = 1: it was asked, so it stays in the number of claims.
    """
    rows = [row(entry) if isinstance(entry, Record) else entry for entry in entries]

    def family(r: Row) -> tuple[str, ...]:
        return r.paper or r.method, r.task, r.model, r.data or "", r.scale

    found: dict[str, float] = {}
    for _, members in groupby(sorted((r for r in rows if r.role == "claim"), key=family), key=family):
        claims = list(members)
        values = holm([1.0 if r.p is None else r.p for r in claims])
        found |= {r.id: _tidy(p) for r, p in zip(claims, values, strict=True)}
    return found


def survives(word: Word, adjusted_p: float) -> bool | None:
    """Whether a claim that holds still differs from 0 (for "equal": is still equivalent) at 5 % after Holm; None
    for a claim that does not hold."""
    return adjusted_p <= 0.05 if word in ("holds", "holds in direction") else None


@dataclass(frozen=True)
class Standings(Generic[Entry]):
    """All entries, sorted by what they are today; each lies in exactly one list.

    current: for each method, claim, task, model, data and scale the one that counts. unfinished: runs of a present
    check that broke or were interrupted and are not the current entry. repeated: earlier finished runs of a present
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

    methods: the cards (`card.methods()`). versions: the tasks' versions, read from their files unless given. The
    current entry is the latest finished one, else the latest one; a broken second run hides no verdict, and no run
    is dropped.
    """
    present = {check.hash for method in methods.values() for check in method.card.checks}
    standings: Standings[Entry] = Standings([], [], [], [])
    by_claim: dict[tuple[str, ...], list[Entry]] = {}
    known: dict[str, int | None] = dict(versions or {})
    for entry in sorted(entries, key=lambda e: (e.started, e.id)):
        if entry.task not in known:
            known[entry.task] = task_version(entry.task) if versions is None else None
        if entry.check_hash in present and entry.task_version == known[entry.task]:
            by_claim.setdefault(_claim(entry), []).append(entry)
        else:
            standings.superseded.append(entry)
    for runs in by_claim.values():
        chosen = ([run for run in runs if run.status == "finished"] or runs)[-1]
        standings.current.append(chosen)
        for run in runs:
            if run is not chosen:
                (standings.repeated if run.status == "finished" else standings.unfinished).append(run)
    return standings


def counts(standings: Standings[Row]) -> dict[str, dict[str, int]]:
    """Per paper (a method without one under its own slug): how many claims have which word, in the order of WORDS.

    Unfinished runs count as errors beside the current entries. Controls and superseded runs are left out.
    """
    found: dict[str, dict[str, int]] = {}
    said = [(r, r.word) for r in standings.current] + [(r, "error") for r in standings.unfinished]
    for word in WORDS:
        for r, its in said:
            if its == word and r.role == "claim":
                of_paper = found.setdefault(r.paper or r.method, {})
                of_paper[word] = of_paper.get(word, 0) + 1
    return found


def summary(count: Mapping[str, int]) -> str | None:
    """The counts of one paper in a few words: "holds", or "holds 3, fails 1"; None for none."""
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{word} {number}" for word, number in count.items()) or None


def publish(folder: Path | None = None, *, again: bool = False) -> Path:
    """Bring <folder>/verdicts.json up to date with the records of the folder, and return its path.

    Known records keep their line, unless `again` (after a change to the statistics).
    """
    folder = folder or records_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may end at once
        known = {} if again else published(folder)
        rows = sorted((known.get(r.id) or row(r) for r in read((folder,))), key=lambda r: (r.started, r.id))
        lines = [f"{json.dumps(r.id)}: {json.dumps(asdict(r), ensure_ascii=False)}" for r in rows]
        write_atomically(folder / FILE, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return folder / FILE


def published(folder: Path | None = None) -> dict[str, Row]:
    """The lines of <folder>/verdicts.json by record id; {} if there is no such file. Raises ValueError naming the
    file if it cannot be read."""
    file = (folder or records_folder()) / FILE
    if not file.exists():
        return {}
    try:
        return {name: Row(**line) for name, line in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: {error}; delete it, and publish(folder) writes it anew") from error


def problems(records: Iterable[Record], rows: Mapping[str, Row]) -> list[str]:
    """Everything that is wrong with records and their published verdicts; [] if all holds up.

    Every verdict is recomputed from the samples and must equal its published line exactly.
    """
    found: list[str] = []
    seen: set[str] = set()
    for record in records:
        name = f"record {record.id} ({record.method}, {record.check.claim}, {record.task})"
        if record.id in seen:
            found.append(f"{name}: its id occurs twice")
        seen.add(record.id)
        found += [f"{name}: {problem}" for problem in _faults(record)]
        if record.id not in rows:
            found.append(f"{name}: no published verdict")
            continue
        then, now = asdict(rows[record.id]), asdict(row(record))
        found += [
            f"{name}: published {what} is {then[what]!r}, its samples say {now[what]!r}"
            for what in now
            if then[what] != now[what]
        ]
    return found + [
        f"record {name}: a verdict is published, but there is no such record" for name in rows if name not in seen
    ]


def _faults(record: Record) -> list[str]:
    """What is wrong with a record by itself."""
    found = []
    if record.check_hash != record.check.hash:
        found.append(f"its check hashes to {record.check.hash}, not to {record.check_hash}")
    if record.check.tasks.get(record.task) != record.metric:
        found.append(f"its check does not judge {record.task} by {record.metric}")
    if [arm.arm for arm in record.arms] != list(record.check.arms):
        found.append("its arms are not those of its check")
    if not record.code_hash:
        found.append("it has no code hash")
    if record.dirty:
        found.append("it was made from code with uncommitted changes")
    if record.status == "finished":
        wanted = {str(seed) for seed in record.seeds}
        whole = [arm for arm in record.arms if not arm.error]
        found += [
            f"{arm.arm} has samples of other seeds than {record.seeds}" for arm in whole if set(arm.samples) != wanted
        ]
        for seed in sorted(wanted):
            for key in sorted({key for arm in whole for key in arm.samples.get(seed, {})}):
                sizes = {len(arm.samples.get(seed, {}).get(key, [])) for arm in whole}
                if len(sizes) > 1:
                    found.append(f"seed {seed} has between {min(sizes)} and {max(sizes)} values of {key} per arm")
    return found


def verify(folders: tuple[Path, ...] | None = None) -> tuple[int, list[str]]:
    """The number of records, and the problems of all of them; the bundled ones and this machine's unless named."""
    count, found = 0, []
    for folder in folders or (BUNDLED / "records", records_folder()):
        records = list(read((folder,)))
        count += len(records)
        found += problems(records, published(folder))
    return count, found
