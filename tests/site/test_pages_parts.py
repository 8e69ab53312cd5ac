"""Parts of the pages by themselves: maths, plots, pictures, bands."""

import math
from xml.etree import ElementTree

import pytest


@pytest.fixture(autouse=True)
def _django(tables: None) -> None:
    """The modules of the site import settings."""


def test_maths_becomes_mathml_and_the_rest_is_escaped() -> None:
    from paperlab.site.pages.text import rich

    said = rich(r"Cost $\mathcal{O}(n^2)$ <b> at \$5, \emph{twice} & 5\%")
    assert "<math" in said
    assert "<msup><mi>n</mi><mn>2</mn></msup>" in said
    assert "&lt;b&gt; at $5, <em>twice</em> &amp; 5%" in said
    ElementTree.fromstring(f"<p>{said}</p>")


@pytest.mark.parametrize(
    "text", ["costs $5 and $10", "from $5 to $10", "a $ b", "US$5 or A$6", "$", "$$", "no dollars"]
)
def test_money_is_money(text: str) -> None:
    from paperlab.site.pages.text import rich

    assert "<math" not in rich(text)


@pytest.mark.parametrize(
    "inside",
    [
        r"\text{</mtext></math><script>alert(1)</script>}", r"\href{javascript:alert(1)}{x}", r"\style{color:red}{x}",
        r"\class{x}{y}", "<script>alert(1)</script>", r"\mathrm{<img src=x onerror=alert(1)>}", r"\unicode{x3c}script",
        "{" * 200, "^" * 50, r"\frac" * 60, r"\left(" * 80, r"\begin{matrix}" * 20, "&lt;script&gt;", r"\&#60;script",
        r"\text{&#60;script&#62;alert(1)}", r"\color{expression(alert(1))}{x}", r"\cssId{a}{b}", r"\require{x}",
    ],
)  # fmt: skip
def test_no_formula_breaks_out(inside: str) -> None:
    from page_check import Page

    from paperlab.site.pages.text import formula, rich

    for said in (formula(inside), formula(inside, True), rich(f"a ${inside}$ b"), rich(f"$${inside}$$")):
        page = Page(said)
        assert page.wrong == []
        assert page.links == []
        assert "<script" not in said
        assert "<img" not in said


def test_a_beginning_ends_outside_of_formulas() -> None:
    from paperlab.site.pages.text import beginning

    text = "word " * 60 + r"$\alpha + \beta + \gamma$ and more words after it"
    assert beginning(text, 310).count("$") in (0, 2)


def test_plots_are_well_formed_whatever_they_hold() -> None:
    from paperlab.site.pages.plots import Bar, Spot, gains, pareto

    bad = 'x" onload="alert(1)"><script>\x00'
    bars = [
        Bar(bad, 0.1, -math.inf, math.inf, "undecided", "undecided", "#a"),
        Bar("b", -700.0, -800.0, -650.0, "fails", "fails", '#"><script>'),
        Bar("c", 0.0, math.nan, math.nan, "holds", "holds", "#c"),
    ]
    for expect in ("lower", "equal"):
        drawn = gains(bars, margin=0.02, expect=expect, key="k")
        assert drawn is not None
        root = ElementTree.fromstring(drawn)
        assert len(root.findall("a")) == 3
        assert not root.findall(".//script")
    assert gains([Bar("a", math.nan, 0, 0, "error", "error", "#")], margin=0.0, expect="lower", key="k") is None
    spots = [Spot(bad, 10.0**n, float(n), n - 1.0, n + 1.0, "#x", n % 2 == 0) for n in range(-3, 5)]
    for some in (spots, spots[:1], [Spot("nan", math.nan, 1, 1, 1, "#", False), *spots]):
        drawn = pareto(some, cost="MB", quality="ppl", better="lower", key="p")
        assert drawn is not None
        assert len(ElementTree.fromstring(drawn).findall("a")) == len([s for s in some if s.cost == s.cost])
    assert pareto([], cost="MB", quality="ppl", better="lower", key="p") is None


def test_points_of_a_plot_lie_within_it() -> None:
    from paperlab.site.pages.plots import WIDE, Bar, gains

    bars = [
        Bar(str(n), g, g - 0.1, g + 0.1, "holds", "holds", "#") for n, g in enumerate((-3.0, -0.01, 0.0, 0.02, 9.0))
    ]
    drawn = gains(bars, margin=0.02, expect="higher", key="k")
    assert drawn is not None
    places = [float(dot.get("cx", "nan")) for dot in ElementTree.fromstring(drawn).iter("circle")]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < WIDE


def test_arms_own_intervals_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    from paperlab.core.record import read
    from paperlab.site.pages.figures import value

    record = next(r for r in read() if r.status == "finished" and r.metrics[r.metric].aggregate == "exp_mean")
    arm = record.arms[0]
    ours = value(record, arm, record.metric)
    samples = [x for seed in arm.samples.values() for x in seed[record.metrics[record.metric].of]]
    if len(arm.samples) == 1:
        low, high = stats.t.interval(0.95, len(samples) - 1, stats.tmean(samples), stats.sem(samples))
        assert ours.low == pytest.approx(math.exp(low))
        assert ours.high == pytest.approx(math.exp(high))
    assert ours.low < ours.value < ours.high


def test_bands_hold_only_what_is_equal() -> None:
    from paperlab.site.pages.comparing import NEAR, Line, banded
    from paperlab.site.pages.figures import compared

    for panel in compared("quantization").panels:
        lines = [Line(p, str(p.arm), "", False, ()) for p in panel.points]
        for at, of in (("bytes", lambda p: p.bytes), ("time", lambda p: p.build), ("quality", lambda p: p.value.value)):
            bands = banded(lines, panel, at)
            assert sorted(line.label for _, band in bands for line in band) == sorted(line.label for line in lines)
            for said, band in bands:
                figures = [of(line.point) for line in band]
                if said != "not measured" and min(figures) > 0:
                    assert max(figures) / min(figures) <= NEAR[at]


def test_pictures_hold_any_title() -> None:
    import io

    from PIL import Image

    from paperlab.site.pages.pictures import SIZE, draw, drawable, wrapped
    from paperlab.site.pages.pictures import _font as font

    for title in ("A", "word " * 100, "x" * 400, drawable("Žluťoučký kůň 日本 ✓"), ""):
        picture = Image.open(io.BytesIO(draw(title, "who · 2024", (("holds", "holds 9"), ("fails", "fails")))))
        assert picture.size == SIZE
    assert drawable("Žluťoučký 日本") == "Zlutoucký"
    lines = wrapped("many words that do not fit " * 10, font(60, 600), 600, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")


def test_bibtex_escapes_and_names() -> None:
    from paperlab.site.pages.paper import bibtex
    from paperlab.site.store.models import Paper

    row = Paper(
        title="50% of {A} & B_c", authors=["Ada Lovelace", "Å. Ö"], arxiv="2401.00001", year=2024, categories=["cs.CL"]
    )
    said = bibtex(row)
    assert said.startswith("@misc{lovelace2024")
    assert r"{50\% of \{A\} \& B\_c}" in said
    assert "Ada Lovelace and Å. Ö" in said
    assert "primaryClass" in said
