"""Every page as it lies on the screen: nothing wider than the screen, nothing that moves, light enough, accessible."""

from typing import Any

import pytest
from page_check import Page as Parsed

# What a reader at this machine sees: lists, papers, then the pages where people do something, then those that say no.
PAGES = [
    "/", "/?week=2020-W01", "/trending", "/papers", "/families", "/families/quantization", "/search",
    "/search?q=quantization&verdict=holds", "/search?q=zzzzqqq&family=tts", "/search?year=soon", "/papers/easyquant",
    "/papers/2401.00095", "/papers/2401.00096", "/papers/mova", "/compare", "/compare/quantization",
    "/compare/quantization?at=time&sort=-bytes", "/compare/tts", "/coverage?family=quantization", "/about", "/feeds",
    "/api/", "/account", "/collections", "/collections/1", "/comments/1", "/submit", "/subscribe", "/sign-in", "/runs/",
    "/for-you", "/for-you?days=30", "/library", "/library?mine=saved&hide=read", "/?mine=unread", "/papers?mine=voted",
    "/coverage?mine=saved", "/search?q=attention&mine=unread",
    "/runs/1", "/papers/easyquant/run", "/unsubscribe/nothing", "/sign-in/nothing", "/papers/nothere", "/broken",
]  # fmt: skip
STATUS = {
    "/papers/nothere": 404, "/search?year=soon": 400, "/broken": 500, "/unsubscribe/nothing": 404,
    "/sign-in/nothing": 410,
}  # fmt: skip
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
KILOBYTES = 100

# Pairs of words and controls that lie on each other. Points of a plot may, and what is there for a reader's ear alone.
_OVERLAPS = """() => {
  const seen = (one) =>
    !one.closest("svg, dialog, .long, .hidden-word, .skip") && one.checkVisibility({ checkVisibilityCSS: true });
  const all = [...document.querySelectorAll("a, button, input, select, textarea, summary, h1, h2, h3, th, td, dt, dd")];
  const large = (one) => [...one.getClientRects()].filter((r) => r.width > 2 && r.height > 2);
  const boxes = all.filter(seen).flatMap((one) => large(one).map((r) => [one, r]));
  boxes.sort((a, b) => a[1].top - b[1].top);
  const found = [];
  for (let i = 0; i < boxes.length && found.length < 4; i++) {
    for (let j = i + 1; j < boxes.length && boxes[j][1].top < boxes[i][1].bottom; j++) {
      const [one, a] = boxes[i], [other, b] = boxes[j];
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 3 && high > 5 && !one.contains(other) && !other.contains(one)) {
        found.push(`${one.outerHTML.slice(0, 90)} on ${other.outerHTML.slice(0, 90)}: ${wide}x${high}`);
      }
    }
  }
  return found;
}"""
_SHIFT = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => { for (const e of list.getEntries()) if (!e.hadRecentInput) sum += e.value; })
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(sum), 200);
})"""


@pytest.mark.parametrize("path", PAGES)
def test_fits_every_width_in_both_modes_without_a_violation(opened: Any, path: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = []
    watched = opened()
    page = watched.page
    answer = page.goto(watched.site + path)
    assert answer.status == STATUS.get(path, 200)
    assert Parsed(answer.text()).wrong == []
    page.evaluate("document.querySelectorAll('.plain details').forEach((one) => { one.open = true })")
    for width, scheme in (
        (1440, "light"),
        (1440, "dark"),
        (768, "dark"),
        (768, "light"),
        (320, "light"),
        (320, "dark"),
    ):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{path} is {over} px too wide at {width}"
        if scheme == "light":
            found += [f"{width}: {said}" for said in page.evaluate(_OVERLAPS)]
        if (width, scheme) in ((1440, "light"), (320, "dark")):
            answer = Axe().run(page, options={"runOnly": {"type": "tag", "values": WCAG}}).response
            found += [
                f"{width} {scheme} {v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
                for v in answer["violations"]
            ]
    assert [said for said in watched.wrong if str(STATUS.get(path, "none")) not in said] == []
    assert found == []


@pytest.mark.parametrize(
    "path", ["/", "/search?q=quantization", "/papers/easyquant", "/compare/quantization", "/coverage"]
)
def test_first_paint_is_light_and_still(opened: Any, path: str) -> None:
    watched = opened()
    session = watched.page.context.new_cdp_session(watched.page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page = watched.go(path)
    page.wait_for_timeout(300)
    assert 0 < sum(sizes) / 1000 <= KILOBYTES, f"{path}: {sum(sizes) / 1000:.0f} kB in {len(sizes)} files"
    assert page.evaluate(_SHIFT) < 0.01


def _ground(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("scripts", [True, False])
def test_colours_are_chosen_and_stay(opened: Any, scripts: bool) -> None:
    watched = opened(scheme="dark", scripts=scripts)
    page = watched.go("/papers/easyquant")
    dark = _ground(page)
    assert page.get_by_role("button", name="System").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Light").click()
    page.wait_for_url("**/papers/easyquant")
    page.locator("html[data-theme=light]").wait_for()
    light = _ground(page)
    assert light != dark
    assert _ground(watched.go("/about")) == light
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Dark").click()
    page.locator("html[data-theme=dark]").wait_for()
    assert page.url.endswith("/about")
    assert _ground(page) == dark
    page.get_by_role("button", name="System").click()
    page.locator("html:not([data-theme])").wait_for()
    assert _ground(page) == light
    assert watched.wrong == []


def test_a_plot_is_looked_at_closer(opened: Any) -> None:
    watched = opened()
    page = watched.go("/compare/quantization")
    plot = page.locator("figure[data-zoom] svg")
    whole = plot.get_attribute("viewBox")
    mark = plot.locator("a.mark .dot").first
    size = mark.bounding_box()["width"]
    page.get_by_role("button", name="Closer").click()
    near = plot.get_attribute("viewBox")
    assert float(near.split()[2]) == float(whole.split()[2]) / 2
    assert abs(mark.bounding_box()["width"] - size) < 0.5  # what lay on each other comes apart
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 150)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    moved = f"() => document.querySelector('figure[data-zoom] svg').getAttribute('viewBox') !== '{near}'"
    page.wait_for_function(moved)
    before = plot.get_attribute("viewBox")
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 130, steps=3)
    page.mouse.up()
    assert plot.get_attribute("viewBox") != before
    page.get_by_role("button", name="All of it").click()
    assert plot.get_attribute("viewBox") == whole.replace("0 0 ", "0 0 ")
    plot.locator("a.mark").first.focus()
    page.keyboard.press("Enter")
    page.locator("tr:target").wait_for()
    assert watched.wrong == []
    plain = opened(scripts=False).go("/compare/quantization")
    assert plain.locator("svg.plot a.mark").count() > 20
    assert plain.get_by_role("button", name="Closer").count() == 0
