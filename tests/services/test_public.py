"""A site for others as it would be deployed: PostgreSQL, a relay, names; what is missing is said before it starts."""

# ruff: noqa: F401, F811 (fixtures of another file)

import asyncio
import email
import email.policy
import itertools
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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


def test_killed_under_load_nothing_is_lost_or_doubled(start: Callable[..., Up], tmp_path: Path) -> None:
    """kill -9 of servers and worker while people vote, comment and subscribe: what was answered is there, once."""
    up = start("--workers", "2")
    answered: dict[str, list[str]] = {"comment": [], "subscribe": []}
    stop, count = threading.Event(), itertools.count()

    def person() -> None:
        jar: dict[str, str] = {}
        while not stop.is_set():
            number = next(count)
            try:
                if "csrftoken" not in jar:
                    got = up.get("sign-in")
                    jar["csrftoken"] = re.search(r"csrftoken=(\w+)", got.headers["set-cookie"])[1]  # type: ignore[index]
                what = "comment" if number % 2 else "subscribe"
                path = "papers/easyquant/comment" if what == "comment" else "subscribe"
                sent = {"csrfmiddlewaretoken": jar["csrftoken"], "once": f"form {number}", "body": f"said {number}"}
                sent["email"] = f"p{number}@example.org"
                for _ in range(40):  # as a person would: the same form again, until the site answers
                    try:
                        cookie = {"Cookie": f"csrftoken={jar['csrftoken']}"}
                        answer = httpx.post(up.address + path, data=sent, headers=cookie, timeout=10)
                    except httpx.HTTPError:
                        time.sleep(0.1)
                        continue
                    if answer.status_code in (200, 302):
                        answered[what].append(str(number))
                        break
                    time.sleep(0.1)
            except (httpx.HTTPError, KeyError):
                time.sleep(0.1)

    people = [threading.Thread(target=person) for _ in range(4)]
    for one in people:
        one.start()
    draw = random.Random(3)
    for name in ("server", "worker", "server"):
        time.sleep(draw.uniform(0.5, 2))
        children = wait(lambda name=name: up.children()[name], up.text)  # type: ignore[misc]
        draw.choice(children).kill()
    time.sleep(2.5)
    stop.set()
    for one in people:
        one.join()
    assert up.end() == 0
    with sqlite3.connect(tmp_path / "home" / "paperlab.sqlite3") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        said = [body.removeprefix("said ") for (body,) in store.execute("SELECT body FROM people_comment")]
        asked = [mail[1:].partition("@")[0] for (mail,) in store.execute("SELECT email FROM digest_subscription")]
    for there, told in ((said, answered["comment"]), (asked, answered["subscribe"])):
        assert len(there) == len(set(there))
        assert set(told) <= set(there)
        assert len(told) > 5
    # Every question whether to subscribe is one letter at most, and none of those that were asked is forgotten.
    letters = [
        email.message_from_bytes(file.read_bytes())["To"] for file in (tmp_path / "home" / "outbox").glob("*.eml")
    ]
    assert len(letters) == len(set(letters))


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
