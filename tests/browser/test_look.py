"""Every page as it lies on the screen: nothing wider than the screen, nothing that moves, light enough, accessible."""

from typing import Any

import pytest

PAGES = [
    "/", "/?week=2020-W01", "/trending", "/papers", "/families", "/families/quantization", "/search",
    "/search?q=quantization&verdict=holds", "/search?q=zzzzqqq&family=tts", "/search?year=soon", "/papers/easyquant",
    "/papers/2401.00095", "/papers/2401.00096", "/papers/mova", "/compare", "/compare/quantization?at=time",
    "/compare/tts", "/coverage?family=quantization", "/about", "/feeds", "/papers/nothere", "/api/",
]  # fmt: skip
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
KILOBYTES = 100

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
    for width, scheme in ((1440, "light"), (320, "dark"), (768, "light"), (768, "dark")):
        watched = opened(width, scheme)
        page = watched.go(path)
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{path} is {over} px too wide at {width}"
        if width != 768 or (scheme == "dark" and path in ("/", "/papers/easyquant")):
            answer = Axe().run(page, options={"runOnly": {"type": "tag", "values": WCAG}}).response
            found += [
                f"{width} {scheme} {v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
                for v in answer["violations"]
            ]
        status = {"/papers/nothere": "404", "/search?year=soon": "400"}.get(path)
        assert [said for said in watched.wrong if not (status and status in said)] == []
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
