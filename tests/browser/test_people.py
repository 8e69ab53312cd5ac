"""The pages where people do something: accessible, as wide as the screen, and usable with and without a script."""

from typing import Any

import pytest

PAGES = [
    "/account", "/collections", "/submit", "/subscribe", "/sign-in", "/runs/", "/papers/easyquant/run",
    "/sign-in/nothing", "/unsubscribe/nothing", "/papers/easyquant",
]  # fmt: skip
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.mark.parametrize("path", PAGES)
def test_fits_and_holds_no_violation(opened: Any, path: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for width, scheme in ((1440, "light"), (320, "dark")):
        watched = opened(width, scheme)
        page = watched.go(path)
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{path} is {over} px too wide at {width}"
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        answer = Axe().run(page, options={"runOnly": {"type": "tag", "values": WCAG}}).response
        found += [
            f"{width} {scheme} {v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
            for v in answer["violations"]
        ]
        missing = path.endswith("/nothing")
        assert [said for said in watched.wrong if not missing] == []
    assert found == []


def test_a_vote_is_swapped_where_it_stands(opened: Any) -> None:
    page = opened().go("/papers/easyquant")
    button = page.locator("[data-vote]").first
    before = button.get_attribute("aria-pressed")
    with page.expect_response(lambda answer: answer.url.endswith("/vote")) as answered:
        button.click()
    assert answered.value.status == 200
    page.wait_for_function(f"document.querySelector('[data-vote]').getAttribute('aria-pressed') !== '{before}'")
    assert page.url.endswith("/papers/easyquant")


def test_a_run_is_asked_for_watched_and_cancelled(opened: Any) -> None:
    """No worker is at work here: the page says so, and the run waits until it is cancelled."""
    page = opened().go("/papers/easyquant")
    page.locator("form.run-form button", has_text="Run it").first.click()
    page.wait_for_url("**/runs/*")
    assert "Waits in the queue" in page.locator("#live").inner_text()
    assert "No worker is at work" in page.locator("#live").inner_text()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_function("document.querySelector('#live').innerText.includes('Cancelled')")
