"""The digest: who gets what, once at most, whatever the relay or a crash does; and who may stop or start it."""

import asyncio
import email
import email.policy
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from api_papers import HOSTILE, item, seen, take
from local_server import free_port

DAY = date(2024, 5, 27)  # a Monday
ADDRESSES = iter(range(1, 10_000))


class Relay:
    """A relay that keeps what it takes. how: what it does with a letter."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, Any]] = []
        self.how = ""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.how == "no such user" and address.startswith("p1@"):
            return "550 no such user"
        if self.how == "not now":
            return "451 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.how == "hang up" and len(self.letters) == 1:
            self.how = ""
            self.letters.append((envelope.rcpt_tos[0], None))  # taken, but its answer never comes
            server.transport.abort()
            return "250 OK"
        if self.how == "slow":
            await asyncio.sleep(2)
        if self.how == "refuse":
            return "554 no"
        self.letters.append(
            (envelope.rcpt_tos[0], email.message_from_bytes(envelope.content, policy=email.policy.default))
        )
        return "250 OK"


@pytest.fixture
def relay(store: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    from django.conf import settings

    made = Relay()
    port = free_port()
    controller = Controller(made, hostname="127.0.0.1", port=port)
    controller.start()
    monkeypatch.setattr(settings, "PAPERLAB_SMTP", f"smtp://127.0.0.1:{port}")
    yield made
    controller.stop()


@pytest.fixture
def papers(store: None) -> None:
    take(item(n, sightings=seen(DAY, n), authors=["A. Author"] if n == 1 else ["B. Other"]) for n in range(1, 6))
    take([item(9, title=HOSTILE["script"], sightings=seen(DAY, 1), authors=["</p><script>"])])


def person(number: int, **facts: Any) -> Any:
    from paperlab.site.digest.models import Subscription

    facts = {"state": "active", "nonce": f"{number:024d}", **facts}
    return Subscription.objects.create(email=f"p{number}@example.org", **facts)


def send(day: date = DAY) -> Any:
    from paperlab.site.digest import send

    return send.digest(day)


def browser(**options: Any) -> Any:
    from django.test import Client

    return Client(headers={"host": "localhost"}, REMOTE_ADDR=f"203.0.113.{next(ADDRESSES) % 250}", **options)


def test_each_gets_what_is_theirs_once(relay: Relay, papers: None) -> None:
    from paperlab.site.digest.models import Delivery

    person(1)
    person(2, interests=[["author", "a. author"]])
    person(3, interests=[["family", "merging"]])
    person(4, state="pending")
    person(5, state="stopped")
    person(6, every="week", interests=[["search", "q=quantization"], ["author", "A. Author"]])
    counts = send()
    assert (counts.people, counts.sent, counts.nothing) == (4, 3, 1)
    assert send().before == 3
    letters = dict(relay.letters)
    assert sorted(letters) == ["p1@example.org", "p2@example.org", "p6@example.org"]
    one = letters["p2@example.org"]
    text, html = (one.get_body((kind,)).get_content() for kind in ("plain", "html"))
    for part in (text, html):
        assert "Paper number 1 on quantization" in part
        assert "number 2" not in part
        assert "/papers/2401.00001" in part
    assert one["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    hostile = letters["p1@example.org"].get_body(("html",)).get_content()
    assert "<script>" not in hostile
    assert "&lt;script&gt;" in hostile
    names = {letter["Message-ID"] for letter in letters.values()}
    assert names == set(Delivery.objects.values_list("message_id", flat=True))
    assert len(names) == 3
    counts = send(date(2024, 5, 29))
    assert (counts.people, counts.sent, counts.nothing) == (3, 0, 3)  # nothing new, no mail; and no Monday


def test_an_account_brings_what_it_follows(relay: Relay, papers: None) -> None:
    from django.contrib.auth.models import User

    from paperlab.site.people import actions

    row = person(1, interests=[["family", "merging"]])
    actions.follow(User.objects.create(username=row.email, email=row.email), "author", "A. Author", True)
    assert send().sent == 1
    assert "Paper number 1 " in relay.letters[0][1].get_body(("plain",)).get_content()


def test_a_followed_claim_that_was_checked_is_told(relay: Relay) -> None:
    from paperlab.site import records

    row = next(r for r in records.record_index().verdicts.values() if r["role"] == "claim")
    person(1, interests=[["claim", f"{row['method']}:{row['claim']}"]])
    when = date.fromisoformat(str(row.get("finished") or row["started"])[:10])
    assert send(when).sent == 1
    assert row["word"] in relay.letters[0][1].get_body(("plain",)).get_content()


def test_a_relay_that_is_away_costs_nobody_a_letter(
    relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.conf import settings

    from paperlab.site.digest import post

    person(1), person(2)
    right = settings.PAPERLAB_SMTP
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(settings, "PAPERLAB_SMTP", f"smtp://127.0.0.1:{closed.getsockname()[1]}")
        for _ in range(4):
            with pytest.raises(post.Away):
                send()
    monkeypatch.setattr(settings, "PAPERLAB_SMTP", right)
    assert send().sent == 2
    assert sorted(to for to, _ in relay.letters) == ["p1@example.org", "p2@example.org"]


def test_a_refused_address_is_written_to_no_more_and_holds_up_nobody(relay: Relay, papers: None) -> None:
    from paperlab.site.digest.models import Subscription

    person(1), person(2)
    relay.how = "no such user"
    counts = send()
    assert (counts.sent, counts.refused) == (1, 1)
    assert Subscription.objects.get(email="p1@example.org").state == "suppressed"
    browser().post("/subscribe", {"email": "p1@example.org"})
    assert not Subscription.objects.get(email="p1@example.org").wanted


@pytest.mark.parametrize("how", ["not now", "refuse"])
def test_what_is_refused_for_the_moment_is_tried_again_a_few_times(relay: Relay, papers: None, how: str) -> None:
    person(1)
    relay.how = how
    assert send().refused == 1
    relay.how = ""
    assert send().sent == 1
    person(2)
    relay.how = how
    assert [send().refused for _ in range(5)] == [1, 1, 1, 0, 0]


def test_a_relay_that_hangs_up_half_way_gets_nothing_twice(relay: Relay, papers: None) -> None:
    for number in range(1, 5):
        person(number)
    relay.how = "hang up"
    counts = send()
    assert (counts.sent, counts.unsure) == (3, 1)
    send()
    assert sorted(to for to, _ in relay.letters) == [f"p{n}@example.org" for n in range(1, 5)]


def test_a_relay_that_is_slow_is_not_waited_for_without_end(
    relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paperlab.site.digest import post

    person(1)
    relay.how = "slow"
    monkeypatch.setattr(post.Smtp, "__init__", _impatient(post.Smtp.__init__))
    assert send().unsure == 1
    assert send().before == 1


def _impatient(made: Any) -> Any:
    def init(self: Any, *words: Any, **named: Any) -> None:
        made(self, *words, **named)
        self.timeout = 0.5

    return init


def test_subscribing_takes_the_owner_of_the_address(relay: Relay) -> None:
    from paperlab.site.digest import letters
    from paperlab.site.digest.models import Subscription

    one = browser()
    answer = one.post("/subscribe", {"email": "New@Example.org", "every": "week", "family": ["pruning"]})
    assert answer.status_code == 200
    row = Subscription.objects.get()
    assert (row.email, row.state, row.interests) == ("new@example.org", "pending", [])
    assert letters.urgent()
    assert not letters.urgent()
    ((_, letter),) = relay.letters
    link = next(word for word in letter.get_body(("plain",)).get_content().split() if "/subscribe/" in word)
    where = "/" + link.split("/", 3)[3]
    token = where.rpartition("/")[2]
    row.refresh_from_db()
    assert token not in str(vars(row))
    assert browser().get(where).status_code == 200  # asks
    assert Subscription.objects.get().state == "pending"
    assert browser().post(where).status_code == 200
    row.refresh_from_db()
    assert (row.state, row.every, row.interests) == ("active", "week", [["family", "pruning"]])
    assert browser().post(where).status_code == 410  # once
    again = browser().post("/subscribe", {"email": "new@example.org"})
    assert again.content.replace(b"new@", b"") == answer.content.replace(b"new@", b"")  # tells nobody
    row.refresh_from_db()
    assert (row.state, row.every) == ("active", "week")  # nothing changes until its owner says so


def test_a_letter_to_sign_in_waits_for_the_relay(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    from paperlab.site.digest import letters, post

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    one = browser()
    one.post("/sign-in", {"email": "waits@example.org"})
    right = settings.PAPERLAB_SMTP
    monkeypatch.setattr(settings, "PAPERLAB_SMTP", "smtp://127.0.0.1:1")
    with pytest.raises(post.Away):
        letters.urgent()
    monkeypatch.setattr(settings, "PAPERLAB_SMTP", right)
    assert letters.urgent()
    ((_, letter),) = relay.letters
    link = next(word for word in letter.get_body(("plain",)).get_content().split() if "/sign-in/" in word)
    assert one.post("/" + link.split("/", 3)[3]).status_code == 302


def test_one_click_stops_it_and_reading_does_not(relay: Relay, papers: None) -> None:
    from paperlab.site.digest.models import Subscription

    person(1)
    send()
    link = str(relay.letters[0][1]["List-Unsubscribe"]).strip("<>")
    where = "/" + link.split("/", 3)[3]
    strict = browser(enforce_csrf_checks=True)
    assert strict.get(where).status_code == 200
    assert Subscription.objects.get().state == "active"
    assert strict.post(where, {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert Subscription.objects.get().state == "stopped"
    for wrong in ("x", "0" * 64, where.rpartition("/")[2][:-1] + "z", "é" * 40, "a" * 5000):
        assert strict.post(f"/unsubscribe/{wrong}").status_code == 404, wrong
    assert send(date(2024, 5, 28)).people == 0


def test_bad_addresses_and_interests(relay: Relay) -> None:
    for sent in (
        {"email": "no address"}, {"email": "a@b.example\r\nBcc: c@d.example"}, {"email": "a" * 200 + "@example.org"},
        {"email": ""}, {"email": "a@example.org", "family": "nothing"}, {"email": "a@example.org", "claim": "x:y"},
        {"email": "a@example.org,b@example.org"}, {"email": "a\0@example.org"},
    ):  # fmt: skip
        assert browser().post("/subscribe", sent).status_code == 400, sent


@pytest.mark.parametrize("url", ["http://x", "smtp://", "smtp://h:99999", "smtp://h/path", "smtp://h?tls=x", "h:25"])
def test_a_bad_relay_is_said(url: str) -> None:
    from paperlab.site.digest import post

    with pytest.raises(post.SmtpError, match="PAPERLAB_SMTP"):
        post.read(url)
    made = post.read("smtp://user:p%40ss@mail.example.org?tls=start")
    assert made is not None
    assert (made.host, made.port, made.user, made.password, made.tls) == (
        "mail.example.org", 587, "user", "p@ss", "start",
    )  # fmt: skip


def test_files_and_counts_note_nothing(store: None, papers: None, tmp_path: Path) -> None:
    from paperlab.site.digest import send as sending
    from paperlab.site.digest.models import Delivery

    person(1)
    assert sending.digest(DAY, dry=True).sent == 1
    for _ in range(2):
        assert sending.digest(DAY, to=tmp_path / "letters").sent == 1
    (file,) = (tmp_path / "letters").glob("*.eml")
    letter = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    assert letter["To"] == "p1@example.org"
    assert not Delivery.objects.exists()


SENDER = """
import sys
from datetime import date
from paperlab.site.start import configure
configure()
from paperlab.site.digest import send
send.digest(date(2024, 5, 27))
"""


@pytest.mark.kill
@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nobody_gets_two(relay: Relay, tmp_path: Path, kills: int) -> None:
    from django.conf import settings

    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path), "PAPERLAB_SMTP": settings.PAPERLAB_SMTP}
    environment.pop("PAPERLAB_DATABASE", None)
    people = 300
    made = (
        "from paperlab.site.start import configure; configure()\n"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from api_papers import item, seen, take\nfrom datetime import date\n"
        "take([item(1, sightings=seen(date(2024, 5, 27), 3))])\n"
        "from paperlab.site.digest.models import Subscription\n"
        "Subscription.objects.bulk_create([Subscription(email=f'p{n}@example.org', state='active', nonce=str(n)) "
        f"for n in range({people})])"
    )
    here = {
        **environment,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    subprocess.run([sys.executable, "-c", made], env=here, check=True, timeout=60)
    draw, cut = random.Random(kills), 0
    while cut < kills:
        before = len(relay.letters)
        sender = subprocess.Popen([sys.executable, "-c", SENDER], env=environment)
        while len(relay.letters) == before and sender.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.15))
        sender.kill()
        sender.wait()
        cut += 1
    assert subprocess.run([sys.executable, "-c", SENDER], env=environment, timeout=120).returncode == 0
    got = [to for to, _ in relay.letters]
    assert len(got) == len(set(got))  # nobody twice
    assert people - kills <= len(got) <= people  # and of each kill, one letter at most may be lost
    assert threading.active_count() < 50


REPORT = """\
From: MAILER-DAEMON@mail.example.org
Content-Type: multipart/report; report-type=delivery-status; boundary="b"
MIME-Version: 1.0

--b
Content-Type: text/plain

It did not work.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.org

Final-Recipient: rfc822; P1@example.org
Action: {action}
Status: {status}

--b--
"""


def test_a_report_of_a_bounce_is_read(store: None) -> None:
    from paperlab.site.digest import bounces, send
    from paperlab.site.digest.models import Subscription

    person(1)
    assert bounces.failed(REPORT.format(action="delayed", status="4.4.1").encode()) == []
    assert bounces.failed(REPORT.format(action="failed", status="4.2.2").encode()) == []
    (gone,) = bounces.failed(REPORT.format(action="failed", status="5.1.1").encode())
    assert send.suppress(gone, "bounced")
    assert Subscription.objects.get().state == "suppressed"
    draw, whole = random.Random(1), REPORT.format(action="failed", status="5.1.1").encode()
    for _ in range(300):  # whatever comes in, it is read or left
        broken = bytearray(whole)
        for _ in range(draw.randrange(1, 20)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        bounces.failed(bytes(broken[: draw.randrange(len(broken))]))
