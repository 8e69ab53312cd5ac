"""kill -9 of every part while people vote, comment, subscribe and runs leave records: what was told is there, once."""

# ruff: noqa: F401, F811 (fixtures of another file)

import email
import itertools
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from tests.services.conftest import Postgres
from tests.services.test_up import Up, start, wait

pytestmark = pytest.mark.kill

# As a run does it: a record, then the word that it is there. It begins again where it was killed.
WRITER = """
import sys, time
from dataclasses import replace
from paperlab.core import record
one = next(iter(record.read()))
begun = sys.argv[1]
for n in range(100_000):
    name = f"{begun}-{n}"
    record.append(replace(one, id=name))
    print(name, flush=True)
    time.sleep(0.1)
"""


class Load:
    """People at their forms, and a process that leaves records. answered: what they were told is done."""

    def __init__(self, up: Up, home: Path, log: Path) -> None:
        self.up, self.home, self.log = up, home, log
        self.answered: dict[str, list[str]] = {"comment": [], "subscribe": [], "vote": []}
        self.count, self.stop, self.begun = itertools.count(), threading.Event(), 0
        self.papers = [row["id"] for row in up.get("api/papers?limit=100").json()["papers"]]
        self.people = [threading.Thread(target=self.person) for _ in range(4)]
        for one in self.people:
            one.start()
        self.writer = self.write()

    def write(self) -> subprocess.Popen[bytes]:
        self.begun += 1
        environment = {**os.environ, "PAPERLAB_HOME": str(self.home)}
        with open(self.log, "ab") as stream:
            return subprocess.Popen([sys.executable, "-c", WRITER, f"w{self.begun}"], env=environment, stdout=stream)

    def person(self) -> None:
        """The same form again, until the site answers, as a person would."""
        token = ""
        while not self.stop.is_set():
            number = next(self.count)
            what = ("comment", "subscribe", "vote")[number % 3]
            try:
                if not token:
                    got = self.up.get("sign-in")
                    token = re.search(r"csrftoken=(\w+)", got.headers["set-cookie"])[1]  # type: ignore[index]
            except (httpx.HTTPError, KeyError, TypeError):
                time.sleep(0.1)
                continue
            sent = {"csrfmiddlewaretoken": token, "once": f"form {number}", "body": f"said {number}", "on": "1",
                    "email": f"p{number}@example.org"}  # fmt: skip
            paper = self.papers[number % len(self.papers)]
            path = {"comment": "papers/easyquant/comment", "subscribe": "subscribe", "vote": f"papers/{paper}/vote"}
            for _ in range(60):
                try:
                    cookie = {"Cookie": f"csrftoken={token}"}
                    answer = httpx.post(self.up.address + path[what], data=sent, headers=cookie, timeout=10)
                except httpx.HTTPError:
                    time.sleep(0.1)
                    continue
                if answer.status_code in (200, 302):
                    self.answered[what].append(paper if what == "vote" else str(number))
                    break
                time.sleep(0.1)

    def end(self) -> list[str]:
        """The records that were told."""
        self.stop.set()
        for one in self.people:
            one.join()
        self.writer.kill()
        self.writer.wait()
        return [line for line in self.log.read_text().split("\n")[:-1] if line]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_under_load_nothing_is_lost_or_doubled(
    start: Callable[..., Up], tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    database: Postgres | None = request.getfixturevalue("server") if kind == "postgresql" else None
    up = start("--workers", "2", **({"PAPERLAB_DATABASE": database.address} if database else {}))
    load = Load(up, tmp_path / "home", tmp_path / "told")
    draw = random.Random(3)
    for name in ("server", "database", "worker", "records", "server", "database"):
        time.sleep(draw.uniform(0.5, 1.5))
        if name == "records":
            load.writer.kill()
            load.writer.wait()
            load.writer = load.write()
        elif name != "database":
            children = wait(lambda name=name: up.children()[name], up.text)  # type: ignore[misc]
            draw.choice(children).kill()
        elif database is not None:
            database.kill()
            time.sleep(draw.uniform(0, 0.5))
            database.start()
    answered = {what: len(told) for what, told in load.answered.items()}
    wait(lambda: all(len(told) > answered[what] + 3 for what, told in load.answered.items()), up.text, 60)  # it goes on
    written = load.end()
    assert up.end() == 0
    rows = read(tmp_path / "home", database.address if database else "")
    for what, told in load.answered.items():
        assert len(rows[what]) == len(set(rows[what])), what
        assert set(told) <= set(rows[what]), what
        assert len(told) > 5
    # Every question whether to subscribe is one letter at most.
    letters = [
        email.message_from_bytes(file.read_bytes())["To"] for file in (tmp_path / "home" / "outbox").glob("*.eml")
    ]
    assert len(letters) == len(set(letters))
    from paperlab.core import record

    kept = [one.id for one in record.read((tmp_path / "home" / "records",)) if re.fullmatch(r"w\d+-\d+", one.id)]
    assert set(written) <= set(kept)
    assert len(kept) == len(set(kept))
    assert len(written) > 20


def read(home: Path, address: str) -> dict[str, list[str]]:
    """What the store holds."""
    asked = {
        "comment": "SELECT body FROM people_comment",
        "subscribe": "SELECT email FROM digest_subscription",
        "vote": "SELECT p.arxiv FROM people_vote v JOIN catalogue_paper p ON p.id = v.paper_id",
    }
    connection: Any
    if address:
        import psycopg

        connection = psycopg.connect(address)
    else:
        connection = sqlite3.connect(home / "paperlab.sqlite3")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    try:
        rows = {what: [row[0] for row in connection.execute(sql)] for what, sql in asked.items()}
    finally:
        connection.close()
    rows["comment"] = [body.removeprefix("said ") for body in rows["comment"]]
    rows["subscribe"] = [mail[1:].partition("@")[0] for mail in rows["subscribe"]]
    return rows


def post(up: Up, path: str, **sent: str) -> httpx.Response:
    token = re.search(r"csrftoken=(\w+)", up.get("sign-in").headers["set-cookie"])[1]  # type: ignore[index]
    sent["csrfmiddlewaretoken"] = token
    return httpx.post(up.address + path, data=sent, headers={"Cookie": f"csrftoken={token}"}, timeout=60)


def test_a_locked_database_is_waited_for(start: Callable[..., Up], tmp_path: Path) -> None:
    up = start()
    up.get("papers/easyquant")
    other = sqlite3.connect(tmp_path / "home" / "paperlab.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(2, lambda: other.execute("ROLLBACK")).start()
    assert up.get("papers/easyquant").status_code == 200  # reading goes on
    begun = time.monotonic()
    assert post(up, "papers/easyquant/comment", body="Said while it was locked", once="1").status_code == 302
    assert time.monotonic() - begun > 0.5
    assert "Said while it was locked" in up.get("papers/easyquant").text
    other.close()
    assert up.end() == 0


def test_a_database_that_is_away_is_said_and_comes_back(start: Callable[..., Up], server: Postgres) -> None:
    up = start(PAPERLAB_DATABASE=server.address)
    assert up.get("papers/easyquant").status_code == 200
    server.kill()
    for path in ("papers/easyquant", "", "search?q=quantization", "account"):
        answer = up.get(path)
        assert answer.status_code == 503, path
        assert int(answer.headers["Retry-After"]) > 0
        assert "Try again in a moment" in answer.text
    assert up.get("api/papers").status_code == 503
    assert up.get("about").status_code == 200  # asks nothing of the store
    server.start()
    wait(lambda: up.get("papers/easyquant").status_code == 200, up.text)
    assert post(up, "papers/easyquant/comment", body="Back again", once="1").status_code == 302
    assert up.end() == 0
