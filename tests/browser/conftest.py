"""Debian's Chromium on a real server. Without one these tests are skipped, or fail where services are required."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_server import free_port

HERE = Path(__file__).parent
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--force-color-profile=srgb"]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("PAPERLAB_REQUIRE_SERVICES"):
            pytest.fail("no chromium: apt-get install chromium")
        pytest.skip("no chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a site that is up, without its last slash."""
    home = tmp_path_factory.mktemp("browser-home")
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERLAB_", "DJANGO_"))}
    paths = [str(HERE.parent / "site"), *([kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else [])]
    environment = {**kept, "PAPERLAB_HOME": str(home), "PAPERLAB_ENCODER": "none", "PAPERLAB_TOKEN": "off"}
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment |= {"PAPERLAB_FETCH": "off", "PAPERLAB_REPLIES": "code"}
    log = home / "log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "site_process.py"), str(port)], env=environment, stdout=stream, stderr=stream
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/robots.txt", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the site did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


class Watched:
    """A page, and all that went wrong on it."""

    def __init__(self, context: Any, site: str) -> None:
        self.site, self.page = site, context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on(
            "request", lambda asked: None if asked.url.startswith((site, "data:")) else self.wrong.append(asked.url)
        )

    def go(self, path: str) -> Any:
        self.page.goto(self.site + path)
        return self.page


@pytest.fixture
def opened(chromium: Any, site: str) -> Iterator[Any]:
    """A function that opens a page: opened(width=320, scheme="dark", scripts=False)."""
    contexts = []

    def open_(width: int = 1440, scheme: str = "light", scripts: bool = True, **more: Any) -> Watched:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts, **more
        )
        context.set_default_timeout(30_000)
        contexts.append(context)
        return Watched(context, site)

    yield open_
    for context in contexts:
        context.close()
