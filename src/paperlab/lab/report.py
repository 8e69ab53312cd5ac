"""What the records say, for people: one self-contained HTML page for each family, and the table after a run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paperlab.core import charts
from paperlab.core import record as store
from paperlab.core.card import WITHIN, Check
from paperlab.core.charts import Bar
from paperlab.core.figures import ArmFigures, arm_figures, baseline_index
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED
from paperlab.core.methods import Method, methods
from paperlab.core.panels import chosen
from paperlab.core.paper import Paper, papers
from paperlab.core.published import Row, published, row
from paperlab.core.record import Record
from paperlab.core.standings import adjusted, control_ok, current, outdated, survives
from paperlab.core.verdict import Verdict, data_of, verdict
from paperlab.core.words import (
    check_sentence,
    clean,
    columns_that_fit,
    distinguishing,
    megabytes,
    number,
    percent,
    seconds,
    span,
)
from paperlab.lab.compare import compare
from paperlab.lab.pages import WIDE, WORDS, keep, page, save, slug

__all__ = ["compare", "report", "run_summary"]

DROP = ("build s", "bits/weight", "95 %", "MB")  # columns that a narrow terminal does without, in this order
CONTROLS = ("positive control", "negative control", "a/a control")
STATES = {
    "current": "",
    "unfinished": "broke off, while another run finished",
    "repeated": "an earlier run of a check that has run again",
    "superseded": "superseded: its check or its task has changed since",
}
RARER = ("weaker than claimed", "not implemented faithfully here", "mixed")  # words that most pages do without
OTHER = "other"  # the page of methods that are no longer there and of no paper in the catalogue


@dataclass
class Result:
    """One record with its verdict, as the page shows it."""

    record: Record
    verdict: Verdict
    key: str
    holm: float | None = None  # Holm's adjusted p over the claims of the paper
    place: str = ""  # the setting, in words that tell it from the claim's others
    state: str = ""  # one of the lists of `verdict.Standings`
    why: str = ""  # why it is listed apart
    outdated: tuple[str, ...] = ()  # what changed since it was made
    arms: tuple[ArmFigures, ...] = ()
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
    plot_note: str


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
    *,
    names: Sequence[str] = (),
    rows: Mapping[str, Row] | None = None,
    png: bool = False,
) -> list[Path]:
    """Write the report: a page for each family and an index of them. Returns the pages' paths, the index first.

    out: an .html file, or a folder that gets report.html; the families' pages stand next to it (report-pruning.html),
    their charts in plots/. names: only these families or methods, on one page; then out may also be an .svg or .png
    file, which gets the gains of the method's first claim. records: all that there are, unless given. known, versions:
    the methods and the tasks' versions that decide which records are superseded; those on disk, unless given. rows:
    published verdicts by record id; those on disk unless records are given; what has none is computed. png: draw the
    charts as PNG too. The same records give the same bytes. Raises LookupError for an unknown name, ValueError where
    there is nothing to draw, NoPicture, and OSError where the folder cannot be written.
    """
    known = methods() if known is None else known
    if rows is None and records is None:
        rows = {**published(BUNDLED / "records"), **published(store.records_folder(), refresh=True)}
    slugs = chosen(names, known) if names else None
    read = store.read() if records is None else records
    everything = sorted(read, key=lambda r: (r.started, r.id))
    results = _results(everything, known, versions, rows or {})
    results = [result for result in results if slugs is None or result.record.method in slugs]
    if out.suffix.lower() in (".png", ".svg"):
        return [_picture(results, known, out)]
    pictures = out.parent if out.suffix == ".html" else out
    if names:
        stem = f"report-{slug('-'.join(names))}"
        return [_page(results, known, out if out.suffix == ".html" else out / f"{stem}.html", "", png)]
    index = out if out.suffix == ".html" else out / "report.html"
    index.parent.mkdir(parents=True, exist_ok=True)
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(_family(result.record, known), []).append(result)
    pages, lines = [], []
    for family, its in sorted(families.items()):
        pages.append(_page(its, known, pictures / f"{index.stem}-{slug(family)}.html", family, png, index.name))
        lines.append(_line(family, its, pages[-1].name))
    counted, repeated, superseded = _counted(results)
    headline, lead = head(counted, repeated=repeated, superseded=superseded)
    words = Counter(result.word for result in counted)
    content = page(
        "index.html",
        title=f"paperlab report: {headline}",
        as_of=_as_of(results),
        headline=headline,
        lead=lead,
        counts=[(word, words[word]) for word in WORDS if words[word]],
        lines=lines,
    )
    write_atomically(index, content.encode())
    return [index, *pages]


def _results(
    records: Sequence[Record], known: Mapping[str, Method], versions: Mapping[str, int] | None, rows: Mapping[str, Row]
) -> list[Result]:
    """Every record with its verdict and where it stands today. rows: published ones; what has none is computed.

    All records together, because a verdict may rest on others: on the controls of its family, or on runs that disagree.
    """
    entries = []
    for r in records:
        kept = rows.get(r.id)
        entries.append(kept if kept is not None and kept.check_hash in (r.check_hash, r.check.hash) else row(r))
    results = [
        Result(r, _verdict(r, entry), key) for r, entry, key in zip(records, entries, _keys(records), strict=True)
    ]
    by_id: dict[str, list[Result]] = {}
    for result in results:
        by_id.setdefault(result.record.id, []).append(result)
    today = current(entries, known, versions)
    holm = adjusted(today.current)
    checks = {check.hash: check for method in known.values() for check in method.card.checks}
    for state in today.__dataclass_fields__:
        for entry in getattr(today, state):
            for its in by_id[entry.id]:
                its.state, its.why = state, "; ".join(filter(None, (STATES.get(state, state), _why(its.record))))
                its.holm = holm.get(entry.id) if state == "current" else None
                its.verdict = _verdict(its.record, entry)
                if state in ("current", "repeated"):
                    its.outdated = outdated(entry, checks[entry.check_hash])
    return results


def _verdict(record: Record, row: Row) -> Verdict:
    """The verdict in a row; only the least effect that could have been seen may have to be computed again."""
    given = {name: getattr(row, name) for name in Verdict.__dataclass_fields__ if hasattr(row, name)}
    found = Verdict(**{"margin": record.check.margin, **given})
    if found.word == "undecided" and found.minimum_effect is None:
        return replace(found, minimum_effect=verdict(record).minimum_effect)
    return found


def _page(results: list[Result], known: Mapping[str, Method], file: Path, family: str, png: bool, up: str = "") -> Path:
    """Write one page. up: the index's file name, where there is one."""
    for result in results:
        result.arms = arm_figures(result.record)
    file.parent.mkdir(parents=True, exist_ok=True)
    live = [result for result in results if result.state == "current"]
    counted, repeated, superseded = _counted(results)
    controls = [result for result in live if result.record.check.role in CONTROLS]
    words = Counter(result.word for result in counted)
    headline, lead = head(counted, repeated=repeated, superseded=superseded)
    content = page(
        "report.html",
        title=f"paperlab report{f' on {family}' if family else ''}: {headline}",
        family=family,
        up=up,
        as_of=_as_of(results),
        headline=headline,
        lead=lead,
        counts=[(word, words[word]) for word in WORDS if words[word]],
        controls=sorted(controls, key=lambda result: (CONTROLS.index(result.record.check.role), _place(result))),
        controls_say=_controls_say(controls),
        chapters=_chapters(live, known, file.parent / "plots", png),
        apart=[result for result in results if result.why],
    )
    write_atomically(file, content.encode())
    return file


def _line(family: str, results: list[Result], page_: str) -> dict[str, Any]:
    """A family's line in the index."""
    counted, _, _ = _counted(results)
    words = Counter(result.word for result in counted)
    controls = [r for r in results if r.state == "current" and r.record.check.role in CONTROLS]
    return {
        "family": family,
        "page": page_,
        "papers": len({r.record.paper or r.record.method for r in counted}),
        "checks": len(counted),
        "counts": [(word, words[word]) for word in WORDS if words[word]],
        "controls": f"{sum(r.behaves == 'yes' for r in controls)} of {len(controls)}" if controls else "none run",
    }


def _counted(results: Sequence[Result]) -> tuple[list[Result], int, int]:
    """The claims that count in the total; how many repeated and how many superseded runs do not."""
    states = Counter(result.state for result in results)
    live = [r for r in results if r.state in ("current", "unfinished") and r.record.check.role == "claim"]
    return live, states["repeated"], states["superseded"]


def _as_of(results: Sequence[Result]) -> str:
    return max((result.record.finished for result in results), default="")[:10]


def _family(record: Record, known: Mapping[str, Method]) -> str:
    if record.method in known:
        return known[record.method].card.family
    paper = papers().get(record.paper or "")
    return paper.family if paper else OTHER


def _picture(results: Sequence[Result], known: Mapping[str, Method], file: Path) -> Path:
    """Write the gains of the first claim of the one method that `results` are of."""
    ran = sorted({result.record.method for result in results})
    if len(ran) != 1:
        raise ValueError(f"one method with records is wanted for a picture, got {', '.join(ran) or 'none'}")
    for check in known[ran[0]].card.checks:
        its = [r for r in results if r.state == "current" and r.record.check_hash == check.hash]
        chart = _gains(check, sorted(its, key=_place), WIDE)
        if chart is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save(chart, file, _heading(check, its))
            return file
    raise ValueError(f"no check of {ran[0]} has a gain to draw; `paperlab run {ran[0]}` runs them")


def head(claims: Sequence[Result], *, repeated: int = 0, superseded: int = 0) -> tuple[str, list[str]]:
    """The honest head line and the sentences under it: all that was tried, with the denominator."""
    words = Counter(result.word for result in claims)
    broken = words["error"] + words["interrupted"]
    rarer = "".join(f", {words[word]} {word}" for word in RARER if words[word])
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
            f"{words['not comparable']} not comparable{rarer}. Not finished: {words['error']} by an error, "
            f"{words['interrupted']} interrupted; they count in the total.",
        ]
    if old := sum(bool(result.outdated) for result in claims):
        lead.append(
            f"{old} of {len(claims)} are outdated: their code or data has changed since, or is not known; "
            "`paperlab run --outdated` repeats them."
        )
    if repeated or superseded:
        lead.append(
            f"Listed at the end and not counted: {_count(repeated, 'earlier run')} of the same checks, "
            f"{_count(superseded, 'run')} of checks that have changed since."
        )
    return headline, lead


def verdict_sentence(record: Record, found: Verdict, holm: float | None = None) -> str:
    """The verdict in words, with gain, interval and "here"; never a word about the authors.

    holm: Holm's adjusted p over the claims of the paper, where it is known.
    """
    word = "interrupted" if record.status == "interrupted" else found.word
    text = f"{_upper(word)}. {found.reason}"
    if found.word == "undecided" and found.minimum_effect is not None:
        what = "margin that could have been shown" if record.check.expect in WITHIN else "gain likely to be seen"
        text += f" The smallest {what} with this n: {percent(found.minimum_effect, False)}."
    if holm is not None and survives(found.word, holm) is False:
        text += f" Alone it holds; among all claims of the paper it may be chance (Holm's p = {holm:.2g})."
    return text


def gain_ends(found: Verdict) -> tuple[float, float, float]:
    """Gain, low and high as floats: NaN without a gain, infinite where the interval has no end."""
    if found.gain is None:
        return math.nan, math.nan, math.nan
    return found.gain, -math.inf if found.low is None else found.low, math.inf if found.high is None else found.high


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
        headers = ("method", record.metric, "gain", "95 %", "bits/weight", "MB", "build s")
        arms = arm_figures(record)
        lines = [
            (clean(arm.arm), "error" if arm.error else number(arm.value(record.metric).value), *_gain(record, i),
             number(arm.bits), megabytes(arm.bytes), seconds(arm.build))
            for i, arm in enumerate(arms)
        ]  # fmt: skip
        kept = columns_that_fit(headers, lines, width - 2, drop=DROP, flexible=0)
        for i in kept:
            table.add_column(headers[i], justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
        for arm, line in zip(arms, lines, strict=True):
            styles = {0: "bold" if arm.role == "method" else "", 1: "red" if arm.error else ""}
            table.add_row(*(Text(line[i], style=styles.get(i, "")) for i in kept))
        word = "interrupted" if record.status == "interrupted" else found.word
        style = {"holds": "green", "holds in direction": "cyan", "fails": "red", "undecided": "default"}
        sentence = Text(clean(f"{WORDS[word][1]} {verdict_sentence(record, found)}"), style=style.get(word, "yellow"))
        parts += [table, sentence, Text(clean(f"  the gap: {record.check.gap}"), style="dim"), Text()]
    return Group(*parts) if parts else Text("Nothing was run.")


def _gain(record: Record, i: int) -> tuple[str, str]:
    """Gain of arm i over the baseline and its interval, as text. What should be equal between method and baseline
    need not be for the other arms, so only the verdict's sentence speaks of it."""
    arm, base = record.arms[i], baseline_index(record)
    if i == base or len(record.arms) < 2 or arm.error or record.arms[base].error:
        return "", ""
    loose = replace(record.check, equal={}, gates=(), trivial=None, ablation=None, rivals=())
    gain, low, high = gain_ends(verdict(replace(record, check=loose, arms=[arm, record.arms[base]])))
    return percent(gain), span(low, high, percent)


def _chapters(live: Sequence[Result], known: Mapping[str, Method], folder: Path, png: bool) -> list[Chapter]:
    catalogue = papers()
    chapters = []
    for name, group in groupby(sorted(live, key=_place), key=lambda result: result.record.method):
        results = list(group)
        paper = catalogue.get(results[0].record.paper or "")
        claims = []
        for (_, hash_), same in groupby(
            results, key=lambda result: (result.record.check.claim, result.record.check_hash)
        ):
            claims.append(_claim(list(same), f"{slug(name)}-{hash_}", folder, png))
        departs = known[name].card.departs if name in known else ()
        chapters.append(Chapter(f"paper-{slug(name)}", paper.title if paper else name, paper, departs, claims))
    return sorted(chapters, key=lambda chapter: (chapter.paper is None, chapter.title.lower()))


def _place(result: Result) -> tuple[Any, ...]:
    """Where a result stands on the page: by method, claims before controls, then model and time."""
    record = result.record
    return (record.method, record.check.role != "claim", record.check.claim, record.check_hash, record.task,
            record.model, record.scale, record.started, record.id)  # fmt: skip


def _claim(results: list[Result], key: str, folder: Path, png: bool) -> Claim:
    check = results[0].record.check
    for name, result in zip(_short([result.record for result in results]), results, strict=True):
        result.place, result.plot = name, _arms_plot(result, folder, png)
    plot, chart = None, _gains(check, results, charts.WIDE)
    wide = _gains(check, results, WIDE)
    if chart is not None and wide is not None:
        keep(wide, folder, f"gain-{key}", _heading(check, results), png=png)
        plot = Markup(chart.inline(f"gain-{key}"))
    metrics = sorted({result.record.metric for result in results})
    sentence = " ".join(_upper(check_sentence(check, metric)) for metric in metrics)
    return Claim(check, key, sentence, results, plot, chart.note if chart else "")


def _gains(check: Check, results: Sequence[Result], wide: float) -> charts.Chart | None:
    """The gain in every setting; None where no run has one."""
    places = _short([result.record for result in results])
    bars = [Bar(clean(place), *r.ends, r.word, WORDS[r.word][0], f"#{r.key}")
            for place, r in zip(places, results, strict=True)]  # fmt: skip
    against = clean(check.baseline.method)
    return charts.gains(bars, margin=check.margin, expect=check.expect, baseline=against, wide=wide)


def _heading(check: Check, results: Sequence[Result]) -> str:
    words = Counter(result.word for result in results)
    outcome = ", ".join(f"{count} {word}" for word, count in words.items())
    return f"{check.method.method}, “{check.claim}” on {_count(len(results), 'setting')}: {outcome}"


def _short(records: Sequence[Record]) -> list[str]:
    """Where each record stands, in the fewest words: the model, and what else is not the same for all."""
    return distinguishing([(r.model, f"{r.task} v{r.task_version}", data_of(r) or "", r.scale) for r in records])


def _arms_plot(result: Result, folder: Path, png: bool) -> Markup | None:
    record, name = result.record, f"arms-{result.key}"
    drawn = [_arms(result, wide) for wide in (charts.WIDE, WIDE)]
    if drawn[0] is None or drawn[1] is None:
        return None
    gain, where = result.ends[0], clean(record.model)
    against = f"{clean(record.check.method.method)} against {clean(record.check.baseline.method)}"
    title = f"{against} on {where}: {percent(gain)}" if math.isfinite(gain) else f"{against} on {where}: {result.word}"
    keep(drawn[1], folder, name, title, png=png)
    return Markup(drawn[0].inline(name))


def _arms(result: Result, wide: float) -> charts.Chart | None:
    metric, bars = result.record.metric, []
    for arm in result.arms:
        value = arm.value(metric)
        bars.append(Bar(clean(arm.arm), value.value, value.low, value.high, arm.role, arm.role, f"#{result.key}"))
    return charts.arms(bars, metric=clean(metric), better=result.record.metrics[metric].better, wide=wide)


def _why(record: Record) -> str:
    """What went wrong in a run; empty for one that finished whole."""
    wrong = [] if record.status == "finished" else [f"{record.status}: {record.error or 'no reason was recorded'}"]
    return "; ".join(wrong + [f"{arm.arm}: {arm.error}" for arm in record.arms if arm.error])


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
