"""Parts of the pages by themselves: maths, plots, pictures, bands."""

import re
from typing import Any
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


def test_a_card_escapes_whatever_it_holds() -> None:
    """Text that nobody marked as HTML, in every place of a card, also in those that hold HTML."""
    from typing import get_type_hints

    from page_check import Page

    from paperlab.site.pages.cards import Badge, Card, Link
    from paperlab.site.pages.drawing import card
    from paperlab.site.people.voting import Fields, html

    bad = "\"'><i onclick=alert(1)>&"
    given: dict[str, Any] = {name: bad for name, kind in get_type_hints(Card).items() if "str" in str(kind).lower()}
    given |= {"key": 1, "more": 2, "day": None, "year": 2024, "votes": 3, "comments": 4, "withdrawn": True}
    given |= {"badges": (Badge("fails", 2, bad),), "links": (Link("https://x.example/", bad, bad),)}
    given |= {"keywords": (bad, bad), "snippet": bad, "why": bad}
    one = Card(**given)
    for explain in (False, True):
        for form in (None, Fields("", "")):
            drawn = card(one, html(bad, 1, bad, True, form), 3, explain)
            assert "<i " not in drawn
            page = Page(drawn)
            assert page.wrong == []
            assert drawn.count("&gt;&lt;i onclick=alert(1)&gt;&amp;") >= 12


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


def _rows(said: str) -> list[str]:
    """What the table's rows say, by configuration."""
    from html import unescape

    return [unescape(row) for row in re.findall(r'<code class="soft">(.*?)</code>', said)]


def test_the_table_is_narrowed_by_method_bits_and_domination(store: None) -> None:
    from django.test import Client

    from paperlab.site.pages.comparing import bits_of, keys
    from paperlab.site.pages.figures import compared

    client = Client(headers={"host": "localhost"})
    panels = compared("quantization").panels
    some = 0
    for key, panel in zip(keys(panels), panels, strict=True):

        def ask(**given: str) -> str:
            answer = client.get("/compare/quantization", {"in": key, **given})  # noqa: B023
            assert answer.status_code == 200
            return str(answer.content.decode())

        every = _rows(ask())
        assert sorted(every) == sorted(str(p.arm) for p in panel.points)
        shown = {show: _rows(ask(show=show)) for show in ("front", "dominated", "broken")}
        assert sorted(row for rows in shown.values() for row in rows) == sorted(every)
        assert sorted(shown["front"]) == sorted(str(p.arm) for p in panel.points if "bytes" in p.on)
        assert sorted(shown["broken"]) == sorted(str(p.arm) for p in panel.points if p.broken)
        for method in {p.arm.method for p in panel.points}:
            wanted = [p for p in panel.points if p.arm.method == method]
            said = ask(method=method, sort="-bytes")
            assert sorted(_rows(said)) == sorted(str(p.arm) for p in wanted)
            assert f'<option value="{method}" selected>' in said
            assert 'name="sort" value="-bytes"' in said  # the form keeps the order, the heads keep the filter
            assert f"method={method}" in said.partition("<thead>")[2].partition("</thead>")[0]
            assert said.count('class="mark') == ask().count('class="mark')  # the plot stays whole
            some += len(wanted) < len(every)
        four = [str(p.arm) for p in panel.points if bits_of(p) == "4"]
        if four and len(four) < len(every):
            assert sorted(_rows(ask(bits="4"))) == sorted(four)
            both = [str(p.arm) for p in panel.points if bits_of(p) == "4" and "bytes" in p.on]
            assert sorted(_rows(ask(bits="4", show="front"))) == sorted(both)
        for bad in ({"method": "<script>"}, {"bits": "99999999999"}, {"show": "x" * 5000}):
            assert _rows(ask(**bad)) == every  # what the setting does not have is no filter
    assert some > 5
    nothing = client.get("/compare/quantization", {"method": "original", "show": "front"}).content.decode()
    assert "No configuration matches these filters" in nothing
    assert "Clear filters" in nothing


def test_a_front_leads_with_what_one_would_take(store: None) -> None:
    from paperlab.site.pages.comparing import keys, section
    from paperlab.site.pages.figures import compared

    found = compared("quantization")
    for key, panel in zip(keys(found.panels), found.panels, strict=True):
        for at in ("bytes", "time"):
            one = section(panel, key, at, "", False, found)
            assert all(not choice.line.point.broken and choice.line.point is not panel.original for choice in one.front)
            assert [bool(choice.why) for choice in one.front] == [True, *[False] * (len(one.front) - 1)][
                : len(one.front)
            ]
            rest = [choice.line.point.value.value for choice in one.front[1:]]
            assert rest == sorted(rest, reverse=panel.better == "higher")


def test_bits_are_those_that_were_asked_for() -> None:
    from paperlab.site.pages.comparing import bits_of
    from paperlab.site.pages.figures import compared

    panels = [panel for panel in compared("quantization").panels if panel.task == "lm_compress"]
    said = {str(p.arm): bits_of(p) for panel in panels for p in panel.points}
    assert (said["gptq(bits=3)"], said["round-to-nearest(bits=4)"], said["original"]) == ("3", "4", "16")
    assert said["baq(mean_bits=3.0)"] == "3"
    assert said["easyquant(bits=4, n_std=1000.0)"] == "4"


@pytest.mark.usefixtures("_django")
def test_all_families_that_make_a_model_smaller_stand_together() -> None:
    from django.test import Client

    from paperlab.core.methods import methods
    from paperlab.site.pages.figures import compared

    panels = compared("compression").panels
    models = {panel.model for panel in panels}
    families = {methods()[p.arm.method].card.family for panel in panels for p in panel.points}
    assert {"quantization", "pruning"} <= families
    assert {"abstracts-lm", "smollm2-135m"} <= models
    both = [panel for panel in panels if len({methods()[p.arm.method].card.family for p in panel.points}) > 1]
    assert both
    client = Client(headers={"host": "localhost"})
    page = client.get("/compare").content.decode()
    assert 'href="/compare/compression"' in page
    assert "<h1>Compare compression</h1>" in client.get("/compare/compression").content.decode()


def test_settings_are_named_apart() -> None:
    from paperlab.site.pages.comparing import keys, named
    from paperlab.site.pages.figures import compared, families

    for family, _ in families():
        panels = compared(family).panels
        for said in (named(panels), keys(panels)):
            assert len(set(said)) == len(panels)
        assert not [one for one in named(panels) for word in one if "version" in word]
    panels = compared("quantization").panels
    assert keys(panels)[1:] == keys(panels[1:])  # a setting that goes leaves the addresses of the others alone


def test_a_setting_is_chosen_by_task_then_data_then_machine(store: None) -> None:
    """Every setting is reached by links; the machine is asked only where several have the same, the fullest first."""
    from django.test import Client

    from paperlab.site.pages.comparing import keys
    from paperlab.site.pages.figures import compared

    panels = dict(zip(keys(compared("quantization").panels), compared("quantization").panels, strict=True))
    same = lambda p: (p.model, p.task, p.version, p.data, p.scale, p.seeds)  # noqa: E731
    client, steps, waiting = Client(headers={"host": "localhost"}), {}, [""]
    while waiting:
        address = waiting.pop()
        said = client.get(f"/compare/quantization{address}").content.decode()
        levels = re.findall(r'<span class="soft small" id="step-\d">([^<,]*).*?</span> (.*?)</div>', said)
        found = {name: re.findall(r'href="(.*?)"( aria-current="true")?', links) for name, links in levels}
        chosen = {href.replace("&amp;", "&") for links in found.values() for href, current in links if current}
        assert len(chosen) == 1  # every level shows where one is
        steps[re.search("in=([^&]+)", chosen.pop())[1]] = found  # type: ignore[index]
        new = {href.replace("&amp;", "&") for links in found.values() for href, _ in links}
        waiting += [one for one in new if re.search("in=([^&]+)", one)[1] not in steps and one not in waiting]  # type: ignore[index]
    assert set(steps) == set(panels)
    for key, found in steps.items():
        twins = [p for p in panels.values() if same(p) == same(panels[key])]
        assert len(found.get("Machine", ())) == (len(twins) if len(twins) > 1 else 0)
        assert len(found["Model and task"]) == len({(p.model, p.task) for p in panels.values()}) < 12
        for href, current in found["Model and task"]:
            led = panels[re.search("in=([^&]+)", href)[1]]  # type: ignore[index]
            rest = [len(p.points) for p in panels.values() if (p.model, p.task) == (led.model, led.task)]
            assert current or len(led.points) == max(rest)
        for href, _ in found.get("Data", ()):
            led, here = panels[re.search("in=([^&]+)", href)[1]], panels[key]  # type: ignore[index]
            there = {p.machine for p in panels.values() if same(p) == same(led)}
            assert (led.machine == here.machine) == (here.machine in there)


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
