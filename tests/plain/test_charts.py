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

from paperlab.core import charts
from paperlab.core.charts import Bar, Spot

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


@pytest.mark.parametrize("wide", [360, 560])
def test_labels_of_a_crowd_are_clear_of_points_and_each_other(wide: float) -> None:
    rng = random.Random(3)
    places = [(rng.uniform(40, 60), rng.uniform(20, 30)) for _ in range(40)]
    spots = [Spot(f"method-{i} bits=4", c, v, v - 0.1, v + 0.1, "#", i % 4 == 0) for i, (c, v) in enumerate(places)]
    chart = charts.pareto(spots, cost="MB", quality="q", better="lower", wide=wide)
    assert chart is not None
    root, boxes, points = inside(chart), [], []
    for mark in root.iter("a"):
        hit = next(node for node in mark.iter("circle") if node.get("class") == "hit")
        points.append((float(hit.get("cx", 0)), float(hit.get("cy", 0))))
        for text in mark.iter("text"):
            x, y, said = float(text.get("x", 0)), float(text.get("y", 0)), text.text or ""
            boxes.append((x, y - 9, x + charts.LETTER * len(said), y + 3))
    assert len(boxes) >= (5 if wide == 360 else 12)
    assert f"{len(spots) - len(boxes)} not named" in chart.note
    for a, b in itertools.combinations(boxes, 2):
        assert not (a[0] < b[2] - 0.2 and b[0] < a[2] - 0.2 and a[1] < b[3] - 0.2 and b[1] < a[3] - 0.2)
    for box in boxes:
        assert not [p for p in points if box[0] - 5 < p[0] < box[2] + 5 and box[1] - 5 < p[1] < box[3] + 5]


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
