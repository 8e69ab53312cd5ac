"""Every page as it lies on the screen: nothing wider than the screen, nothing that moves, light enough, accessible."""

import io
from typing import Any

import pytest
from page_check import Page as Parsed
from PIL import Image, ImageOps

# What a reader at this machine sees: lists, papers, then the pages where people do something, then those that say no.
PAGES = [
    "/", "/?week=2020-W01", "/trending", "/papers", "/families", "/families/quantization", "/search",
    "/search?q=quantization&verdict=holds", "/search?q=zzzzqqq&family=tts", "/search?year=soon", "/papers/easyquant",
    "/papers/2401.00095", "/papers/2401.00096", "/papers/mova", "/compare", "/compare/quantization",
    "/compare/quantization?at=time&sort=-bytes&method=gptq", "/compare/tts", "/coverage?family=quantization", "/about",
    "/feeds", "/api/", "/account", "/collections", "/collections/1", "/moderation", "/moderation?show=latest",
    "/moderation?show=closed", "/moderation?show=trail", "/comments/1", "/report/comment/2", "/submit", "/subscribe",
    "/sign-in", "/for-you", "/for-you?days=30", "/library", "/library?mine=saved&hide=read", "/?mine=unread",
    "/papers?mine=voted", "/coverage?mine=saved", "/search?q=attention&mine=unread", "/runs/", "/runs/1", "/runs/2",
    "/groups", "/groups/1", "/groups/2", "/groups/meetings/1", "/groups/meetings/3", "/groups/join/nothing", "/replies",
    "/replies/3", "/replies/4", "/papers/easyquant/reply", "/moderation?show=latest&kind=meeting",
    "/moderation?show=latest&kind=note", "/report/reply/1", "/report/collection/2", "/report/note/3",
    "/papers/easyquant/run", "/unsubscribe/nothing", "/sign-in/nothing", "/papers/nothere", "/broken",
]  # fmt: skip
STATUS = {
    "/papers/nothere": 404, "/search?year=soon": 400, "/broken": 500, "/unsubscribe/nothing": 404,
    "/sign-in/nothing": 410, "/groups/join/nothing": 410,
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
    urls: dict[str, str] = {}
    sizes: dict[str, float] = {}
    session.on("Network.requestWillBeSent", lambda event: urls.update({event["requestId"]: event["request"]["url"]}))
    session.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    page = watched.go(path)
    page.wait_for_timeout(300)
    pictures = [size for key, size in sizes.items() if "/teasers/" in urls[key]]  # each comes when it nears the screen
    rest = (sum(sizes.values()) - sum(pictures)) / 1000
    assert 0 < rest <= KILOBYTES, f"{path}: {rest:.0f} kB in {len(sizes) - len(pictures)} files"
    assert max(pictures, default=0) <= 13_000
    assert page.evaluate(_SHIFT) < 0.01


_BRACKETS = """() => [...document.querySelectorAll(".prose mo")].filter((one) => "([".includes(one.textContent))
  .map((one) => [one.textContent, one.getBoundingClientRect().height])"""


def _ink(picture: bytes, dark: bool) -> list[tuple[float, float] | None]:
    """Of each column of a picture: where its ink begins and ends, from 0 at the top to 1; None where there is none."""
    grey = Image.open(io.BytesIO(picture)).convert("L")
    ink = (ImageOps.invert(grey) if dark else grey).point(lambda light: 255 * (light < 145))
    boxes = [ink.crop((x, 0, x + 1, ink.height)).getbbox() for x in range(ink.width)]
    return [(box[1] / ink.height, box[3] / ink.height) if box else None for box in boxes]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_formulas_are_drawn_in_a_type_of_mathematics(opened: Any, scheme: str) -> None:
    """The radical and its line are there, brackets grow with what they hold; where no formula is, no type comes."""
    watched = opened(scheme=scheme, device_scale_factor=2)
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url))
    for path in ("/", "/papers/easyquant"):
        watched.go(path)
        assert not any("stix" in address for address in asked), path
    page = watched.go("/papers/2401.00095")
    page.evaluate("document.fonts.ready")
    assert sum("stix" in address for address in asked) == 1
    session = page.context.new_cdp_session(page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    for sign in ("math msqrt", "math mfrac mi", "math mo"):
        node = session.send("DOM.querySelector", {"nodeId": root, "selector": f".prose {sign}"})["nodeId"]
        fonts = session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
        assert {(font["familyName"], font["isCustomFont"]) for font in fonts} == {("STIX Two Math", True)}, sign
    heights = page.evaluate(_BRACKETS)
    plain = min(height for sign, height in heights if sign == "(")
    assert max(height for sign, height in heights if sign == "(") > 1.5 * plain
    assert max(height for sign, height in heights if sign == "[") > 2 * plain
    columns = _ink(page.locator(".prose msqrt").first.screenshot(), scheme == "dark")
    inked = [at for at, column in enumerate(columns) if column]
    line = [at for at in inked if columns[at][0] < 0.25]
    hook = [at for at in inked if columns[at][1] > 0.8 and at < len(columns) / 2]
    assert max(line) - min(line) > 0.4 * len(inked), "no line over what is under the root"
    assert hook, "no hook of the radical"
    assert watched.wrong == []


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


# Places of a page, 400 px apart, where its button Cancel is not wholly in sight with nothing over it. In one go, as a
# page without scripts asks for itself again every four seconds.
_OUT_OF_SIGHT = """() => {
  const button = [...document.querySelectorAll("button")].find((one) => one.innerText === "Cancel");
  const high = document.documentElement.scrollHeight, found = [];
  for (let y = 0; y < high; y += 400) {
    scrollTo({ top: y, behavior: "instant" });
    const r = button.getBoundingClientRect();
    const whole = r.left >= 0 && r.right <= innerWidth && r.top >= 0 && r.bottom <= innerHeight;
    const top = document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2);
    if (!whole || top !== button) found.push(`${y} px down, Cancel lies at ${r.left}, ${r.top}`);
  }
  return { high, found, state: document.querySelector("#state").innerText };
}"""


@pytest.mark.parametrize("width", [320, 1440])
@pytest.mark.parametrize("scripts", [True, False])
def test_cancel_and_the_time_left_are_in_sight_wherever_a_run_is_read(opened: Any, width: int, scripts: bool) -> None:
    watched = opened(width=width, scripts=scripts)
    watched.page.set_viewport_size({"width": width, "height": 568})
    seen = watched.go("/runs/2").evaluate(_OUT_OF_SIGHT)
    assert seen["high"] > 3000
    assert seen["found"] == []
    assert "left" in seen["state"]
    assert watched.wrong == []


# Words of a plot on other words, on points, or outside of it; boxes of letters without the line's own room above.
_COVERED = """() => [...document.querySelectorAll("svg.plot")].flatMap((plot) => {
  const whole = plot.getBoundingClientRect(), unit = whole.width / plot.viewBox.baseVal.width;
  const words = [...plot.querySelectorAll("text")].map((text) => {
    const r = text.getBoundingClientRect(), high = r.height * 0.15;
    const label = text.matches(".name"), name = text.textContent;
    return { name, label, left: r.left, right: r.right, top: r.top + high, bottom: r.bottom - high };
  });
  const points = [...plot.querySelectorAll(".dot")].map((dot) => {
    const r = dot.getBoundingClientRect();
    return { name: "a point", left: r.left, right: r.right, top: r.top, bottom: r.bottom };
  });
  const grid = [...plot.querySelectorAll(".grid")].map((line) => line.getBoundingClientRect());
  const left = Math.min(...grid.map((r) => r.left)), low = Math.max(...grid.map((r) => r.bottom));
  const cut = (a, b, from, to) => a[from] < b[to] - 0.5 && b[from] < a[to] - 0.5;
  const meet = (a, b) => cut(a, b, "left", "right") && cut(a, b, "top", "bottom");
  const found = [];
  words.forEach((one, i) => {
    for (const other of [...words.slice(i + 1), ...points]) {
      if (meet(one, other)) found.push(`${one.name} on ${other.name}`);
    }
    const beside = one.left < whole.left - 1 || one.right > whole.right + 1;
    if (beside || one.top < whole.top || one.bottom > whole.bottom + 1) found.push(`${one.name} outside`);
    if (one.label && (one.left < left - 1 || one.bottom > low + 1)) found.push(`${one.name} on an axis`);
  });
  return found.concat(words.some((one) => one.label) && unit > 0 ? [] : ["no label at all"]);
})"""


def test_words_of_plots_lie_on_nothing_as_chromium_draws_them(opened: Any) -> None:
    page = opened().go("/compare/quantization")
    links = page.get_by_label("Settings").get_by_role("link")
    settings: set[str] = set()
    waiting = set(links.evaluate_all("all => all.map((one) => one.href)"))
    while waiting:  # a link leads to one setting of its model, from which links lead to the rest
        page.goto(waiting.pop())
        settings.add(page.url)
        waiting |= set(links.evaluate_all("all => all.map((one) => one.href)")) - settings
    assert len(settings) > 5
    lanes = 0
    for address in sorted(settings):
        for at in ("bytes", "time"):
            page.goto(address.replace("at=bytes", f"at={at}"))
            for width in (1440, 768, 320):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(_COVERED) == [], (address, at, width)
            lanes += page.locator("svg.plot text.axis", has_text="beyond the axis").count()
    assert lanes > 3


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


def test_pictures_move_nothing_and_cost_little(opened: Any) -> None:
    for width, height, most in ((1440, 900, 6), (390, 844, 4)):
        watched = opened(width=width)
        page, sizes = watched.page, dict[str, int]()
        page.set_viewport_size({"width": width, "height": height})
        page.on("response", lambda got, sizes=sizes: sizes.update({got.url: len(got.body())}))
        page.add_init_script(
            "window.moved = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
            " window.moved += one.value; }).observe({type: 'layout-shift', buffered: true});"
        )
        page.goto(watched.site + "/", wait_until="networkidle")
        seen = page.evaluate(
            "() => [...document.querySelectorAll('.teaser img')].map((one) => [one.currentSrc || one.src,"
            " one.getBoundingClientRect()]).filter(([_, box]) => box.top < innerHeight).map(([src]) => src)"
        )
        assert 1 <= len(seen) <= most
        assert all(sizes[address] <= 12_000 for address in seen)
        fetched = sum("/teasers/" in address for address in sizes)
        assert fetched < page.locator(".teaser img").count()  # the others are far below
        assert page.evaluate("() => window.moved") < 0.01
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
        assert watched.wrong == []


def test_lists_are_dense_and_begin_early(opened: Any) -> None:
    watched = opened()
    page = watched.page
    tops = "() => [...document.querySelectorAll('[data-card] .name')].map((one) => one.getBoundingClientRect())"
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(watched.site + "/")
    cards = page.evaluate(
        "() => [...document.querySelectorAll('[data-card]')].map((one) => one.getBoundingClientRect().bottom)"
    )
    assert sum(bottom <= 900 for bottom in cards) >= 5
    pictures = page.locator(".teaser img")
    assert pictures.count() >= 15
    page.wait_for_function("() => document.querySelector('.teaser img').naturalWidth === 320")
    assert page.locator("[data-card]").count() > pictures.count()  # and some have none
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(watched.site + "/")
    assert page.evaluate(tops)[0]["top"] <= 300
    assert watched.wrong == []
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(watched.site + "/coverage?family=quantization")
    assert page.evaluate("() => document.documentElement.scrollHeight") <= 3 * 900
