"""Charts: well formed whatever they hold, everything inside, labels clear of points and of each other."""

import itertools
import math
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlab.core import charts, panels, summaries
from paperlab.core.charts import Bar, Spot
from paperlab.core.methods import methods

BAD = 'x" onload="alert(1)"><script>\x00]]>&'
SHEET = Path(charts.__file__).parents[1] / "site" / "pages" / "static" / "pages" / "site.css"
SVG = "{http://www.w3.org/2000/svg}"


def inside(chart: charts.Chart) -> ET.Element:
    return ET.fromstring(chart.inline("k"))


def words(node: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in node.iter() if text.tag.endswith("text")]


BARS = [
    Bar(BAD, 0.1, -math.inf, math.inf, "undecided", "undecided", "#a"),
    Bar("b", -700.0, -800.0, -650.0, "fails", "fails", '#"><script>'),
    Bar("c", 0.0, math.nan, math.nan, "holds", "holds", "#c"),
    Bar("gone", math.nan, math.nan, math.nan, "error", "error", "#d"),
]
SPOTS = [Spot(BAD, 10.0**n, float(n), n - 1.0, n + 1.0, "#x", n % 2 == 0) for n in range(-3, 5)]


def drawn() -> list[charts.Chart]:
    made = [charts.gains(BARS, margin=0.02, expect=expect, wide=wide) for expect in ("lower", "equal")
            for wide in (360, 560)]  # fmt: skip
    made += [charts.arms(BARS, metric=BAD, better="lower"), charts.arms(BARS[2:3], metric="kl", better="higher")]
    made += [charts.pareto(its, cost="MB", quality=BAD, better="lower") for its in (SPOTS, SPOTS[:1])]
    return [chart for chart in made if chart is not None]


@pytest.mark.parametrize("chart", drawn())
def test_well_formed_and_named_whatever_it_holds(chart: charts.Chart) -> None:
    root = inside(chart)
    assert root.get("aria-labelledby") == root.find("title").get("id") == "k-t"
    assert root.get("aria-describedby") == root.find("desc").get("id") == "k-d"
    for tree in (root, ET.fromstring(chart.file(BAD, charts.DARK))):
        assert not [node for node in tree.iter() if node.tag.endswith("script")]
        assert not [name for node in tree.iter() for name in node.attrib if name.startswith("on")]
    file = chart.file("A heading & more")
    assert "var(" not in file, "a file of its own has its colours written out"
    assert "href" not in file, "a file of its own leads nowhere"
    assert "A heading & more" in words(ET.fromstring(file))


def test_nothing_to_draw_is_none() -> None:
    assert charts.gains(BARS[3:], margin=0.02, expect="lower") is None
    assert charts.arms(BARS[3:], metric="m", better="lower") is None
    assert charts.pareto([], cost="MB", quality="q", better="lower") is None
    assert charts.pareto([Spot("a", math.nan, 1, 1, 1, "#", False)], cost="MB", quality="q", better="lower") is None


def test_one_mark_for_each_figure() -> None:
    assert [len(inside(chart).findall("a")) for chart in drawn()] == [3, 3, 3, 3, 3, 1, 8, 1]


def test_bars_lie_within_in_the_order_of_their_gains() -> None:
    gains = (-3.0, -0.01, 0.0, 0.02, 9.0)
    chart = charts.gains(
        [Bar(str(g), g, g - 0.1, g + 0.1, "", "holds", "#") for g in gains], margin=0.02, expect="higher"
    )
    assert chart is not None
    places = [float(dot.get("cx", "nan")) for dot in inside(chart).iter("circle")]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < charts.WIDE


def test_intervals_without_end_run_to_the_edge_and_are_said() -> None:
    chart = charts.gains([Bar("one seed", 0.1, -math.inf, math.inf, "undecided", "undecided", "#")], margin=0.02,
                         expect="equal")  # fmt: skip
    assert chart is not None
    assert "[−∞, ∞]" in chart.description
    assert "90 % intervals" in chart.note
    (reach,) = [line for line in inside(chart).iter("line") if line.get("class") == "reach"]
    assert (float(reach.get("x1", 0)), float(reach.get("x2", 0))) == (12, charts.WIDE - 12)


numbers = st.one_of(st.floats(-1e6, 1e6), st.floats(0, 1e-6), st.sampled_from([0.0, 1.0, 1e9, math.nan, math.inf]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers, st.booleans()), min_size=1, max_size=12))
def test_every_place_is_a_number_within_the_frame(figures: list[Any]) -> None:
    spots = [Spot(f"arm {i}", *its[:4], "#", its[4]) for i, its in enumerate(figures)]
    bars = [Bar(f"arm {i}", *its[1:4], "", "holds", "#") for i, its in enumerate(figures)]
    made = (
        charts.pareto(spots, cost="MB", quality="q", better="lower"),
        charts.gains(bars, margin=0.1, expect="lower"),
        charts.arms(bars, metric="m", better="lower"),
    )
    for chart in made:
        if chart is None:
            continue
        assert "nan" not in chart.parts
        assert "inf" not in chart.parts
        for node in inside(chart).iter():
            if (node.get("class") or "").startswith("whisker"):
                assert 20 <= float(node.get("y1", 0)) <= float(node.get("y2", 0)) <= 262
            for name in ("cx", "x", "x1", "x2"):
                assert -1 <= float(node.get(name, "0")) <= chart.wide + 1


BoxOf = tuple[float, float, float, float]


def box_of(text: ET.Element) -> BoxOf:
    """Where the letters of a text lie, in the widest usual font at its largest."""
    x, y, wide = float(text.get("x", 0)), float(text.get("y", 0)), charts.text_width("".join(text.itertext()))
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "start")]
    return left, y - 10, left + wide, y + 3


def meet(a: BoxOf, b: BoxOf) -> bool:
    return a[0] < b[2] - 0.2 and b[0] < a[2] - 0.2 and a[1] < b[3] - 0.2 and b[1] < a[3] - 0.2


def assert_clear(chart: charts.Chart) -> int:
    """No label on a point, a tick, an axis' words, an axis' end or another label, all within; how many labels."""
    root = inside(chart)
    texts = [node for node in root.iter() if node.tag.endswith("text")]
    names = [box_of(text) for text in texts if text.get("class") == "name"]
    words = [box_of(text) for text in texts if text.get("class") != "name"]
    hits = [node for node in root.iter() if node.get("class") == "hit"]
    points = [(float(hit.get("cx", 0)), float(hit.get("cy", 0))) for hit in hits]
    grid = [node for node in root.iter() if node.get("class") in ("grid", "zero")]
    left = min(float(line.get("x1", 0)) for line in grid)
    low = max(float(line.get("y2", 0)) for line in grid)
    lanes = [node for node in grid if node.get("class") == "zero"]
    for a, b in itertools.combinations([*names, *words], 2):
        assert not meet(a, b), (a, b)
    for box in [*names, *words]:
        assert -0.1 <= box[0] <= box[2] <= chart.wide + 0.1
        assert 0 <= box[1] <= box[3] <= chart.high
    for x, y in points:
        assert left <= x <= chart.wide, "a point beyond the axis' ends"
        for box in [*names, *words]:
            assert not meet(box, (x - 6, y - 6, x + 6, y + 6)), (box, x, y)
    for box in names:
        assert left <= box[0], "a label on the upright axis"
        assert box[3] <= low, "a label on the level axis"
        for line in lanes:
            ends = tuple(float(line.get(name, 0)) for name in ("x1", "y1", "x2", "y2"))
            assert not meet(box, (ends[0] - 0.5, ends[1] - 0.5, ends[2] + 0.5, ends[3] + 0.5)), (
                "a label on a lane's line"
            )
    return len(names)


@pytest.mark.parametrize("wide", [360, 560])
@pytest.mark.parametrize("seed", range(8))
def test_labels_of_a_crowd_are_clear_of_points_axes_and_each_other(wide: float, seed: int) -> None:
    rng = random.Random(seed)
    places = [(rng.uniform(40, 60), math.exp(rng.gauss(3, seed / 4))) for _ in range(40)]
    on = panels.front(places, "lower")
    spots = [Spot(f"method-{i} bits=4", c, v, v * 0.98, v * 1.02, "#", i in on) for i, (c, v) in enumerate(places)]
    chart = charts.pareto(spots, cost="size of the model, MB", quality="perplexity", better="lower", wide=wide)
    assert chart is not None
    count = assert_clear(chart)
    assert count >= len(on) - 1, "the front is named"
    assert f"{len(spots) - count} not named" in chart.note


def real() -> list[tuple[str, panels.Panel]]:
    found = panels.compared(list(methods()), summaries.read(strict=False), methods()).panels
    return [(f"{panel.here} {side}", panel) for panel in found for side in ("bytes", "build")]


@pytest.mark.parametrize(("said", "panel"), real())
def test_labels_of_every_bundled_setting_are_clear(said: str, panel: panels.Panel) -> None:
    side = said.split()[-1]
    labels = panels.labels([p.arm for p in panel.points])
    spots = [Spot(label, getattr(p, side), p.value.value, p.value.low, p.value.high, "#", side in p.on,
                  p is panel.original, p.broken) for p, label in zip(panel.points, labels, strict=True)]  # fmt: skip
    for wide in (360.0, 560.0):
        chart = charts.pareto(spots, cost="cost", quality=panel.metric, better=panel.better, wide=wide)  # type: ignore[arg-type]
        if chart is not None:
            assert assert_clear(chart) >= (wide > 400)  # a long name may fit nowhere on a telephone


def spots_of(values: list[float], front: int = 0) -> list[Spot]:
    return [Spot(f"m{i}", float(10 + i), v, v, v, "#", i == front) for i, v in enumerate(values)]


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_outliers_stand_in_a_lane_that_says_how_far_they_go(better: Any) -> None:
    values = [30.0, 31.0, 32.0, 33.0, 34.0, 30.5, 286.0, 900.0]
    if better == "higher":
        values = [1000 - v for v in values]
    chart = charts.pareto(spots_of(values), cost="MB", quality="q", better=better)
    assert chart is not None
    heights = {mark.find("title").text.split(":")[0]: float(mark.find("circle").get("cy"))  # type: ignore[union-attr]
               for mark in inside(chart).iter("a")}  # fmt: skip
    kept = [heights[f"m{i}"] for i in range(6)]
    assert max(kept) - min(kept) > 120, "the others have the axis to themselves"
    lane = {heights["m6"], heights["m7"]}
    assert len(lane) == 1
    assert (lane.pop() < min(kept) - 10) if better == "lower" else (lane.pop() > max(kept) + 10)
    said = "↑ 2 beyond the axis, up to 900" if better == "lower" else "↓ 2 beyond the axis, down to 100"
    assert [text for text in words(inside(chart)) if "beyond" in text] == [f"{said}.0"]
    assert "triangles: beyond the axis" in chart.note
    figure = "900.0" if better == "lower" else "100.0"
    assert f"m7: q {figure} " in chart.parts  # the figure itself stands in its title
    assert_clear(chart)


@pytest.mark.parametrize(
    ("values", "front"),
    [([30.0, 31.0, 32.0, 33.0], 0), ([1.0, 10.0, 100.0, 1000.0, 5000.0], 0), ([30.0, 31.0, 286.0], 0),
     ([1.0, 1.1, 1.2, 1.3, 50.0], 4), ([2.0] * 5 + [9.0], 0), ([7.0], 0)],
)  # fmt: skip
def test_nothing_is_cut_where_values_are_even_few_or_on_the_front(values: list[float], front: int) -> None:
    chart = charts.pareto(spots_of(values, front), cost="MB", quality="q", better="lower")
    assert chart is not None
    assert "beyond" not in chart.parts


def test_what_diverged_and_what_costs_far_more_stand_at_their_edges() -> None:
    spots = [
        Spot("inf", 12.0, math.inf, math.nan, math.nan, "#", False, broken=True),
        Spot("dear", 4000.0, 31.0, 30.0, 32.0, "#", False),
        *spots_of([30.0, 31.0, 32.0, 33.0, 34.0, 35.0]),
    ]
    chart = charts.pareto(spots, cost="MB", quality="q", better="lower")
    assert chart is not None
    assert [text for text in words(inside(chart)) if "beyond" in text] == [
        "↑ 1 beyond the axis, up to ∞", "1 beyond the axis, up to 4,000 →",
    ]  # fmt: skip
    assert "beyond the axis; broken" in chart.parts
    assert charts.pareto(spots[:1], cost="MB", quality="q", better="lower") is None
    assert_clear(chart)


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e9))
def test_ticks_are_few_round_and_as_long_as_they_are_readable(low: float, ratio: float) -> None:
    chart = charts.pareto(
        [Spot("a", low, low, low, low, "#", True), Spot("b", low * ratio, low * ratio, low, low, "#", False)],
        cost="MB", quality="q", better="lower",
    )  # fmt: skip
    assert chart is not None
    for kind in ("tick", "tick across"):
        ticks = ["".join(t.itertext()) for t in inside(chart).iter() if t.get("class") == kind]
        assert 2 <= len(ticks) <= 13
        assert len(set(ticks)) == len(ticks)
        assert max(map(len, ticks)) <= 13
        assert "e" not in "".join(ticks)
    assert_clear(chart)


def test_ticks_of_logarithmic_axes() -> None:
    assert charts.log_ticks(0.02, 0.9) == [0.02, 0.05, 0.1, 0.2, 0.5]
    said = [charts._short(v) for v in (1e-5, 2e6, 0.05, 20_000.0, -3.0, 0.0, 1e12)]
    assert said == ["10⁻⁵", "2·10⁶", "0.05", "20,000", "−3", "0", "10¹²"]


def test_a_long_text_loses_its_middle() -> None:
    assert charts.fitting("abcdefghij", 10) == "abcdefghij"
    for room in range(2, 10):
        short = charts.fitting("abcdefghij", room)
        assert len(short) == room
        assert short.startswith("a")
    assert charts.fitting("abcdefghij", 7) == "abcd…ij"


def test_the_sites_sheet_repeats_the_style_and_the_colours() -> None:
    sheet = SHEET.read_text(encoding="utf-8")
    assert charts.STYLE in sheet
    assert set(charts.LIGHT) == set(charts.DARK)
    for name, light in charts.LIGHT.items():
        found = re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", sheet)
        assert found, name
        assert found.groups() == (light, charts.DARK[name])


def test_every_class_in_use_is_styled() -> None:
    used = {word for chart in drawn() for its in re.findall(r'class="([^"]*)"', chart.parts) for word in its.split()}
    styled = set(re.findall(r"\.([a-z]+)", charts.STYLE))
    assert used - styled <= {"name", "across", "undecided", "error"}, "those look like their parents"
