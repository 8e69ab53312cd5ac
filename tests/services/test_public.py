"""A site for others as it would be deployed: PostgreSQL, a relay, names; what is missing is said before it starts."""

# ruff: noqa: F401, F811 (fixtures of another file)

import asyncio
import email
import email.policy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from local_server import free_port
from tests.services.test_up import Up, start, wait

ROOT = Path(__file__).resolve().parents[2]


class Relay:
    def __init__(self) -> None:
        self.letters: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        await asyncio.sleep(0)
        self.letters.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@pytest.fixture
def relay() -> Iterator[tuple[Relay, str]]:
    from aiosmtpd.controller import Controller

    made = Relay()
    port = free_port()
    controller = Controller(made, hostname="127.0.0.1", port=port)
    controller.start()
    yield made, f"smtp://127.0.0.1:{port}"
    controller.stop()


def settings(database: str, smtp: str) -> dict[str, str]:
    return {
        "PAPERLAB_HOSTS": "papers.example.org", "PAPERLAB_DATABASE": database, "PAPERLAB_SMTP": smtp,
        "PAPERLAB_FROM": "paperlab <digest@papers.example.org>", "PAPERLAB_RATE": "100/1000",
    }  # fmt: skip


def check(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERLAB_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, "-m", "paperlab", "up", "--public", "--check"],
        env={**kept, "PAPERLAB_HOME": str(home), **environment},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_what_is_missing_is_said_and_nothing_starts(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 2
    for name in ("hosts", "address", "database", "mail relay", "sender"):
        assert f"--  {name}: " in done.stdout, name
    assert "Traceback" not in done.stderr
    away = check(
        tmp_path,
        PAPERLAB_HOSTS="*",
        PAPERLAB_SECRET_KEY="short",
        PAPERLAB_DATABASE="postgresql://x@127.0.0.1:1/x",
        PAPERLAB_SMTP="smtp://127.0.0.1:1",
        PAPERLAB_PROXIES="*",
        PAPERLAB_RATE="off",
    )
    assert away.returncode == 2
    for name in ("hosts", "database", "secret", "mail relay", "sender", "rate limit", "proxies"):
        assert f"--  {name}: " in away.stdout, name
    assert "Traceback" not in away.stderr


@pytest.mark.parametrize(
    ("proxies", "fine"),
    [("0.0.0.0/0", False), ("::/0", False), ("0.0.0.0/1,128.0.0.0/1", False), ("127.0.0.1, *", False),
     ("10.0.0.0/8,fd00::/16", True), ("proxy.example.org", False), ("127.0.0.1,", False), ("192.0.2.7", True)],
)  # fmt: skip
def test_proxies_are_named(tmp_path: Path, proxies: str, fine: bool) -> None:
    said = check(tmp_path, PAPERLAB_PROXIES=proxies, PAPERLAB_HOSTS="papers.example.org").stdout
    assert f"{'ok' if fine else '--'}  proxies: {proxies}" in said


@pytest.mark.parametrize(
    "sender", ["a <a@example.org>\nBcc: victim@example.org", "a@example.org\r", "nobody", "a <>", "@example.org"]
)
def test_a_sender_is_one_address_on_one_line(tmp_path: Path, sender: str) -> None:
    done = check(tmp_path, PAPERLAB_FROM=sender, PAPERLAB_HOSTS="papers.example.org")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "PAPERLAB_FROM" in done.stderr


def test_people_sign_in_by_mail_and_strangers_run_nothing(
    start: Callable[..., Up],
    database: str,
    relay: tuple[Relay, str],
    tmp_path: Path,
) -> None:
    box, smtp = relay
    environment = settings(database, smtp)
    done = check(tmp_path / "home", **environment)
    assert done.returncode == 0, done.stdout
    assert "--  " not in done.stdout
    up = start("--public", **environment)
    proxied = {"Host": "papers.example.org", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.5"}
    with httpx.Client(base_url=up.address, headers=proxied, timeout=30) as one:
        jar: dict[str, str] = {}

        def ask(verb: str, path: str, **sent: str) -> httpx.Response:
            headers = {
                "Cookie": "; ".join(f"{k}={v}" for k, v in jar.items()),
                "Referer": "https://papers.example.org/",
            }
            if verb == "POST":
                sent["csrfmiddlewaretoken"] = jar.get("csrftoken", "")
            answer = one.request(verb, path, data=sent or None, headers=headers)
            for cookie in answer.headers.get_list("set-cookie"):
                name, _, value = cookie.partition(";")[0].partition("=")
                jar[name] = value
                assert "Secure" in cookie
            return answer

        assert one.get("/", headers={"Host": "evil.example"}).status_code == 400
        assert ask("GET", "/runs/").status_code == 403
        assert ask("GET", "/sign-in").status_code == 200
        assert ask("POST", "/sign-in", email="reader@example.org", next="/account").status_code == 200
        letter = wait(lambda: box.letters, up.text)[0]
        link = next(word for word in letter.get_body(("plain",)).get_content().split() if "/sign-in/" in word)
        assert link.startswith("https://papers.example.org/sign-in/")
        where = link.removeprefix("https://papers.example.org")
        ask("GET", where)
        assert ask("POST", where).headers["Location"] == "/account"
        assert "reader@example.org" in ask("GET", "/account").text
        assert ask("POST", "/papers/easyquant/vote").status_code == 302
        assert ask("POST", "/papers/easyquant/run", method="easyquant").status_code == 403
        assert "Strict-Transport-Security" in ask("GET", "/").headers
    assert up.end() == 0
    assert "Traceback" not in up.text()


def test_the_unit_is_one(tmp_path: Path) -> None:
    """What systemd itself says of it, where it is installed; its parts in any case."""
    unit = ROOT / "docs" / "deploy" / "paperlab.service"
    text = unit.read_text()
    for part in ("[Unit]", "[Service]", "[Install]", "paperlab up --public", "EnvironmentFile="):
        assert part in text
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / "paperlab.service"
    copy.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable} -m paperlab", text))
    done = subprocess.run([analyse, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    wrong = [line for line in done.stderr.splitlines() if "paperlab.service" in line]
    assert not wrong, json.dumps(wrong)
