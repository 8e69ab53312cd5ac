"""What the records say, for people: one self-contained HTML page with its plots beside, and the table after a run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paperlab.core import record as store
from paperlab.core.card import Check
from paperlab.core.files import write_atomically
from paperlab.core.methods import Method, methods
from paperlab.core.panels import Value, build_seconds
from paperlab.core.paper import Paper, papers
from paperlab.core.record import Record
from paperlab.core.verdict import Verdict, adjusted, control_ok, current, data_of, survives, verdict
from paperlab.core.words import check_sentence, clean, columns_that_fit, megabytes, number, percent, seconds, span
from paperlab.lab import plots
from paperlab.lab.compare import compare
from paperlab.lab.pages import WORDS, keep_plot, page, slug
from paperlab.lab.plots import Dot
from paperlab.lab.values import arm_value

__all__ = ["compare", "report", "run_summary"]

ROLES = ("method", "baseline")
DROP = ("build s", "bits/weight", "95 %", "MB")  # columns that a narrow terminal does without, in this order
CONTROLS = ("positive control", "negative control", "a/a control")


@dataclass(frozen=True)
class Row:
    """One arm in a table. role: "method", "baseline" or "beside"; figures that are missing are NaN."""

    arm: str
    role: str
    value: Value
    bits: float
    bytes: float
    build: float
    peak: float
    error: str | None


@dataclass
class Result:
    """One record with its verdict, as the page shows it."""

    record: Record
    verdict: Verdict
    key: str
    holm: float | None = None  # Holm's adjusted p over the claims of the paper
    place: str = ""  # the setting, in words that tell it from the claim's others
    why: str = ""  # why it is listed apart
    rows: list[Row] = field(default_factory=list)
    plot: Markup | None = None

    @property
    def word(self) -> str:
        return "interrupted" if self.record.status == "interrupted" else self.verdict.word

    @property
    def here(self) -> str:
        """Model, task and scale: what "here" means in this verdict."""
        return here(self.record)

    @property
    def gain(self) -> str:
        return f"{percent(self.ends[0])} {span(*self.ends[1:], percent)}".strip()

    @property
    def ends(self) -> tuple[float, float, float]:
        """Gain, low and high; NaN where there is no gain, infinite where the interval has no end."""
        return gain_ends(self.verdict)

    @property
    def quality(self) -> str:
        return f"{self.record.metric} ({self.record.metrics[self.record.metric].better} is better)"

    @property
    def sentence(self) -> str:
        return verdict_sentence(self.record, self.verdict, self.holm)

    @property
    def behaves(self) -> str:
        """Whether a control did what it is there for."""
        return {True: "yes", False: "NO", None: "not shown: no verdict"}[control_ok(self.record.check, self.verdict)]


@dataclass(frozen=True)
class Claim:
    """One check of a paper with its results on every model."""

    check: Check
    key: str
    sentence: str
    results: list[Result]
    plot: Markup | None
    plot_says: str


@dataclass(frozen=True)
class Chapter:
    """One paper (or one baseline method) with its claims."""

    key: str
    title: str
    paper: Paper | None
    departs: tuple[str, ...]
    claims: list[Claim]


def here(record: Record) -> str:
    """Model, task with version, data, scale."""
    return " · ".join(
        filter(None, (record.model, f"{record.task} v{record.task_version}", data_of(record), record.scale))
    )


def report(
    out: Path,
    records: Iterable[Record] | None = None,
    known: Mapping[str, Method] | None = None,
    versions: Mapping[str, int] | None = None,
) -> Path:
    """Write the report and return the page's path.

    out: an .html file, or a folder that gets report.html. The plots go into plots/ beside the page, as SVG and PNG.
    records: all that `core.record.read` finds, unless given. known, versions: the methods and the tasks' versions
    that decide which records are superseded; those on disk, unless given. The same records give the same bytes.
    Raises OSError where the folder cannot be written.
    """
    known = methods() if known is None else known
    everything = sorted(store.read() if records is None else records, key=lambda r: (r.started, r.id))
    file = out if out.suffix == ".html" else out / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    results = {
        id(r): Result(r, verdict(r), key, rows=rows(r)) for r, key in zip(everything, _keys(everything), strict=True)
    }
    today = current(everything, known, versions)
    live = [results[id(r)] for r in today.current]
    for result in live:
        result.why = _why(result)
    for runs, why in (
        (today.unfinished, "broke off beside a finished run"),
        (today.repeated, "an earlier run of a check that has run again"),
        (today.superseded, "superseded: its check or its task has changed since"),
    ):
        for r in runs:
            results[id(r)].why = f"{why}{'; ' * bool(_why(results[id(r)]))}{_why(results[id(r)])}"
    holm = adjusted(result.record for result in live)
    for result in live:
        result.holm = holm.get(result.record.id)
    counted = [r for r in (*live, *(results[id(u)] for u in today.unfinished)) if r.record.check.role == "claim"]
    controls = [result for result in live if result.record.check.role != "claim"]
    words = Counter(result.word for result in counted)
    headline, lead = head(counted, repeated=len(today.repeated), superseded=len(today.superseded))
    content = page(
        "report.html",
        title=f"paperlab report: {headline}",
        as_of=max((r.finished for r in everything), default="")[:10],
        headline=headline,
        lead=lead,
        counts=[(word, words[word]) for word in WORDS if words[word]],
        controls=sorted(controls, key=lambda result: (CONTROLS.index(result.record.check.role), _place(result))),
        controls_say=_controls_say(controls),
        chapters=_chapters(live, known, file.parent / "plots"),
        apart=[result for result in results.values() if result.why],
    )
    write_atomically(file, content.encode())
    return file


def head(claims: Sequence[Result], *, repeated: int = 0, superseded: int = 0) -> tuple[str, list[str]]:
    """The honest head line and the sentences under it: all that was tried, with the denominator."""
    words = Counter(result.word for result in claims)
    broken = words["error"] + words["interrupted"]
    tried = len({(r.record.method, r.record.check.claim) for r in claims})
    of = len({r.record.paper or r.record.method for r in claims})
    if not claims:
        headline, lead = "No claim has been checked yet", ["`paperlab run` with a paper's name checks its claims."]
    else:
        headline = f"{words['holds']} of {_count(len(claims), 'check')} hold here"
        lead = [
            f"{_count(tried, 'claim')} of {_count(of, 'paper')} tried in {_count(len(claims), 'check')}, one for each "
            f"claim, task, model and data. {len(claims) - broken} finished: {words['holds']} hold, "
            f"{words['holds in direction']} only in direction, {words['fails']} fail, {words['undecided']} undecided, "
            f"{words['not comparable']} not comparable. Not finished: {words['error']} by an error, "
            f"{words['interrupted']} interrupted; they count in the total.",
        ]
    if repeated or superseded:
        lead.append(
            f"Listed at the end and not counted: {_count(repeated, 'earlier run')} of the same checks, "
            f"{_count(superseded, 'run')} of checks that have changed since."
        )
    return headline, lead


def rows(record: Record) -> list[Row]:
    """The record's arms as table rows, in its order."""
    found = []
    for i, arm in enumerate(record.arms):
        role = ROLES[i] if i < len(ROLES) else "beside"
        bits, size = arm.totals.get("bits_per_weight", math.nan), arm.totals.get("bytes", math.nan)
        peak = arm.peak_memory or math.nan
        found.append(Row(str(arm.arm), role, arm_value(record, arm), bits, size, build_seconds(arm), peak, arm.error))
    return found


def verdict_sentence(record: Record, said: Verdict, holm: float | None = None) -> str:
    """The verdict in words, with gain, interval and "here"; never a word about the authors.

    holm: Holm's adjusted p over the claims of the paper, where it is known.
    """
    word = "interrupted" if record.status == "interrupted" else said.word
    text = f"{_upper(word)}. {said.reason}"
    if said.word == "undecided" and said.minimum_effect is not None:
        what = "margin that could have been shown" if record.check.expect == "equal" else "gain likely to be seen"
        text += f" The smallest {what} with this n: {percent(said.minimum_effect, False)}."
    if holm is not None and survives(said.word, holm) is False:
        text += f" Alone it holds; among all claims of the paper it may be chance (Holm's p = {holm:.2g})."
    return text


def gain_ends(said: Verdict) -> tuple[float, float, float]:
    """Gain, low and high as floats: NaN without a gain, infinite where the interval has no end."""
    if said.gain is None:
        return math.nan, math.nan, math.nan
    return said.gain, -math.inf if said.low is None else said.low, math.inf if said.high is None else said.high


def run_summary(records: Iterable[Record], width: int = 160) -> RenderableType:
    """A rich renderable for the end of `paperlab run`: per record a table of its arms, then the verdict in words.

    Each arm's gain is over the record's baseline, paired, with its 95 % interval. width: of the terminal, in
    characters; a narrow one goes without some of the columns.
    """
    parts: list[RenderableType] = []
    for record in records:
        found = verdict(record)
        table = Table(
            box=box.SIMPLE_HEAD, title_justify="left", title_style="bold",
            title=Text(clean(f"{record.method}: {record.check.claim} · {here(record)}")),
        )  # fmt: skip
        headers = ("arm", record.metric, "gain", "95 %", "bits/weight", "MB", "build s")
        lines = [
            (clean(row.arm), "error" if row.error else number(row.value.value), *_gain(record, i), number(row.bits),
             megabytes(row.bytes), seconds(row.build))
            for i, row in enumerate(rows(record))
        ]  # fmt: skip
        kept = columns_that_fit(headers, lines, width - 2, drop=DROP, flexible=0)
        for i in kept:
            table.add_column(headers[i], justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
        for row, line in zip(rows(record), lines, strict=True):
            styles = {0: "bold" if row.role == "method" else "", 1: "red" if row.error else ""}
            table.add_row(*(Text(line[i], style=styles.get(i, "")) for i in kept))
        word = "interrupted" if record.status == "interrupted" else found.word
        style = {"holds": "green", "holds in direction": "cyan", "fails": "red", "undecided": "default"}
        sentence = Text(clean(f"{WORDS[word][1]} {verdict_sentence(record, found)}"), style=style.get(word, "yellow"))
        parts += [table, sentence, Text(clean(f"  the gap: {record.check.gap}"), style="dim"), Text()]
    return Group(*parts) if parts else Text("Nothing was run.")


def _gain(record: Record, i: int) -> tuple[str, str]:
    """Gain of arm i over the baseline and its interval, as text. What should be equal between method and baseline
    need not be for the arms beside, so only the verdict's sentence speaks of it."""
    arm = record.arms[i]
    if i == 1 or len(record.arms) < 2 or arm.error or record.arms[1].error:
        return "", ""
    loose = replace(record.check, equal={})
    gain, low, high = gain_ends(verdict(replace(record, check=loose, arms=[arm, record.arms[1]])))
    return percent(gain), span(low, high, percent)


def _chapters(live: Sequence[Result], known: Mapping[str, Method], folder: Path) -> list[Chapter]:
    catalogue = papers()
    chapters = []
    for name, group in groupby(sorted(live, key=_place), key=lambda result: result.record.method):
        results = list(group)
        paper = catalogue.get(results[0].record.paper or "")
        claims = []
        for (_, hash_), same in groupby(
            results, key=lambda result: (result.record.check.claim, result.record.check_hash)
        ):
            claims.append(_claim(list(same), f"{slug(name)}-{hash_}", folder))
        departs = known[name].card.departs if name in known else ()
        chapters.append(Chapter(f"paper-{slug(name)}", paper.title if paper else name, paper, departs, claims))
    return sorted(chapters, key=lambda chapter: (chapter.paper is None, chapter.title.lower()))


def _place(result: Result) -> tuple[Any, ...]:
    """Where a result stands on the page: by method, claims before controls, then model and time."""
    record = result.record
    return (record.method, record.check.role != "claim", record.check.claim, record.check_hash, record.task,
            record.model, record.scale, record.started, record.id)  # fmt: skip


def _claim(results: list[Result], key: str, folder: Path) -> Claim:
    check = results[0].record.check
    names = _short([result.record for result in results])
    for name, result in zip(names, results, strict=True):
        result.place, result.plot = name, _arms_plot(result, folder)
    dots = [Dot(clean(f"{name} · {r.word}"), *r.ends, "method") for name, r in zip(names, results, strict=True)]
    words = Counter(result.word for result in results)
    said = ", ".join(f"{count} {word}" for word, count in words.items())
    plot = None
    if any(math.isfinite(dot.value) for dot in dots):
        title = clean(f"“{check.claim}” on {_count(len(results), 'setting')}: {said}")
        against = clean(check.baseline.method)
        drawn = plots.gains(dots, title=title, margin=check.margin, expect=check.expect, baseline=against)
        plot = keep_plot(drawn, folder, f"gain-{key}")
    metrics = sorted({result.record.metric for result in results})
    sentence = " ".join(_upper(check_sentence(check, metric)) for metric in metrics)
    toward = {"equal": "the method is better", "lower": "as the check expects", "higher": "as the check expects"}
    says = f"To the right of zero: {toward[check.expect]}."
    return Claim(check, key, sentence, results, plot, says)


def _short(records: Sequence[Record]) -> list[str]:
    """Where each record stands, in the fewest words: the model, and what else is not the same for all."""
    parts = [(r.model, f"{r.task} v{r.task_version}", data_of(r) or "", r.scale) for r in records]
    telling = [i for i in range(4) if i == 0 or len({part[i] for part in parts}) > 1]
    return [" · ".join(part[i] for i in telling if part[i]) for part in parts]


def _arms_plot(result: Result, folder: Path) -> Markup | None:
    record = result.record
    dots = [
        Dot(clean(row.arm), row.value.value, row.value.low, row.value.high, row.role)  # type: ignore[arg-type]
        for row in result.rows
    ]
    if not any(math.isfinite(dot.value) for dot in dots):
        return None
    gain, where = result.ends[0], clean(record.model)
    against = f"{clean(record.check.method.method)} against {clean(record.check.baseline.method)}"
    title = f"{against} on {where}: {percent(gain)}" if math.isfinite(gain) else f"{against} on {where}: {result.word}"
    drawn = plots.arms(dots, title=title, axis=clean(record.metric), better=record.metrics[record.metric].better)
    return keep_plot(drawn, folder, f"arms-{result.key}")


def _why(result: Result) -> str:
    """What went wrong in a run; empty for one that finished whole."""
    record = result.record
    said = [] if record.status == "finished" else [f"{record.status}: {record.error or 'no reason was recorded'}"]
    return "; ".join(said + [f"{arm.arm}: {arm.error}" for arm in record.arms if arm.error])


def _controls_say(controls: Sequence[Result]) -> str:
    good = sum(result.behaves == "yes" for result in controls)
    missing = [role for role in CONTROLS if not any(result.record.check.role == role for result in controls)]
    text = f"{good} of {len(controls)} behave."
    return f"{text} Not run: {', '.join(missing)}." if missing else text


def _keys(records: Sequence[Record]) -> list[str]:
    """An id per record that is unique on the page and safe in file names, whatever the record's own id holds."""
    seen: Counter[str] = Counter()
    keys = []
    for record in records:
        key = slug(record.id)
        seen[key] += 1
        keys.append(f"record-{key}" if seen[key] == 1 else f"record-{key}-n{seen[key]}")
    return keys


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
