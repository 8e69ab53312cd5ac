"""The report, the comparison and the table after a run, on synthetic records with known figures."""

import csv
import importlib.util
import itertools
import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from paperlab.core import charts
from paperlab.core import panels as comparing
from paperlab.core.card import Arm, Card
from paperlab.core.methods import Method, methods
from paperlab.core.record import Record
from paperlab.core.summaries import summary
from paperlab.core.verdict import verdict
from paperlab.core.words import number, percent
from paperlab.lab import pages
from paperlab.lab.compare import compare
from paperlab.lab.report import report, run_summary

_spec = importlib.util.spec_from_file_location("synthetic_records", Path(__file__).with_name("records.py"))
assert _spec is not None
assert _spec.loader is not None
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)
make, make_check, arm_result = synthetic.record, synthetic.check, synthetic.arm_result

HOSTILE = "<script>alert('x')</script>\"&]]>--><b onload=1>\x1b[31m\x00${7*7}{{7*7}}"
VERSIONS = {"lm_compress": 1}
VOID = {"meta", "br", "link", "img", "hr", "input"}


def cards(*records: Record) -> dict[str, Method]:
    """The methods whose cards hold the checks of these records."""
    known: dict[str, Method] = {}
    for record in records:
        checks = {
            c.hash: c for c in (*(known[record.method].card.checks if record.method in known else ()), record.check)
        }
        card = Card("quantization", record.paper, tuple(checks.values()), ("a grid, not gradients",))
        known[record.method] = Method(record.method, card, Path("x.py"), "")
    return known


def some() -> list[Record]:
    """Holds, undecided, error, interrupted, a superseded one and a control."""
    old = make(make_check(margin=0.05), id="old-1", started="2025-12-30T00:00:00+00:00")
    held, other = make(id="held-1"), make(id="other-1", model="abstracts", losses={"easyquant": 3.299})
    broken = make(id="broken-1", model="MiniLM")
    broken = replace(broken, arms=[arm_result(broken.arms[0].arm, loss=0, error="MemoryError"), *broken.arms[1:]])
    stopped = make(id="stopped-1", model="third", status="interrupted", error="ctrl-C")
    control = make(make_check(claim="broken-constant", role="negative control"), {"easyquant": 3.31}, id="control-1")
    return [old, held, other, broken, stopped, control]


class Page(HTMLParser):
    """Well-formedness, ids, text and links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def one_page(out: Path, records: Any, known: dict[str, Method], **more: Any) -> Path:
    """The report on the family of these records; it has a page next to the index."""
    index, *families = report(out, records, known, VERSIONS, **more)
    assert index.exists()
    (page,) = families
    return page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Record]]:
    records = some()
    file = one_page(tmp_path_factory.mktemp("report"), records, cards(*records[1:]))
    return file, file.read_text(encoding="utf-8"), records


def test_page_is_well_formed_and_self_contained(written: tuple[Path, str, list[Record]]) -> None:
    page = Page(written[1])
    assert len(page.ids) == len(set(page.ids)), "ids repeat"
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img")
        for name, value in attributes.items():
            if name in ("href", "src", "xlink:href", "action"):
                assert value is not None
                if value == "report.html":
                    assert (written[0].parent / value).exists()
                    continue
                assert value.startswith("#"), f"{tag} {name}={value}"
                assert value[1:] in page.ids, f"{value} leads nowhere"
            if name in ("aria-labelledby", "aria-describedby"):
                assert set((value or "").split()) <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", written[1])
    tables, captions = (sum(tag == name for tag, _ in page.tags) for name in ("table", "caption"))
    assert tables == captions > 0


def test_every_record_and_the_denominator_are_on_the_page(written: tuple[Path, str, list[Record]]) -> None:
    text = " ".join(Page(written[1]).text.split())
    for record in written[2]:
        assert record.id in text
        assert record.command in text
    assert "1 of 4 checks hold here" in text
    assert "2 finished: 1 hold, 0 only in direction, 0 fail, 1 undecided, 0 not comparable" in text
    assert "1 by an error, 1 interrupted" in text
    assert "1 run of checks that have changed since" in text
    assert "1 of 1 behave. Not run: positive control, a/a control." in text
    assert "ctrl-C" in text
    assert "MemoryError" in text


def test_numbers_on_the_page_are_those_of_the_samples(written: tuple[Path, str, list[Record]]) -> None:
    text = " ".join(Page(written[1]).text.split())
    for record in written[2][1:3]:
        for arm in record.arms:
            assert number(math.exp(fmean(arm.samples["0"]["nll"]))) in text
        said = verdict(record)
        assert said.gain is not None
        assert said.low is not None
        assert said.high is not None
        assert f"{percent(said.gain)} [{percent(said.low)}, {percent(said.high)}]" in text
        method, baseline = (fmean(arm.samples["0"]["nll"]) for arm in record.arms[:2])
        assert said.gain == pytest.approx(1 - math.exp(method - baseline), rel=1e-8)


def test_same_records_same_bytes(written: tuple[Path, str, list[Record]], tmp_path: Path) -> None:
    records = written[2]
    index, page = report(tmp_path / "sub" / "report.html", reversed(records), cards(*records[1:]), VERSIONS)
    assert index == tmp_path / "sub" / "report.html"
    assert page.name == written[0].name == "report-quantization.html"
    assert page.read_bytes() == written[0].read_bytes()
    drawn = sorted(path.name for path in (written[0].parent / "plots").iterdir())
    assert drawn == sorted(path.name for path in (page.parent / "plots").iterdir())
    assert {path.rpartition(".")[2] for path in drawn} == {"svg"}
    for name in drawn:
        assert (page.parent / "plots" / name).read_bytes() == (written[0].parent / "plots" / name).read_bytes()


def test_the_index_leads_to_every_family_and_counts_all(tmp_path: Path) -> None:
    one = make(id="one")
    other = make(make_check(claim="other", method=Arm("wanda"), baseline=Arm("magnitude")), id="two", method="wanda",
                 paper="wanda")  # fmt: skip
    gone = make(make_check(claim="gone"), id="three", method="no-longer-there", paper=None)
    known = cards(one)
    known["wanda"] = Method("wanda", Card("pruning", "wanda", (other.check,)), Path("x.py"), "", None)
    index, *pages_ = report(tmp_path, [one, other, gone], known, VERSIONS)
    assert [page.name for page in pages_] == ["report-other.html", "report-pruning.html", "report-quantization.html"]
    found = Page(index.read_text(encoding="utf-8"))
    links = [its["href"] for tag, its in found.tags if tag == "a"]
    assert links == [page.name for page in pages_]
    text = " ".join(found.text.split())
    assert "2 claims of 2 papers tried in 2 checks" in text
    assert "1 run of checks that have changed since" in text
    assert "three" in pages_[0].read_text()
    assert "one" not in {its.get("id", "")[7:] for _, its in Page(pages_[1].read_text()).tags}


def test_named_methods_share_one_page(tmp_path: Path) -> None:
    record = make()
    (page,) = report(tmp_path, [record], cards(record), VERSIONS, names=["easyquant"])
    assert page == tmp_path / "report-easyquant.html"
    (page,) = report(tmp_path / "mine.html", [record], cards(record), VERSIONS, names=["quantization"])
    assert record.id in page.read_text()
    with pytest.raises(LookupError, match="no method 'nothing'"):
        report(tmp_path, [record], cards(record), VERSIONS, names=["nothing"])


def test_a_published_verdict_is_shown_without_resampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.core.published import row
    from paperlab.lab import report as room

    record = make()
    plain = one_page(tmp_path / "a", [record], cards(record)).read_bytes()
    rows = {record.id: row(record)}
    for name in ("row", "verdict"):
        monkeypatch.setattr(room, name, lambda record: pytest.fail("resampled"))
    assert one_page(tmp_path / "b", [record], cards(record), rows=rows).read_bytes() == plain


def test_a_picture_of_one_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make()
    (file,) = report(tmp_path / "a.svg", [record], cards(record), VERSIONS, names=["easyquant"])
    said = " ".join("".join(node.itertext()) for node in ET.parse(file).getroot().iter())
    assert "better-than-rtn" in said
    assert "95 % intervals" in said
    with pytest.raises(ValueError, match="one method"):
        report(tmp_path / "a.svg", [], cards(record), VERSIONS)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(pages.NoPicture, match="PNG needs resvg-py"):
        report(tmp_path / "a.png", [record], cards(record), VERSIONS, names=["easyquant"])
    assert not (tmp_path / "a.png").exists()


def test_png_if_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    record = make()
    one_page(tmp_path, [record], cards(record), png=True)
    drawn = {path.suffix for path in (tmp_path / "plots").iterdir()}
    assert drawn == {".svg", ".png"}
    for path in (tmp_path / "plots").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    (file,) = report(tmp_path / "a.png", [record], cards(record), VERSIONS, names=["easyquant"])
    assert file.read_bytes().startswith(b"\x89PNG")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    check = make_check(says=HOSTILE, claim=HOSTILE, gap=HOSTILE, method=Arm(HOSTILE, {HOSTILE: HOSTILE}))
    record = make(check, id=f"../../{HOSTILE}", model=HOSTILE, machine=HOSTILE, command=HOSTILE, commit=HOSTILE,
                  method=HOSTILE, paper=HOSTILE, setting={"data": {"id": HOSTILE}})  # fmt: skip
    records = [record, replace(record, id="b", status="failed", error=HOSTILE, started="2025-01-01")]
    html = one_page(tmp_path, records, cards(*records)).read_text(encoding="utf-8")
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "b")]
    assert "onload" not in {name for _, attributes in page.tags for name in attributes}
    assert "\x1b" not in html
    assert "\x00" not in html
    assert "{{7*7}}" in page.text
    assert "<script>alert('x')" in page.text
    assert {path.parent for path in tmp_path.rglob("*.svg")} == {tmp_path / "plots"}
    for path in tmp_path.rglob("*.svg"):
        ET.parse(path)
    out = StringIO()
    Console(file=out, width=200).print(run_summary(records))
    assert "\x1b" not in out.getvalue()
    assert "[31m" in out.getvalue(), "markup in a record is shown, not obeyed"


def test_no_records_is_said_plainly(tmp_path: Path) -> None:
    (index,) = report(tmp_path, [], {}, {})
    text = Page(index.read_text(encoding="utf-8")).text
    assert "No claim has been checked yet" in text


def test_a_run_counts_once_and_repeats_are_listed(tmp_path: Path) -> None:
    first, second = make(id="first"), make(id="second", started="2026-02-01T00:00:00+00:00")
    text = Page(one_page(tmp_path, [first, second], cards(first)).read_text(encoding="utf-8")).text
    assert "1 of 1 check hold" in text
    assert "1 earlier run of the same checks" in text
    assert "first" in text


def test_summary_shows_arms_gains_and_verdict() -> None:
    record, out = make(), StringIO()
    Console(file=out, width=160).print(run_summary([record]))
    text, said = out.getvalue(), verdict(record)
    assert said.gain is not None
    assert percent(said.gain) in text
    for arm in record.arms:
        assert str(arm.arm) in text
        assert number(math.exp(fmean(arm.samples["0"]["nll"]))) in text
    assert "✓ Holds." in text
    beside = math.exp(fmean(record.arms[2].samples["0"]["nll"]) - fmean(record.arms[1].samples["0"]["nll"]))
    assert percent(1 - beside) in text
    assert "\x1b" not in text


# ── comparison ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_compare_keeps_settings_apart_and_merges_repeats(tmp_path: Path) -> None:
    one = make(id="one")
    records = [
        one,
        make(id="again", started="2026-02-01"),
        make(id="elsewhere", machine="other-box"),
        make(id="bigger", scale="full"),
        make(id="other-data", setting={"data": {"id": "else"}}),
        make(id="stopped", model="m", status="interrupted"),
    ]
    out = StringIO()
    file = compare(["quantization"], tmp_path, records, known=cards(one), versions=VERSIONS, console=Console(file=out))
    rows = list(csv.DictReader(StringIO(file.with_suffix(".csv").read_text())))
    assert len(rows) == 4 * len(one.arms)
    here = [r for r in rows if (r["machine"], r["scale"], r["data"]) == ("two-core-box", "quick", "text")]
    assert [r["records"] for r in here] == ["one again"] * 4
    assert {r["note"] for r in here} == {"in 2 records"}
    by_arm = {r["arm"]: r for r in here}
    for arm in one.arms:
        assert float(by_arm[str(arm.arm)]["value"]) == pytest.approx(math.exp(fmean(arm.samples["0"]["nll"])))
        assert float(by_arm[str(arm.arm)]["bytes"]) == arm.totals["bytes"]
    page = Page(file.read_text(encoding="utf-8"))
    assert "1 more did not finish" in page.text
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 8
    assert "\x1b" not in out.getvalue()
    assert all(str(arm.arm) in out.getvalue() for arm in one.arms), "piped output is not cut"


def test_compare_takes_baselines_too(tmp_path: Path) -> None:
    record = make()
    known = {**cards(record), "gptq": Method("gptq", Card("quantization"), Path("x.py"), "")}
    out = Console(file=StringIO())
    file = compare(["gptq"], tmp_path, [record], known=known, versions=VERSIONS, console=out)
    rows = list(csv.DictReader(StringIO(file.with_suffix(".csv").read_text())))
    assert [row["arm"] for row in rows] == [str(record.arms[2].arm)]


def test_compare_says_where_records_differ() -> None:
    first, second = make(id="a"), make(id="b", losses={"gptq": 3.0}, started="2026-02-01")
    (panel,) = comparing.panels([summary(first), summary(second)])
    notes = {point.arm.method: point.note for point in panel.points}
    assert "which differ" in notes["gptq"]
    assert "differ" not in notes["nf4"]
    shown = next(point for point in panel.points if point.arm.method == "gptq")
    assert shown.value.value == pytest.approx(math.exp(fmean(second.arms[2].samples["0"]["nll"])))


def wrecks(**fields: Any) -> comparing.Panel:
    """Original 2.9 nats; easyquant near it, round-to-nearest a little off, gptq a wreck (over 5 times the original's
    perplexity) that is the smallest by far, nf4 not finite."""
    check = make_check(beside=(Arm("original"), Arm("gptq", {"bits": 1}), Arm("nf4")))
    losses = {"original": 2.9, "easyquant": 2.92, "round-to-nearest": 3.3, "gptq": 2.9 + math.log(5.2)}
    record = make(check, losses=losses, **fields)
    sizes = {"original": 16.0, "easyquant": 4.5, "round-to-nearest": 3.0, "gptq": 0.5, "nf4": 0.4}
    arms = [replace(a, totals={**a.totals, "bytes": 1e6 * sizes[a.arm.method]}) for a in record.arms]
    arms[-1] = replace(arms[-1], samples={"0": {**arms[-1].samples["0"], "nll": [math.inf] * 64}})
    (panel,) = comparing.panels([summary(replace(record, arms=arms))])
    return panel


def test_a_broken_arm_is_on_no_front_and_the_nearest_to_the_original_leads() -> None:
    panel = wrecks()
    by = {p.arm.method: p for p in panel.points}
    assert panel.original is by["original"]
    assert panel.floor == pytest.approx(5 * by["original"].value.value)
    assert {name for name, p in by.items() if p.broken} == {"gptq", "nf4"}
    assert {name for name, p in by.items() if "bytes" in p.on} == {"easyquant", "round-to-nearest"}
    assert not by["gptq"].on
    assert not by["original"].on
    front, why = comparing.offered(panel, "bytes")
    assert [p.arm.method for p in front] == ["easyquant", "round-to-nearest"]
    assert why == "smallest within 5 % of the original"
    assert comparing.away(panel, by["easyquant"]) < 0.05 < comparing.away(panel, by["round-to-nearest"])
    rows = list(csv.DictReader(StringIO(comparing.to_csv([panel]))))
    assert {row["arm"].partition("(")[0] for row in rows if row["broken"] == "True"} == {"gptq", "nf4"}


def test_where_nothing_is_near_the_nearest_leads_and_where_all_is_near_the_smallest() -> None:
    panel = wrecks()
    far = replace(panel, points=tuple(p for p in panel.points if p.arm.method != "easyquant"))
    assert comparing.offered(far, "bytes")[1] == "nearest to the original"
    near = replace(panel, points=tuple(
        replace(p, value=replace(p.value, value=panel.original.value.value * 1.04))
        if p.arm.method == "round-to-nearest" and panel.original else p for p in panel.points))  # fmt: skip
    assert [p.arm.method for p in comparing.offered(near, "bytes")[0]] == ["round-to-nearest", "easyquant"]
    alone = replace(panel, points=tuple(p for p in panel.points if p.arm.method != "original"))
    assert comparing.offered(alone, "bytes")[1] == "best"
    nothing = replace(panel, points=tuple(p for p in panel.points if p.broken))
    assert comparing.offered(nothing, "bytes") == ([], "")


def test_no_bundled_front_has_what_a_verdict_calls_broken() -> None:
    from paperlab.core.verdict import BROKEN

    seen = 0
    for panel in comparing.compared(list(methods())).panels:
        for side in ("bytes", "build"):
            for p in comparing.offered(panel, side)[0]:
                assert not p.broken
                if panel.metric == "perplexity" and panel.original:
                    assert p.value.value <= BROKEN * panel.original.value.value
                    seen += 1
    assert seen > 10


def test_chance_is_a_floor_too() -> None:
    from paperlab.core.verdict import floor

    chance = {"kl": 0.8, "accuracy": 0.25}
    record = make(setting={"chance": chance})
    assert floor(record, "kl") == pytest.approx(0.4)
    assert floor(record, "accuracy") == pytest.approx(0.325)
    assert floor(record, "perplexity") is None


def test_compare_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        compare(["no-such-thing"], tmp_path, [make()], known=cards(make()), versions=VERSIONS)
    stopped = make(status="interrupted")
    with pytest.raises(ValueError, match="paperlab run easyquant"):
        compare(["easyquant"], tmp_path, [stopped], known=cards(stopped), versions=VERSIONS)


def test_formulas_in_csv_are_defused() -> None:
    check = make_check(method=Arm("=1+1"))
    text = comparing.to_csv(comparing.panels([summary(make(check))]))
    assert "'=1+1" in text


def test_labels_tell_arms_apart() -> None:
    arms = [Arm("a", {"bits": 4, "group": 8}), Arm("a", {"bits": 3, "group": 8}), Arm("b", {"bits": 4}), Arm("c"),
            Arm("c", {"bits": None})]  # fmt: skip
    assert comparing.labels(arms) == ["a bits=4", "a bits=3", "b", "c", "c(bits=None)"]
    after = [Arm("b"), Arm("b", after=Arm("a", {"bits": 4})), Arm("b", after=Arm("a", {"bits": 3}))]
    assert comparing.labels(after) == ["b", "b after a bits=4", "b after a bits=3"]


coordinates = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.5, math.nan]) | st.floats(-5, 5)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=14), st.sampled_from(["lower", "higher"]))
def test_front_is_the_brute_force_front(points: list[tuple[float, float]], better: Any) -> None:
    sign = 1 if better == "lower" else -1

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and sign * a[1] <= sign * b[1] and a != b

    whole = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    wanted = {i for i in whole if not any(dominates(points[j], points[i]) for j in whole)}
    found = comparing.front(points, better)
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


# ── numbers, colours ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "text"),
    [(23.41234, "23.41"), (18204.3, "18,204"), (0.03123, "0.03123"), (0, "0"), (-2.5, "−2.500"), (math.nan, "–"),
     (1.2e7, "1.2e+07"), (math.inf, "∞"), (9.9996, "10.00")],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0312, "+3.1 %"), (-0.0004, "−0.040 %"), (0.0, "±0 %"), (12.0, "+1,200 %"), (math.nan, "–"), (math.inf, "∞")],
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [charts.LIGHT, charts.DARK])
def test_contrasts_reach_wcag_aa(palette: dict[str, str]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for kind in ("holds", "direction", "fails", "undecided", "apart", "error"):
        assert contrast(palette[kind], palette[f"{kind}-ground"]) >= 4.5
    for text, ground in itertools.product(("ink", "soft", "link"), ("paper", "ground")):
        assert contrast(palette[text], palette[ground]) >= 4.5
    assert contrast(palette["ink"], palette["band"]) >= 4.5
    for mark in ("link", "error", "soft", "holds", "direction", "fails", "undecided", "apart"):
        assert contrast(palette[mark], palette["paper"]) >= 3
        assert contrast(palette[mark], palette["band"]) >= 3


def test_every_claim_is_at_a_glance(written: tuple[Path, str, list[Record]]) -> None:
    glance = written[1][written[1].index('id="glance"') :].split("</table>")[0]
    assert glance.count("<li>") == 4
    for word in ("✓ holds", "? undecided", "! error", "… interrupted"):
        assert word in glance
