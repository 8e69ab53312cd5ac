"""A comment on its way from a reader's report to a moderator's decision and back, in a browser."""

from collections.abc import Callable
from typing import Any

import pytest

PAPER = "/papers/2401.00095"


@pytest.mark.parametrize("scripts", [True, False])
def test_a_comment_is_reported_hidden_and_shown_again(opened: Callable[..., Any], scripts: bool) -> None:
    seen = opened(scripts=scripts)
    page = seen.go(PAPER)
    comment = page.locator(".comment", has_text="<script>alert(1)</script>")
    comment.get_by_role("link", name="report").click()
    page.get_by_label("Insults").check()
    page.get_by_label("More, if it helps").fill("<b>rude</b>")
    page.get_by_role("button", name="Send report").click()
    page.get_by_role("heading", name="Reported").wait_for()

    page = seen.go("/account")
    page.get_by_role("link", name="Moderation").click()
    if scripts:
        page.get_by_role("link", name="Reported (2)").wait_for()
        reported = page.locator("article", has_text="<b>rude</b>")
        assert reported.is_visible()
        reported.get_by_role("button", name="Dismiss reports").click()
        reported.wait_for(state="detached")
        page.get_by_role("link", name="Reported (1)").wait_for()
    page = seen.go("/moderation?show=latest")
    row = page.locator("article", has_text="<script>alert(1)</script>")
    row.get_by_role("button", name="Hide comment").click()
    row.get_by_text("hidden", exact=True).wait_for()
    page = seen.go(PAPER)
    assert page.locator(".comment", has_text="<script>alert(1)</script>").count() == 0
    page = seen.go("/moderation?show=latest")
    row = page.locator("article", has_text="<script>alert(1)</script>")
    row.get_by_role("button", name="Show comment again").click()
    row.get_by_role("button", name="Close account").click()
    row.get_by_text("account closed", exact=True).wait_for()
    page = seen.go("/moderation?show=closed")
    closed = page.locator("main li", has_text="Ada L.")
    closed.get_by_role("button", name="Reopen").click()
    closed.wait_for(state="detached")
    page = seen.go("/moderation?show=trail")
    assert page.locator(".trail li").count() >= 4
    page = seen.go(PAPER)
    assert page.locator(".comment", has_text="<script>alert(1)</script>").count() == 1
    assert seen.wrong == []
