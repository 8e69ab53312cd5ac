"""Parts of the pages by themselves: maths, plots, pictures, bands."""

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

    from paperlab.site.maths import html
    from paperlab.site.pages.text import rich

    for said in (html(inside), html(inside, True), rich(f"a ${inside}$ b"), rich(f"$${inside}$$")):
        page = Page(said)
        assert page.wrong == []
        assert page.links == []
        assert "<script" not in said
        assert "<img" not in said


def test_a_beginning_ends_outside_of_formulas() -> None:
    from paperlab.site.pages.text import beginning

    text = "word " * 60 + r"$\alpha + \beta + \gamma$ and more words after it"
    assert beginning(text, 310).count("$") in (0, 2)


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
