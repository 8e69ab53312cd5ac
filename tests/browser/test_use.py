"""The pages as they are used: with keys, with scripts, without."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit


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
    page.get_by_label("has code").check()
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
    assert page.locator("math").count() >= 3
    assert [said for said in watched.wrong if "404" not in said] == []
