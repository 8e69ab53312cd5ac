"""The pages as they are used: with keys, with scripts, without."""

# ruff: noqa: F811 (a fixture of another file)

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.services.test_up import Up, start  # noqa: F401


def test_keys_walk_the_list_open_a_paper_and_explain_themselves(opened: Any) -> None:
    watched = opened()
    page = watched.go("/")
    links = page.locator("[data-card] .name a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    for key, at in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.getAttribute('href')") == links[at]
    page.keyboard.press("?")
    assert page.locator("dialog#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog#keys").is_visible()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("jjk?")  # in a field they are letters
    assert page.locator("#find").input_value() == "jjk?"
    page.keyboard.press("Tab")
    page.locator("body").click(position={"x": 2, "y": 300})
    page.keyboard.press("o")
    page.wait_for_url("**" + links[1])
    assert watched.wrong == []


def test_filters_change_the_list_and_the_address_and_back_undoes_them(opened: Any) -> None:
    watched = opened()
    page = watched.go("/search?q=quantization")
    before = page.locator("[data-card]").count()
    page.get_by_label("holds", exact=True).check()
    page.wait_for_url("**verdict=holds*")
    page.wait_for_function(f"() => document.querySelectorAll('[data-card]').length < {before}")
    assert page.get_by_label("holds", exact=True).is_checked()
    page.reload()
    assert page.locator("[data-card] .badge.holds").count() == page.locator("[data-card]").count()
    page.go_back()
    page.wait_for_function(f"() => document.querySelectorAll('[data-card]').length === {before}")
    assert parse_qs(urlsplit(page.url).query).get("verdict") is None
    assert watched.wrong == []


def test_more_papers_are_added_to_the_list(opened: Any) -> None:
    watched = opened()
    page = watched.go("/papers")
    before = page.locator("[data-card]").count()
    page.get_by_role("link", name="More papers").click()
    page.wait_for_function(f"() => document.querySelectorAll('[data-card]').length > {before}")
    titles = page.locator("[data-card] .name a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert len(set(titles)) == len(titles)
    assert watched.wrong == []


def test_everything_is_there_without_scripts(opened: Any) -> None:
    watched = opened(scripts=False)
    page = watched.go("/")
    page.locator("#find").fill("quantization")
    page.locator("#find").press("Enter")
    page.wait_for_url("**/search?q=quantization")
    page.get_by_label("a link to code").check()
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**code=1**")
    page.locator("[data-card] .name a").first.click()
    page.wait_for_url("**/papers/**")
    page = watched.go("/papers/easyquant")
    page.locator("summary", has_text="records").first.click()
    assert page.locator(".run").first.is_visible()
    assert page.locator("svg.plot").first.is_visible()
    page = watched.go("/papers")
    first = page.locator("[data-card] .name a").first.get_attribute("href")
    page.get_by_role("link", name="More papers").click()
    page.wait_for_url("**cursor=**")
    assert page.locator("[data-card] .name a").first.get_attribute("href") != first


def test_a_point_of_a_plot_leads_to_its_record_and_a_command_is_copied(opened: Any) -> None:
    watched = opened(permissions=["clipboard-read", "clipboard-write"])
    page = watched.go("/papers/easyquant")
    page.locator("svg.plot a.mark").first.click()
    target = page.locator(".run:target")
    target.wait_for(state="visible")
    assert target.is_visible()
    target.get_by_role("button", name=re.compile("Copy")).click()
    page.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("paperlab run easyquant")
    assert watched.wrong == []


def test_hostile_papers_are_text(opened: Any) -> None:
    watched = opened()
    for number in range(95, 104):
        page = watched.go(f"/papers/2401.{number:05d}")
        assert page.locator("h1").inner_text().strip()
        assert page.locator("main script").count() == 0
    page = watched.go("/")
    assert page.locator("main script").count() == 0
    assert page.locator("math").count() == 0  # lists say formulas on the line
    assert watched.go("/papers/2401.00095").locator("math").count() >= 3
    assert [said for said in watched.wrong if "404" not in said] == []


def test_a_vote_is_swapped_where_it_stands(opened: Any) -> None:
    page = opened().go("/papers/easyquant")
    button = page.locator("[data-vote]").first
    before = button.get_attribute("aria-pressed")
    with page.expect_response(lambda answer: answer.url.endswith("/vote")) as answered:
        button.click()
    assert answered.value.status == 200
    page.wait_for_function(f"() => document.querySelector('[data-vote]').getAttribute('aria-pressed') !== '{before}'")
    assert page.url.endswith("/papers/easyquant")


def test_a_run_is_asked_for_watched_and_cancelled(opened: Any) -> None:
    """It waits behind others until it is cancelled."""
    page = opened().go("/papers/easyquant")
    page.locator("form.run-form button", has_text="Run it").first.click()
    page.wait_for_url("**/runs/*")
    assert page.locator("#state").inner_text().startswith("Queued")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_function("() => document.querySelector('#state').innerText.includes('Cancelled')")


def test_a_vote_and_an_interest_stand_among_what_a_search_found(opened: Any) -> None:
    for scripts in (True, False):
        watched = opened(scripts=scripts)
        page = watched.go("/search?q=quantization")
        page.get_by_label("a link to code").check()
        if not scripts:
            page.get_by_role("button", name="Apply").click()
        page.wait_for_url("**code=1**")
        vote = page.locator("#list [data-vote]").nth(1)
        before = vote.get_attribute("aria-pressed")
        vote.click()
        page.wait_for_function(
            f"() => document.querySelectorAll('#list [data-vote]')[1].getAttribute('aria-pressed') !== '{before}'"
        )
        assert "code=1" in page.url
        page.get_by_role("button", name="Follow this search").click()
        page.wait_for_load_state()
        page = watched.go("/account")
        assert "quantization, code" in page.locator("bdi").all_inner_texts()
        page.get_by_role("button", name="Unfollow quantization, code").click()
        page.wait_for_function("() => !document.body.innerText.includes('quantization, code')")
        assert watched.wrong == []


def test_the_other_pages_are_there_without_scripts(opened: Any) -> None:
    watched = opened(scripts=False)
    page = watched.go("/compare/quantization")
    first = page.locator("tbody th[scope=row]").first.inner_text()
    page.locator("thead a", has_text="size, MB").click()
    page.locator("th[aria-sort=ascending]").wait_for()
    page.locator("thead a", has_text="size, MB").click()
    page.locator("th[aria-sort=descending]").wait_for()
    assert page.locator("tbody th[scope=row]").first.inner_text() != first
    before = page.locator("section.claim h2").inner_text()
    page.get_by_label("Settings").get_by_role("link").first.click()
    page.wait_for_url("**in=**")
    assert page.locator("section.claim h2").inner_text() != before
    assert watched.go("/groups/1").get_by_role("button", name="Copy").count() == 0  # what needs a script is not offered
    assert page.get_by_role("button", name="Leave this group").count() == 1
    papers = "#papers ~ .scroll tbody tr"
    whole = watched.go("/coverage?state=all").locator(papers).count()
    assert 0 < watched.go("/coverage?family=quantization").locator(papers).count() < whole
    page = watched.page
    page = watched.go("/runs/1")  # nobody works here: it waits, and the page asks again by itself
    with page.expect_navigation(timeout=20_000):
        pass
    assert page.locator("#state").inner_text().startswith("Queued")
    assert watched.wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1440, "light")])
def test_the_page_at_the_door_takes_the_token_without_scripts(
    chromium: Any, start: Callable[..., Up], width: int, scheme: str
) -> None:
    up = start(PAPERLAB_TOKEN="")
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=False
    )
    try:
        page = context.new_page()
        assert page.goto(f"{up.address}search?q=quantization").status == 401
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_label("Token").fill("not it")
        page.get_by_role("button", name="Open").click()
        page.get_by_role("heading", name="Token needed").wait_for()
        page.get_by_label("Token").fill(up.token)
        page.get_by_label("Token").press("Enter")
        page.wait_for_url(f"{up.address}search?q=quantization")
        page.locator("[data-card]").nth(3).wait_for()
    finally:
        context.close()
