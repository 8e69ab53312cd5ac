"""The verdict of one record: what its samples say about the claim, here. A pure function of the record.

Records of schema 1 are judged by the rules under which they were made, so that a published verdict never changes;
records of schema 2 by the second protocol (see `verdict`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from paperlab.core.card import WITHIN, Arm, Check, Gate
from paperlab.core.figures import baseline_index, unequal
from paperlab.core.record import ArmResult, Record
from paperlab.core.statistics import (
    Aggregate,
    Gain,
    aggregate,
    flips,
    is_right_wrong,
    relative_gain,
    relative_gain_over_draws,
)
from paperlab.core.task import SCALES, Metric

Table = list[list[float]]  # values of an arm by draw and item

RULES = 2  # raised when a rule below or the statistics change, so that stored verdicts are computed again

Word = Literal[
    "holds",
    "holds in direction",
    "weaker than claimed",
    "fails",
    "undecided",
    "not comparable",
    "not implemented faithfully here",
    "error",
]
WORDS: tuple[Word, ...] = (
    "holds",
    "holds in direction",
    "weaker than claimed",
    "fails",
    "undecided",
    "not comparable",
    "not implemented faithfully here",
    "error",
)

LEAST_MARGIN = 0.02  # of a claim that one arm is better; smaller differences move with processor and seed
BROKEN = 5.0  # times the original's perplexity: an arm beyond it no longer models language
CHANCE = 0.1  # of the way from chance to 1: an arm below it has learned next to nothing
FAR = 0.5  # of a chance distance to the original: an arm beyond it keeps little of the model
ORIGINAL = "original"  # the method whose arm is the untouched model


@dataclass(frozen=True)
class Verdict:
    """What a record says. Every number is None where it cannot be had; low or high also where it is infinite.

    gain, low, high: relative, positive in the direction that the check expects (for "equal" and "no worse": where the
    method is better); the interval has level 95 %, for those two 90 %, which is one-sided tests at 5 %. p: of "no
    gain", two-sided; for "equal" of "not equivalent", for "no worse" of "worse by the margin". n: pairs.
    minimum_effect: the least gain that n pairs with this spread would have found with a chance of 80 %; for those two
    the least margin they could have shown. extra: the other metrics of both arms ("kl method", "kl baseline"), and for
    each right/wrong key the share of items that changed ("right flips"). Numbers are rounded to 9 digits, so that
    mathematical libraries that differ in the last bit give the same verdict.

    Of the second protocol only: p_beyond: of "no gain beyond the margin", two-sided (for "equal" it is p). draws: how
    many draws the interval covers. original_value: the untouched model's figure, where it is an arm. likely_ours:
    whether the method is worse than the check's trivial arm, so that the fault is likely in our implementation.
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
    p_beyond: float | None = None
    draws: int = 1
    original_value: float | None = None
    likely_ours: bool = False


def verdict(record: Record) -> Verdict:
    """The verdict of a record.

    error             the run did not finish, an arm broke, or neither arm has a finite figure
    not comparable    a total that should be equal is not or is missing; values cannot be paired; no baseline figure
    lower, higher     holds: the interval lies beyond the margin; holds in direction: beyond 0; fails: beyond 0 the
                      other way; undecided: it includes 0
    equal             holds: the interval lies within ± margin; fails: wholly outside; undecided: across an end
    no worse          holds: the interval lies above - margin; fails: wholly below; undecided: across it

    The second protocol besides:

    not implemented faithfully here   a gate of the check failed
    not comparable                    both arms are broken (more than five times the original's perplexity, or near
                                      chance), the check's trivial arm passes too, or a gain beyond the margin is
                                      impossible, the baseline being that near to the original
    weaker than claimed               the interval lies between 0 and the margin; holds in direction then means that it
                                      straddles the margin
    undecided                         instead of fails, where nothing but the paper's abstract was read; and whatever
                                      the interval, below the check's least scale

    and the margin of a claim is 2 % at least. A plain baseline is the strongest of its variants (`baseline_index`).
    The interval covers draws (seeds) and items.

    An arm that diverges (a value, or its figure, is inf or nan) counts as infinitely bad. The method alone: the claim
    fails, unless it was that the method does harm; that holds in direction, as the harm has no size to compare with a
    margin. The baseline alone: not comparable, for being better than a baseline that broke says nothing.
    """
    check, metric = record.check, record.metrics[record.metric]
    second = record.schema >= 2
    margin = margin_of(check) if second else check.margin
    where = _where(record)
    if record.status != "finished":
        why = f": {record.error}" if record.error else ""
        return Verdict("error", f"The run is {record.status}{why}; {where}.", margin)
    method, baseline = record.arms[0], record.arms[baseline_index(record)]
    for arm in (method, baseline):
        if arm.error:
            return Verdict("error", f"{arm.arm} broke: {arm.error}; {where}.", margin)
    if failed := _failed_gate(record, metric) if second else None:
        return Verdict(failed[0], f"{failed[1]}; {where}.", margin)

    try:
        values = _pair(record, method, baseline, metric)
    except ValueError as error:
        return Verdict("not comparable", f"The configurations cannot be paired: {error}; {where}.", margin)
    how: Aggregate = "mean" if record.paired_by == "seeds" else metric.aggregate
    figures = [aggregate(_items(side), how) for side in values]
    finite = [
        math.isfinite(figure) and all(math.isfinite(x) for row in side for x in row)
        for figure, side in zip(figures, values, strict=True)
    ]
    original = _original(record, metric) if second else None
    known: dict[str, Any] = {
        "n": len(values[0][0]),
        "method_value": _tidy(figures[0]) if finite[0] else None,
        "baseline_value": _tidy(figures[1]) if finite[1] else None,
        "extra": _extra(record),
        "original_value": None if original is None else _tidy(original),
    }
    if not any(finite):
        return Verdict("error", f"Neither arm has a finite {record.metric}; {where}.", margin, **known)
    if differs := unequal(check, method, baseline):
        return Verdict("not comparable", f"{differs}; {where}.", margin, **known)
    if not finite[1]:
        reason = f"The baseline {baseline.arm} has no finite {record.metric}, so there is nothing to compare with"
        return Verdict("not comparable", f"{reason}; {where}.", margin, **known)
    if not finite[0]:
        harm = check.expect not in (*WITHIN, metric.better)
        aim = ", as the claim says, by no finite amount" if harm else ""
        reason = f"{method.arm} diverged: its {record.metric} is not finite{aim}; {where}."
        word: Word = "holds in direction" if harm else "fails"
        return _as_far_as_it_goes(record, Verdict(word, reason, margin, **known))
    if broken := _broken(record, metric, figures, original) if second else None:
        return Verdict("not comparable", f"{broken}; {where}.", margin, **known)

    gain = _gain(record, values, metric, margin)
    low, high = _tidy(gain.low), _tidy(gain.high)
    word = _word(check.expect, margin, low, high, weaker=second)
    known |= {
        "gain": _finite(gain.gain),
        "low": _finite(low),
        "high": _finite(high),
        "p": _tidy(gain.p),
        "minimum_effect": _finite(gain.minimum),
    }
    reason = _sentence(record, gain, word, margin)
    if not second:
        return Verdict(word, f"{reason}; {where}.", margin, **known)
    if cramped := _no_room(record, metric, figures[1], original, margin) if word not in ("holds", "fails") else None:
        return Verdict("not comparable", f"{cramped}; {where}.", margin, **known)
    known["draws"] = gain.draws
    known["p_beyond"] = _tidy(gain.p if gain.p_beyond is None else gain.p_beyond)
    if trivial := _trivial_passes(record, metric, margin):
        return Verdict("not comparable", f"{trivial}; {where}.", margin, **known)
    ours = _worse_than_trivial(record, metric)
    if ours:
        reason += f"; it is worse than the trivial {check.trivial} too, so the fault is likely ours"
    return _as_far_as_it_goes(record, Verdict(word, f"{reason}; {where}.", margin, **known, likely_ours=ours))


def _as_far_as_it_goes(record: Record, found: Verdict) -> Verdict:
    """The verdict, but "undecided" below the check's least scale, and instead of "fails" where only the paper's
    abstract was read."""
    least = record.check.least_scale
    if least and SCALES.index(record.scale) < SCALES.index(least):
        reason = f"Judged from {least} scale on; at {record.scale} these are figures only, see the gap. " + found.reason
        return replace(found, word="undecided", reason=reason)
    if found.word != "fails" or record.card_sources != ("abstract",):
        return found
    reason = "Only the abstract was read, so what fails here may be our reading of it. " + found.reason
    return replace(found, word="undecided", reason=reason)


def _word(expect: str, margin: float, low: float, high: float, *, weaker: bool = False) -> Word:
    """The word for an interval. weaker: whether one that ends short of the margin has a word of its own."""
    if expect == "no worse":
        return "holds" if low >= -margin else "fails" if high < -margin else "undecided"
    if expect == "equal":
        if -margin <= low and high <= margin:
            return "holds"
        return "fails" if low > margin or high < -margin else "undecided"
    if low > 0:
        if low > margin:
            return "holds"
        return "weaker than claimed" if weaker and high <= margin else "holds in direction"
    return "fails" if high < 0 else "undecided"


def _sentence(record: Record, gain: Gain, word: Word, margin: float) -> str:
    check, percent = record.check, lambda x: f"{100 * x:,.2f}"
    against = str(record.arms[baseline_index(record)].arm)
    if check.rivals:
        against += f" (the strongest of {1 + len(check.rivals)} variants)"
    least = f"{100 * margin:g} %"
    if margin > check.margin:
        least += f" (the least that counts; the card says {100 * check.margin:g} %)"
    ends = {
        "holds": f"beyond the margin of {least}",
        "holds in direction": f"beyond 0 but not beyond the margin of {least}",
        "weaker than claimed": f"beyond 0 but short of the margin of {least}",
        "fails": "beyond 0 the other way",
        "undecided": "which includes 0",
    }
    aim = f"{check.expect} {record.metric} than {against}: relative gain"
    if check.expect == "no worse":
        aim = f"{record.metric} no worse than that of {against}: relative difference"
        ends = {
            "holds": f"worse by less than {least}",
            "fails": f"worse by more than {least}",
            "undecided": f"worse by neither surely less nor surely more than {least}",
        }
    if check.expect == "equal":
        aim = f"{record.metric} equal to that of {against}: relative difference"
        ends = {
            "holds": f"within ± {least}",
            "fails": f"outside ± {least}",
            "undecided": f"neither within nor outside ± {least}",
        }
    of = " of the larger arm, the baseline being near zero," if gain.of == "larger arm" else ""
    interval = f"{100 * gain.level:.0f} % interval {percent(gain.low)} to {percent(gain.high)}"
    counts = f"n = {gain.n}" + (f" under {gain.draws} draws" if gain.draws > 1 else "")
    return f"{aim[0].upper()}{aim[1:]} {percent(gain.gain)} %{of} ({interval}, {counts}), {ends[word]}"


def margin_of(check: Check) -> float:
    """The margin that a check is judged with under the second protocol: 2 % at least for a claim or question that one
    arm is better; controls and equivalences keep theirs."""
    least = LEAST_MARGIN if check.role in ("claim", "question") and check.expect not in WITHIN else 0.0
    return max(check.margin, least)


def _where(record: Record) -> str:
    return f"here: {record.model}, {data_of(record) or record.task}, {record.scale} scale"


def data_of(record: Record) -> str | None:
    """The id of the data that a record was made on, where its setting tells."""
    data = record.setting.get("data")
    if isinstance(data, Mapping):
        data = data.get("id") or data.get("name")
    return None if data is None else str(data)


def _pair(record: Record, one: ArmResult, other: ArmResult, metric: Metric) -> tuple[Table, Table]:
    """Values of two arms, [draw][item], paired by position.

    By seeds: one row with the figure of each seed. By items: a row for each seed; in schema 1 a single row with each
    item's mean over the seeds. An arm for which nothing was drawn has one row. Raises ValueError saying why values
    cannot be paired.
    """
    seeds = [str(seed) for seed in record.seeds]
    tables: list[Table] = []
    for arm in (one, other):
        wanted = seeds if arm.drawn else list(arm.samples)[:1]
        if set(arm.samples) != set(wanted) or not set(wanted) <= set(seeds) or not wanted:
            raise ValueError(f"{arm.arm} has the seeds {', '.join(sorted(arm.samples)) or 'none'}, not {record.seeds}")
        tables.append([arm.samples[seed].get(metric.of, []) for seed in wanted])
    if record.paired_by == "seeds":
        tables = [table * (len(seeds) if len(table) == 1 else 1) for table in tables]
    full = [table * (len(seeds) if len(table) == 1 else 1) for table in tables]
    for seed, ours, theirs in zip(seeds, *full, strict=True):
        if len(ours) != len(theirs) or not ours:
            raise ValueError(f"{len(ours)} and {len(theirs)} values of {metric.of} with seed {seed}")
    if record.paired_by == "seeds":
        tables = [[[aggregate(values, metric.aggregate) for values in table]] for table in tables]
    elif len({len(values) for values in full[0]}) > 1:
        raise ValueError("the number of items differs between seeds")
    elif record.schema == 1:
        tables = [[list(_items(table))] for table in tables]
    return tables[0], tables[1]


def _items(table: Table) -> Sequence[float]:
    """Each item's mean over the draws."""
    return table[0] if len(table) == 1 else [aggregate(values, "mean") for values in zip(*table, strict=True)]


def _gain(record: Record, values: tuple[Table, Table], metric: Metric, margin: float) -> Gain:
    """The gain of the first of two arms as the check expects it, with its interval; values as `_pair` gives them."""
    within = record.check.expect in WITHIN
    shared: dict[str, Any] = {
        "expect": metric.better if within else record.check.expect,
        "level": 0.9 if within else 0.95,
        "equivalence": margin if within else None,
        "no_worse": record.check.expect == "no worse",
        "margin": None if within or record.schema == 1 else margin,
    }
    if record.paired_by == "seeds":
        return relative_gain(values[0][0], values[1][0], how="mean", by="seeds", **shared)
    return relative_gain_over_draws(*values, how=metric.aggregate, **shared)


def _result(record: Record, arm: Arm | None) -> ArmResult | None:
    """What an arm of the check left, if it has usable values."""
    return next((found for found in record.arms if found.arm == arm and not found.error), None)


def _figure(record: Record, arm: ArmResult, metric: Metric) -> float:
    """The figure of one arm; NaN without values."""
    rows = [values for by_key in arm.samples.values() if (values := by_key.get(metric.of, []))]
    if not rows or len({len(values) for values in rows}) > 1:
        return math.nan
    if record.paired_by == "seeds":
        return aggregate([aggregate(values, metric.aggregate) for values in rows], "mean")
    return aggregate(_items(rows), metric.aggregate)


def _failed_gate(record: Record, metric: Metric) -> tuple[Word, str] | None:
    """The word and reason where a gate of the check failed, or could not be judged; else None."""
    for gate in record.check.gates:
        arms = _result(record, gate.method), _result(record, gate.baseline)
        if missing := [arm for arm, found in zip((gate.method, gate.baseline), arms, strict=True) if found is None]:
            return "error", f'{missing[0]} broke, so the gate "{gate.says}" cannot be judged'
        ours, theirs = (_figure(record, arm, metric) for arm in arms if arm is not None)
        if not _passes(gate, ours, theirs, metric):
            figures = f"{record.metric} {ours:g} of {gate.method} against {theirs:g} of {gate.baseline}"
            return "not implemented faithfully here", f'The gate "{gate.says}" failed: {figures}'
    return None


def _passes(gate: Gate, ours: float, theirs: float, metric: Metric) -> bool:
    """Whether two figures are as a gate expects them; figures that are not finite never are."""
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        return False
    if gate.expect == "equal":
        return abs(ours - theirs) <= gate.tolerance * max(abs(ours), abs(theirs))
    worse = ours - theirs if metric.better == "lower" else theirs - ours
    return worse <= gate.tolerance * abs(theirs)


def _original(record: Record, metric: Metric) -> float | None:
    """The figure of the untouched model, where it is an arm and has one."""
    arm = next((found for found in record.arms if found.arm.method == ORIGINAL and not found.error), None)
    figure = math.nan if arm is None else _figure(record, arm, metric)
    return figure if math.isfinite(figure) else None


def _broken(record: Record, metric: Metric, figures: Sequence[float], original: float | None) -> str | None:
    """Why both arms are broken, so that the better of them says nothing; None where they are not.

    A perplexity is compared with the original's; a metric for which the setting gives what chance scores
    (setting["chance"][metric]) with that: a distance to the original is broken from half the way to chance on.
    """
    if metric.aggregate == "exp_mean" and metric.better == "lower" and original is not None:
        best = min(figures)
        if best > BROKEN * original:
            return (
                "Both configurations are broken: the better has "
                f"{best / original:.1f} times the original's {record.metric} "
                f"({best:.4g} against {original:.4g}; up to {BROKEN:g} times can be compared)"
            )
    level = _chance(record, record.metric)
    if level is not None and metric.better == "lower" and min(figures) > FAR * level:
        return f"Both configurations are broken: {record.metric} {min(figures):.4g} at best, chance gives {level:.4g}"
    if level is not None and metric.better == "higher" and max(figures) < level + CHANCE * (1 - level):
        return (
            f"Both configurations are near chance: {record.metric} {max(figures):.4g} at best, chance gives {level:.4g}"
        )
    return None


def _chance(record: Record, name: str) -> float | None:
    """What chance scores by a metric, where the record's setting says so."""
    chance = record.setting.get("chance")
    return chance.get(name) if isinstance(chance, Mapping) else None


def floor(record: Record, name: str) -> float | None:
    """The worst figure by a metric with which an arm of this record still works; beyond it, it is broken, as a verdict
    understands it (`_broken`). None where nothing tells."""
    metric, limits = record.metrics[name], []
    original, level = _original(record, metric), _chance(record, name)
    if metric.aggregate == "exp_mean" and metric.better == "lower" and original is not None:
        limits.append(BROKEN * original)
    if level is not None:
        limits.append(FAR * level if metric.better == "lower" else level + CHANCE * (1 - level))
    if not limits:
        return None
    return _tidy(min(limits) if metric.better == "lower" else max(limits))


def _no_room(record: Record, metric: Metric, baseline: float, original: float | None, margin: float) -> str | None:
    """Why no method could pass: the baseline is nearer to the untouched model than the margin. None where there is
    room, and for claims that are not about being better than a baseline."""
    check = record.check
    arms = (check.method.method, check.baseline.method)
    if original is None or check.expect != metric.better or ORIGINAL in arms or not baseline:
        return None
    room = (baseline - original if metric.better == "lower" else original - baseline) / abs(baseline)
    if room >= margin:
        return None
    return (
        f"There is no room for a gain: the baseline is within {100 * room:.2f} % of the original's {record.metric} "
        f"({baseline:.4g} against {original:.4g}), the margin is {100 * margin:g} %"
    )


def _trivial_passes(record: Record, metric: Metric, margin: float) -> str | None:
    """Why the check cannot tell a good method from its trivial arm; None where it can, or has no trivial arm."""
    check = record.check
    trivial, baseline = _result(record, check.trivial), record.arms[baseline_index(record)]
    if trivial is None or check.trivial in (check.method, baseline.arm) or not _expects_good(check, metric):
        return None
    try:
        gain = _gain(record, _pair(record, trivial, baseline, metric), metric, margin)
    except ValueError:
        return None  # it diverged, or has other items: it does not pass
    if _word(check.expect, margin, _tidy(gain.low), _tidy(gain.high)) != "holds":
        return None
    return f"The trivial {check.trivial} passes this check too ({100 * gain.gain:,.2f} %), so it cannot tell"


def _worse_than_trivial(record: Record, metric: Metric) -> bool:
    """Whether the method is worse than the check's trivial arm, by an interval beyond 0."""
    check = record.check
    trivial = _result(record, check.trivial)
    if trivial is None or check.trivial == check.method or not _expects_good(check, metric):
        return False
    fair = replace(record, check=replace(check, expect=metric.better))
    try:
        return _gain(fair, _pair(record, record.arms[0], trivial, metric), metric, 0.0).high < 0
    except ValueError:
        return False


def _expects_good(check: Check, metric: Metric) -> bool:
    """Whether the check expects the method to do well, rather than that something does harm."""
    return check.expect in (*WITHIN, metric.better)


def _extra(record: Record) -> dict[str, float]:
    """The other metrics of both arms and the flips of right/wrong keys, where the samples have them."""
    method, baseline = record.arms[0], record.arms[baseline_index(record)]
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
