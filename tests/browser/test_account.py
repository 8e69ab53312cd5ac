"""A site for others as its readers use it, in a browser: the digest by mail, an account and all it does.

A real `paperlab up`, a real relay, and a local server in arXiv's place.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from local_server import Server, Told, free_port, serving
from tests.browser.conftest import Watched
from tests.services.test_public import Relay
from tests.services.test_up import Up, wait

pytest.importorskip("aiosmtpd")
YESTERDAY = datetime.now(UTC).date() - timedelta(1)


@pytest.fixture(scope="module")
def place(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """site: its address. box: its letters. up: its processes. do: a command of paperlab on its data folder."""
    from aiosmtpd.controller import Controller

    ports = [free_port() for _ in range(2)]
    home, box = tmp_path_factory.mktemp("public") / "home", Relay()
    relay = Controller(box, hostname="127.0.0.1", port=ports[0])
    relay.start()
    site = f"http://localhost:{ports[1]}"
    with serving(Server([Told(7)])) as arxiv:
        environment = {
            "PAPERLAB_HOSTS": "localhost,127.0.0.1", "PAPERLAB_URL": site, "PAPERLAB_DIGEST_HOUR": "23.999",
            "PAPERLAB_SMTP": f"smtp://127.0.0.1:{ports[0]}", "PAPERLAB_ARXIV_API": f"{arxiv.url}/api/query",
            "PAPERLAB_RATE": "off", "PAPERLAB_PROXIES": "127.0.0.1",
        }  # fmt: skip
        up = Up(home, "--port", str(ports[1]), **environment)

        def do(*words: str) -> str:
            whole = {**os.environ, "PAPERLAB_HOME": str(home), "PAPERLAB_ENCODER": "none", **environment}
            done = subprocess.run(
                [sys.executable, "-m", "paperlab", *words], env=whole, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        try:
            yield SimpleNamespace(site=site, box=box, up=up, do=do, home=home)
        finally:
            up.end()
            relay.stop()
    assert "Traceback" not in up.text()


@pytest.fixture
def reader(chromium: Any, place: SimpleNamespace) -> Iterator[Callable[..., Watched]]:
    """A browser of somebody's own."""
    opened = []

    def come(**options: Any) -> Watched:
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.set_default_timeout(30_000)
        opened.append(context)
        return Watched(context, place.site)

    yield come
    for context in opened:
        context.close()


def letter(place: SimpleNamespace, to: str, about: str) -> Any:
    """The letter that came there, once it has."""
    said = wait(
        lambda: [one for one in place.box.letters if one["To"] == to and about in one["Subject"]], place.up.text
    )
    return said[-1]


def link(said: Any, path: str) -> str:
    """The link in a letter, without the site's address."""
    words = said.get_body(("plain",)).get_content().split()
    found = next(word for word in words if path in word)
    return "/" + found.split("/", 3)[3]


@pytest.mark.parametrize("scripts", [False])  # its pages have none
def test_the_digest_from_asking_to_stopping(
    place: SimpleNamespace, reader: Callable[..., Watched], tmp_path: Path, scripts: bool
) -> None:
    to = f"digest-{scripts}@example.org".lower()
    row = {"id": f"2406.0000{int(scripts)}", "title": f"A paper of yesterday {scripts}", "summary": "It is new.",
           "upvotes": 3, "seen_on": [str(YESTERDAY)]}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    place.do("import", str(tmp_path / "rows.jsonl"))
    seen = reader(java_script_enabled=scripts)
    page = seen.go("/")
    page.get_by_role("link", name="E-mail digest", exact=True).click()
    page.get_by_label("E-mail address").fill(to)
    page.get_by_role("button", name="Subscribe").click()
    page.get_by_role("heading", name="Check your inbox").wait_for()
    where = link(letter(place, to, "subscription to the paperlab digest"), "/subscribe/")
    page = seen.go(where)
    assert to in page.locator("h1").inner_text()
    assert place.do("digest").count("0 subscribed") == 1  # reading the link has confirmed nothing
    page.get_by_role("button", name="Confirm").click()
    page.get_by_role("heading", name="Subscribed").wait_for()
    assert "1 subscribed, 1 sent" in place.do("digest")
    assert "sent before" in place.do("digest")  # once a day
    said = letter(place, to, f"{YESTERDAY:%B}")
    assert f"A paper of yesterday {scripts}" in said.get_body(("plain",)).get_content()
    assert f"A paper of yesterday {scripts}" in said.get_body(("html",)).get_content()
    leave = said["List-Unsubscribe"].strip("<>")
    assert said["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert httpx.get(leave).status_code == 200  # a program that reads mail has looked: nothing is stopped
    page = seen.go(link(said, "/unsubscribe/"))
    assert page.get_by_role("button", name="Unsubscribe").is_visible()
    # As a mail program does it: without a cookie, with the one line that RFC 8058 names.
    done = httpx.post(leave, data={"List-Unsubscribe": "One-Click"})
    assert done.status_code == 200
    assert "0 subscribed" in place.do("digest")
    page.get_by_role("button", name="Unsubscribe").click()  # again, by hand: as well
    page.get_by_role("heading", name="Unsubscribed").wait_for()
    assert seen.wrong == []


def sign_in(place: SimpleNamespace, seen: Watched, to: str) -> Any:
    """Sign in by a mailed link, from the page of a paper and back to it."""
    page = seen.go("/papers/easyquant")
    page.locator("#comments").get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail address").fill(to)
    page.get_by_role("button", name="Send me a link").click()
    page.get_by_role("heading", name="Check your inbox").wait_for()
    page = seen.go(link(letter(place, to, "sign in"), "/sign-in/"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/papers/easyquant")
    return page


@pytest.mark.parametrize("scripts", [True, False])
def test_an_account_from_its_first_letter_to_its_end(
    place: SimpleNamespace, reader: Callable[..., Watched], tmp_path: Path, scripts: bool
) -> None:
    to = f"reader-{scripts}@example.org".lower()
    stranger = reader().go("/papers/easyquant")
    assert stranger.locator("[data-vote]").count() == 0
    assert stranger.locator("form.run-form").count() == 0  # nothing is run for visitors
    seen = reader(java_script_enabled=scripts)
    page = sign_in(place, seen, to)

    vote = page.locator("header [data-vote]").first
    assert vote.get_attribute("aria-pressed") == "false"
    vote.click()
    page.locator("header [data-vote][aria-pressed=true]").wait_for()
    said = page.locator("header [data-vote]").get_attribute("title")
    assert said == "1 on this site (1 from new accounts, not in trending yet)"

    page = seen.go("/account")
    page.get_by_label("Shown with your comments").fill(to)
    page.get_by_role("button", name="Save").click()
    assert "no e-mail address" in page.get_by_role("alert").inner_text()
    page.get_by_label("Shown with your comments").fill("Ada <i>L.</i>")
    page.get_by_role("button", name="Save").click()
    assert "cannot be in a name" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Shown with your comments").input_value() == "Ada <i>L.</i>"
    page.get_by_label("Shown with your comments").fill("Ada L.")
    page.get_by_role("button", name="Save").click()
    page.wait_for_function("() => !document.querySelector('[role=alert]')")
    if scripts:
        from axe_playwright_python.sync_playwright import Axe

        assert Axe().run(page).response["violations"] == []
    page = seen.go("/papers/easyquant")

    attack = "**bold** <script>alert(1)</script> <img src=x onerror=alert(2)> [x](javascript:alert(3))"
    page.get_by_label("Your comment, in Markdown").fill(attack)
    page.get_by_role("button", name="Post").click()
    comment = page.locator(".comment")
    comment.wait_for()
    assert comment.locator("strong", has_text="bold").count() == 1
    assert "<script>alert(1)</script> <img src=x onerror=alert(2)>" in comment.inner_text()
    assert comment.locator("script, img, a[href^=javascript]").count() == 0
    assert comment.inner_text().startswith("Ada L.")
    assert to not in page.content()

    page.get_by_role("button", name="Mark as read").click()
    page.get_by_role("button", name="Mark as unread").click()
    page.get_by_role("button", name="Mark as read").click()
    page.get_by_text("You have read this paper.").wait_for()
    mine = page.locator("#yours")
    mine.get_by_label("new collection").fill("To try")
    mine.get_by_label("Note").fill("<b>at home</b> & soon")
    mine.get_by_role("button", name="Save").click()
    page.get_by_role("link", name="To try").click()
    page.wait_for_url("**/collections/*")
    assert page.get_by_text("<b>at home</b> & soon", exact=True).is_visible()
    assert page.locator("[data-card] .name").inner_text().startswith("EasyQuant")

    page = seen.go("/papers/easyquant")
    page.locator("summary", has_text="Follow").click()
    page.get_by_role("button", name="Follow family quantization").click()
    page = seen.go("/search?q=outliers")
    page.get_by_role("button", name="Follow this search").click()
    page = seen.go("/account")
    assert page.locator("bdi", has_text="quantization").first.is_visible()
    assert page.get_by_text("outliers", exact=True).first.is_visible()

    page = seen.go("/submit")
    page.get_by_label("arXiv id").fill("http://169.254.169.254/")
    page.get_by_role("button", name="Submit").click()
    assert "not an arXiv id" in page.get_by_role("alert").inner_text()
    page.get_by_label("arXiv id").fill("https://arxiv.org/abs/2401.00007v2")
    page.get_by_role("button", name="Submit").click()
    if scripts:  # the first one asks for it, and the worker fetches it; for the second it is here
        page.get_by_text("2401.00007: ").wait_for()
        wait(lambda: page.reload() and page.get_by_role("link", name="2401.00007").count(), place.up.text, 60)
        page.get_by_role("link", name="2401.00007").click()
    page.wait_for_url("**/papers/2401.00007")
    assert "On the 7th <matter>" in page.locator("h1").inner_text()

    page = seen.go("/account")
    with page.expect_download() as told:
        page.get_by_role("link", name="Download my data").click()
    known = json.loads(Path(told.value.path()).read_text())
    assert (known["account"]["email"], known["account"]["name"]) == (to, "Ada L.")
    assert [one["paper"] for one in known["votes"]] == ["2403.02775"]
    assert known["comments"][0]["body"] == attack
    assert known["collections"][0]["papers"][0]["note"] == "<b>at home</b> & soon"
    assert {(one["kind"], one["value"]) for one in known["follows"]} == {
        ("family", "quantization"), ("search", "q=outliers"),
    }  # fmt: skip
    assert [one["paper"] for one in known["read"] if one["state"] == "read"] == ["2403.02775"]

    page.get_by_role("textbox", name="To delete").fill("no")
    page.get_by_role("button", name="Delete").click()
    assert "Nothing was deleted" in page.locator("h1").inner_text()
    page = seen.go("/account")
    page.get_by_role("textbox", name="To delete").fill("delete")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("heading", name="Deleted").wait_for()
    page = seen.go("/papers/easyquant")
    assert page.locator(".comment, [data-vote]").count() == 0
    assert seen.go("/account").url.startswith(f"{place.site}/sign-in")
    assert [said for said in seen.wrong if "400" not in said] == []
