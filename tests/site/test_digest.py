"""The digest: who gets what, once at most, whatever the relay or a crash does; and who may stop or start it."""

import asyncio
import email
import email.policy
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from api_papers import HOSTILE, item, seen, take
from local_server import free_port

DAY = date(2024, 5, 27)  # a Monday
SUNDAY = date(2024, 6, 2)  # on which DAY's week ends
ADDRESSES = iter(range(1, 10_000))


class Relay:
    """A relay that keeps what it takes. how: what it does with a letter. says: what it answers to a command instead of
    taking it, to which addresses (all of them); a word in place of a code is what it does: "hang up" or "sleep".
    raw: the letters as they came; asked: the addresses of RCPT, refused or not."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, Any]] = []
        self.raw: list[bytes] = []
        self.asked: list[str] = []
        self.how = ""
        self.says: dict[str, str] = {}
        self.to = ""

    async def answer(self, command: str, server: Any, address: str) -> str | None:
        said = self.says.get(command) if self.to in address else None
        if said == "hang up":
            server.transport.abort()
        if said == "sleep":
            await asyncio.sleep(2)
            return None
        return said

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if said := await self.answer("MAIL", server, address):
            return said
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        self.asked.append(address)
        if said := await self.answer("RCPT", server, address):
            return said
        if self.how == "no such user" and address.startswith("p1@"):
            return "550 no such user"
        if self.how == "not now":
            return "451 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if said := await self.answer("DATA", server, envelope.rcpt_tos[0]):
            return said
        if self.how == "hang up" and len(self.letters) == 1:
            self.how = ""
            self.letters.append((envelope.rcpt_tos[0], None))  # taken, but its answer never comes
            server.transport.abort()
            return "250 OK"
        if self.how == "slow":
            await asyncio.sleep(2)
        if self.how == "refuse":
            return "554 no"
        self.raw.append(envelope.content)
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
    assert (counts.people, counts.sent, counts.nothing) == (3, 2, 1)
    assert send().before == 2
    weekly = send(SUNDAY)  # what is sent on Monday
    assert (weekly.people, weekly.sent, weekly.nothing) == (4, 1, 3)
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
    assert (counts.people, counts.sent, counts.nothing) == (3, 0, 3)  # nothing new, no mail; and no end of a week


def text_of(relay: Relay, to: str) -> str:
    """The plain text of the last letter to somebody."""
    return [one for who, one in relay.letters if who == to][-1].get_body(("plain",)).get_content()


def test_a_followed_search_finds_every_new_paper(engine: str, relay: Relay) -> None:
    # Hundreds of older papers are more about it than any of the day's, by every measure of relevance.
    take(item(n, title=f"Diffusion by diffusion, of diffusion {n}", abstract="Diffusion. " * 9) for n in range(1, 160))
    said = "We train a model, at length, for speech, text and more; of its parts one is the diffusion head."
    take(item(n, title=f"A study, part {n}", abstract=said, sightings=seen(DAY, n)) for n in range(201, 281))
    take(item(n, title=f"Elsewhere {n}", abstract="Of pruning.", sightings=seen(DAY, n)) for n in range(301, 320))
    person(1, interests=[["search", "q=diffusion"]])
    person(2, interests=[["search", "q=diffusion+head&year=2020"]])
    person(3, interests=[["search", "q=%22diffusion+head%22"], ["search", "q=diffusoin"]])
    person(4, interests=[["search", "q=diffusion+pruning"]])
    assert send().sent == 2
    for to in ("p1@example.org", "p3@example.org"):
        text = text_of(relay, to)
        assert text.count("A study, part") == 60  # with what they say, or by their titles
        assert "And 20 more: http" in text
        assert "Elsewhere" not in text
    assert "SEARCH: DIFFUSION\r\n" in text_of(relay, "p1@example.org")


def test_a_followed_search_finds_what_is_as_near_in_meaning(meaning: Any, relay: Relay) -> None:
    from paperlab.site.search import index

    take(item(n, title=f"Speech codec {n}", abstract="A speech codec.") for n in range(1, 9))
    take([item(20, title="Speech codec", abstract="A speech codec.", sightings=seen(DAY, 1))])
    take([item(21, title="Of bees", abstract="Flowers, honey.", sightings=seen(DAY, 9))])
    index.refresh()
    person(1, interests=[["search", "q=speech+codec"]])
    person(2, interests=[["search", "q=neverheard+codec"]])  # a name that no paper holds: nothing is "near" it
    assert (counts := send()).sent == 1, counts
    text = text_of(relay, "p1@example.org")
    assert "/papers/2401.00020" in text
    assert "bees" not in text


def test_a_search_that_cannot_be_answered_is_not_told_as_nothing_new(
    relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paperlab.site.digest import choose
    from paperlab.site.search import index

    person(1, interests=[["search", "q=quantization"]])
    with monkeypatch.context() as patch:
        patch.setattr(index, "refresh", lambda **options: None)  # another process holds it, or its disk is full
        with pytest.raises(choose.Unsearched, match="index"):
            send()
    assert send().sent == 1


@pytest.mark.parametrize("every", ["day", "week"])
def test_what_comes_in_after_the_digest_of_its_day_is_in_the_next_one(relay: Relay, every: str) -> None:
    """As arXiv's papers do, which are dated when they were sent in: one to four days before they can be read."""
    from paperlab.site.digest import hours
    from paperlab.site.store.models import Paper

    sunday = DAY + timedelta(6 - DAY.weekday())
    first, last = (sunday, sunday) if every == "day" else (sunday - timedelta(6), sunday)
    step = 1 if every == "day" else 7
    before = hours.goes(first - timedelta(1))
    minute, days = timedelta(minutes=1), timedelta(1)
    dated = {
        "of the day": (last, before),
        "late": (first - days, before + minute),
        "late, of the weekend": (first - 3 * days, hours.goes(last) - minute),
        "in time": (first - days, before - minute),
        "later still": (first - days, hours.goes(last)),
        "old": (first - 60 * days, before + minute),
    }
    for number, (title, (day, came)) in enumerate(dated.items(), 1):
        take([item(number, title=title, published=datetime.combine(day, datetime.min.time(), UTC))])
        Paper.objects.filter(title=title).update(added=came)
    take([item(7, title="listed late", sightings=seen(first - 2 * days, 1))])  # and published in January
    Paper.objects.filter(title="listed late").update(added=before + minute)
    person(1, every=every)

    def told(day: date) -> set[str]:
        relay.letters.clear()
        send(day)
        lines = text_of(relay, "p1@example.org").splitlines() if relay.letters else []
        return {title for title in [*dated, "listed late"] if title in lines}

    assert told(last) == {"of the day", "late", "late, of the weekend", "listed late"}
    assert told(last + step * days) == {"later still"}
    assert told(last + 2 * step * days) == set()


def test_an_account_brings_what_it_follows(relay: Relay, papers: None) -> None:
    from django.contrib.auth.models import User

    from paperlab.site.people import actions

    row = person(1, interests=[["family", "merging"]])
    actions.follow(User.objects.create(username=row.email, email=row.email), "author", "A. Author", True)
    assert send().sent == 1
    assert "Paper number 1 " in relay.letters[0][1].get_body(("plain",)).get_content()


def a_reader(number: int, *votes: str, **facts: Any) -> Any:
    """A subscriber with an account that has voted for some papers."""
    from django.contrib.auth.models import User

    from paperlab.site.people import actions
    from paperlab.site.store.models import Paper

    row = person(number, **facts)
    user = User.objects.create(username=row.email, email=row.email)
    for arxiv in votes:
        actions.vote(user, Paper.objects.get(arxiv=arxiv), True)
    return user


def raw_of(relay: Relay, to: str, kind: str) -> str:
    """One part of the last e-mail to somebody, decoded from the bytes that came, its lines joined."""
    where = max(n for n, (who, _) in enumerate(relay.letters) if who == to)
    for part in email.message_from_bytes(relay.raw[where]).walk():
        if part.get_content_type() == kind:
            return " ".join(part.get_payload(decode=True).decode("utf-8").split())
    raise AssertionError(f"no {kind}")


@pytest.mark.parametrize("vectors", [True, False])
def test_papers_are_picked_for_who_voted_with_the_reason(
    vectors: bool, relay: Relay, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_for_you import fill, key

    from paperlab.site.people import actions
    from paperlab.site.search import index

    if vectors:
        request.getfixturevalue("meaning")
    else:
        refresh = index.refresh
        monkeypatch.setattr(index, "refresh", lambda **options: refresh(**{**options, "meaning": False}))
    now = datetime.now(UTC)
    last = now - timedelta((now.weekday() - 6) % 7)  # a Sunday: all new papers are of one week on whatever day it runs
    fill(today=last)
    monkeypatch.setattr(index, "refresh", lambda **options: None)
    sunday = last.date()
    votes = [key("speech", n) for n in range(4)]
    a_reader(1, *votes, every="week")
    a_reader(2, *votes, every="week", for_you=False)
    a_reader(3, *votes[:2], every="week")  # too little
    follows = a_reader(4, *votes, every="week", interests=[["author", "speech author 11"]])
    person(5, every="week")  # no account
    a_reader(7, *[key("robot", n) for n in range(4)], every="week")
    gone = a_reader(8, *votes, every="week")
    gone.is_active = False
    gone.save()
    from paperlab.site.store.models import Paper

    Paper.objects.filter(arxiv__in=[key("robot", n) for n in range(4)]).update(
        title="</a><script>alert(1)</script>\r\nBcc: x"
    )
    actions.follow(follows, "author", "Proof author 12", True)
    assert send(sunday).sent == 7
    for kind in ("text/plain", "text/html"):
        one = raw_of(relay, "p1@example.org", kind)
        heading = "FOR YOU" if kind == "text/plain" else ">For you</h2>"
        picked = one.partition(heading)[2].partition("NEW PAPERS" if kind == "text/plain" else "New papers")[0]
        assert "Speech work" in picked
        assert "Robot work" not in picked
        assert "Because you voted for" in picked
        addresses = (
            re.findall(r"/papers/(2401\.\d+)", one)
            if kind == "text/html"
            else re.findall(r"(?<=/papers/)2401\.\d+", one)
        )
        new = [address for address in addresses if address not in votes]
        assert len(new) == len(set(new)), f"a paper twice in {kind}"
        for nobody in (2, 3, 5, 8):
            assert heading not in raw_of(relay, f"p{nobody}@example.org", kind)
            assert "Because" not in raw_of(relay, f"p{nobody}@example.org", kind)
        asked = raw_of(relay, "p4@example.org", kind)
        title = re.search(r"Speech work 11: \w+ and \w+", asked)[0]  # type: ignore[index]
        assert asked.count(title) == 1  # what was asked for by name stands there alone
        assert asked.index(title) < asked.index(heading)
        assert "NEW PAPERS" not in asked.upper()
        assert "Because you voted for" in asked
    html = raw_of(relay, "p7@example.org", "text/html")
    assert "<script>" not in html
    assert "&lt;/a&gt;&lt;script&gt;" in html
    head = relay.raw[[to for to, _ in relay.letters].index("p7@example.org")].partition(b"\r\n\r\n")[0]
    assert b"Bcc" not in head
    links = set(re.findall(r'href="([^"]+)"', raw_of(relay, "p1@example.org", "text/html")))
    assert all(link.startswith("http") for link in links)


def test_for_you_is_left_out_by_who_asks_for_that(relay: Relay) -> None:
    from paperlab.site.digest.models import Subscription

    form = browser().get("/subscribe").content.decode()
    assert re.search(r'<label><input type="checkbox" name="without" value="for-you"> Leave out', form)
    for sent, wanted in (({"without": "for-you"}, False), ({}, True)):
        browser().post("/subscribe", {"email": "q@example.org", **sent})
        where = confirmation(relay)
        browser().post(where)
        assert Subscription.objects.get(email="q@example.org").for_you is wanted


def test_picking_for_a_hundred_readers_takes_moments(relay: Relay, meaning: Any) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from test_for_you import fill, key

    from paperlab.site.digest import choose

    fill()
    readers = [a_reader(n, *[key("speech", (n + k) % 10) for k in range(4)]).pk for n in range(100)]
    issue = choose.Issue(datetime.now(UTC).date(), "week", "http://localhost")
    issue.sections([("all", "")])
    with CaptureQueriesContext(
        connection,
    ) as asked:
        found = [issue.sections([], reader) for reader in readers]
    assert all(sections[0].title == "For you" for sections in found)
    assert len(asked) <= 30 * len(readers), len(asked)
    began = time.process_time()
    for reader in readers[:20]:
        issue.sections([], reader)
    assert time.process_time() - began < 2


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
    from paperlab.site.digest import letters
    from paperlab.site.digest.models import Subscription

    person(1), person(2)
    relay.how = "no such user"
    counts = send()
    assert (counts.sent, counts.refused) == (1, 1)
    assert Subscription.objects.get(email="p1@example.org").state == "suppressed"
    # Its owner can come back: whoever gets the e-mail is there.
    relay.how = ""
    browser().post("/subscribe", {"email": "p1@example.org"})
    where = confirmation(relay)
    browser().post("/subscribe", {"email": "p1@example.org"})
    assert not letters.urgent()  # but a place without anybody is not written to again and again
    assert Subscription.objects.get(email="p1@example.org").state == "suppressed"
    assert browser().post(where).status_code == 200
    assert send().sent == 1
    assert relay.letters[-1][0] == "p1@example.org"


@pytest.mark.parametrize("how", ["not now", "refuse"])
def test_what_is_refused_for_the_moment_is_tried_again_a_few_times(relay: Relay, papers: None, how: str) -> None:
    person(1)
    relay.how = how
    assert send().refused == 1
    relay.how = ""
    assert send().sent == 1
    relay.to, relay.says = "p2@", {"RCPT": "451 4.3.0 not now"} if how == "not now" else {"DATA": "554 5.6.0 no"}
    person(2)
    refused = []
    for number in range(3, 12):  # each time somebody else gets theirs, so it is not the site that is refused
        person(number)
        refused.append(send().refused)
    assert refused == [1, 1, 1, 1, 1, 1, 0, 0, 0]


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


def confirmation(relay: Relay) -> str:
    """The path of the link in the e-mail that asks to confirm, which is sent now."""
    from paperlab.site.digest import letters

    assert letters.urgent()
    text = relay.letters[-1][1].get_body(("plain",)).get_content()
    return "/" + next(word for word in text.split() if "/subscribe/" in word).split("/", 3)[3]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("RCPT", "554 5.7.1 <someone>: Relay access denied"),
        ("RCPT", "550 5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org"),
        ("RCPT", "552 5.2.2 Mailbox full"),
        ("RCPT", "452 4.2.2 Mailbox full"),
        ("RCPT", "550 5.1.8 Sender address rejected: domain not found"),
        ("RCPT", "550 rejected because of poor reputation"),
        ("RCPT", "553 sender address rejected: not owned by user"),
        ("DATA", "554 5.7.1 this looks like spam"),
        ("DATA", "552 5.3.4 too big"),
    ],
)
def test_a_refusal_of_the_site_or_of_the_moment_suppresses_nobody(
    relay: Relay, papers: None, command: str, said: str
) -> None:
    from paperlab.site.digest.models import Subscription

    for number in range(1, 5):
        person(number)
    relay.says = {command: said}
    counts = send()
    assert (counts.sent, counts.refused) == (0, 4)
    assert said in counts.reason
    assert set(Subscription.objects.values_list("state", flat=True)) == {"active"}
    relay.says = {}
    assert send().sent == 4


@pytest.mark.parametrize(
    "said",
    [
        "550 5.1.1 <x>: Recipient address rejected: User unknown in local recipient table",
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound",
        "556 5.1.10 null MX",
        "550 5.1.2 no such domain",
        "550 No such user here",
        "550 Requested action not taken: mailbox unavailable, user not found",
    ],
)
def test_an_address_without_anybody_is_known_by_what_the_relay_means(relay: Relay, papers: None, said: str) -> None:
    from paperlab.site.digest.models import Subscription

    for number in range(1, 10):
        person(number)
    relay.says = {"RCPT": said}
    assert send().refused == 9
    # A relay that knows nobody at all is one that is set up wrongly.
    assert set(Subscription.objects.values_list("state", flat=True)) == {"active"}
    relay.to = "p3@"
    assert send().sent == 8
    gone = Subscription.objects.exclude(state="active")
    assert [(row.email, row.state, row.reason) for row in gone] == [("p3@example.org", "suppressed", said)]


def test_a_run_of_equal_refusals_stops_the_sending_and_tells_the_owner(
    relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.conf import settings
    from django.test import Client

    from paperlab.site.digest import post

    for number in range(1, 13):
        person(number)
    relay.says = {"RCPT": "554 5.7.1 Relay access denied"}
    with pytest.raises(post.Refusing, match="Relay access denied"):
        send()
    assert relay.asked == [f"p{n}@example.org" for n in range(1, 6)]
    with pytest.raises(post.Refusing, match="6 e-mails in a row"):
        send()
    assert relay.asked[5:] == ["p6@example.org"]  # one try, with somebody else
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", True)
    owner = Client(headers={"host": "localhost"}, REMOTE_ADDR="127.0.0.1").get("/subscribe").content.decode()
    assert "554 5.7.1 Relay access denied" in owner
    assert "PAPERLAB_SMTP" in owner
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    for path in ("/subscribe", "/sign-in"):
        stranger = browser().get(path).content.decode()
        assert "is refusing e-mail at the moment" in stranger
        assert "Relay access" not in stranger
    answer = browser().post("/subscribe", {"email": f"n{next(ADDRESSES)}@example.org"})
    assert (answer.status_code, "Check your inbox" in answer.content.decode()) == (200, False)
    relay.says = {}
    assert send().sent == 12
    assert sorted(to for to, _ in relay.letters) == sorted(f"p{n}@example.org" for n in range(1, 13))
    assert "refuses" not in browser().get("/subscribe").content.decode()


@pytest.mark.parametrize("said", ["550 5.7.1 not your sender", "530 5.7.0 Authentication required", "451 4.3.0 full"])
def test_a_relay_that_refuses_the_sender_is_asked_once(relay: Relay, papers: None, said: str) -> None:
    from paperlab.site.digest import post
    from paperlab.site.digest.models import Delivery

    person(1), person(2)
    relay.says = {"MAIL": said}
    with pytest.raises(post.Refusing, match=said[:3]):
        send()
    assert not relay.asked
    assert not Delivery.objects.filter(tries__gt=0).exists()
    relay.says = {}
    assert send().sent == 2


@pytest.mark.parametrize("command", ["MAIL", "RCPT"])
@pytest.mark.parametrize("how", ["hang up", "sleep", "421 4.3.2 shutting down"])
def test_a_relay_that_goes_away_before_the_text_costs_nobody_a_letter(
    relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch, command: str, how: str
) -> None:
    from paperlab.site.digest import post

    person(1), person(2)
    monkeypatch.setattr(post.Smtp, "__init__", _impatient(post.Smtp.__init__))
    relay.says = {command: how}
    with pytest.raises(post.Away):
        send()
    relay.says = {}
    assert send().sent == 2
    assert sorted(to for to, _ in relay.letters) == ["p1@example.org", "p2@example.org"]


def test_a_relay_that_refuses_and_hangs_up_is_understood(store: None, papers: None) -> None:
    """By hand, for aiosmtpd is too polite: "554 5.7.1", and the line is dead."""
    from django.test import override_settings

    from paperlab.site.digest.models import Delivery

    person(1), person(2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            for _ in range(2):
                line, _ = server.accept()
                with line, line.makefile("rb") as words:
                    line.sendall(b"220 here\r\n")
                    while command := words.readline():
                        if command.startswith(b"RCPT"):
                            line.sendall(b"554-5.7.1 no\r\n554 5.7.1 go away\r\n")
                            break
                        line.sendall(b"250 OK\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        with override_settings(PAPERLAB_SMTP=f"smtp://127.0.0.1:{server.getsockname()[1]}"):
            counts = send()
        thread.join(10)
    assert (counts.refused, counts.unsure) == (2, 0)
    assert set(Delivery.objects.values_list("reason", flat=True)) == {"554 5.7.1 no 5.7.1 go away"}


TEXT = {"subject", "from", "to"}  # where RFC 5322 has words, and RFC 2047 may encode them


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://papers.example.org", "https://papers.example.org"),
        (f"https://{'h' * 60}.{'i' * 60}.example.org:8443/é", f"https://{'h' * 60}.{'i' * 60}.example.org:8443/%C3%A9"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)  # fmt: skip
def test_headers_on_the_wire(relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    from django.conf import settings

    from paperlab.site.digest.models import Subscription

    monkeypatch.setattr(settings, "PAPERLAB_URL", url)
    monkeypatch.setattr(settings, "PAPERLAB_FROM", '"Die Bücher, täglich" <digest@papers.example.org>')
    monkeypatch.setattr(settings, "ALLOWED_HOSTS", ["*"])
    take([item(31, title="Ünïcödé " * 30, abstract="é\n.\n..\n" + "long " * 900, sightings=seen(DAY, 99))])
    take([item(32, title="W" * 900, sightings=seen(date(2024, 5, 28), 99))])
    Subscription.objects.create(email=f"{'a' * 64}@{'b' * 63}.example.org", state="active", nonce="1" * 24)
    person(2)
    assert send().sent == 2
    assert send(date(2024, 5, 28)).sent == 2
    browser().post("/subscribe", {"email": f"n{next(ADDRESSES)}@example.org"})
    where = confirmation(relay)
    assert len(relay.raw) == 5
    for raw in relay.raw:
        assert raw.isascii()  # no relay has to take 8 bits
        assert b"\r" not in raw.replace(b"\r\n", b"")
        assert b"\n" not in raw.replace(b"\r\n", b"")
        assert max(map(len, raw.split(b"\r\n"))) <= 998
        head = raw.partition(b"\r\n\r\n")[0].decode()
        lines = head.split("\r\n")
        for line in lines:
            assert line.strip()
            assert len(line) <= 78 or " " not in line.strip().partition(": ")[2], line  # nowhere to fold
            assert all(len(word) <= 75 for word in line.split() if word.startswith("=?"))
        fields, name = dict[str, str](), ""
        for line in lines:
            if line[0] in " \t":
                fields[name] += "\r\n" + line
            else:
                name = line.partition(":")[0].lower()
                assert name not in fields
                fields[name] = line.partition(":")[2].strip()
        assert all("=?" not in value for name, value in fields.items() if name not in TEXT)
        assert "=?" not in fields["to"]
        assert fields["from"].endswith("<digest@papers.example.org>")
        assert fields["auto-submitted"] == "auto-generated"
        assert re.fullmatch(r"<[0-9a-f]{40}@[a-z0-9.-]+>", fields["message-id"])
        if b"/subscribe/" in raw:
            continue
        # RFC 2369 and 8058, as a mail program without a decoder reads them.
        assert re.fullmatch(re.escape(f"<{shown}/unsubscribe/") + "[0-9a-f]{56}>", fields["list-unsubscribe"])
        assert fields["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
        assert re.fullmatch(r"paperlab digest(\r\n)? <digest\.[a-z0-9.-]+>", fields["list-id"])
        path = fields["list-unsubscribe"].strip("<>").removeprefix(shown)
        assert browser(enforce_csrf_checks=True).post(path, {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert where.startswith("/")
    assert not Subscription.objects.filter(state="active").exists()


@pytest.mark.parametrize(
    "to",
    ['"x<victim@example.org"@evil.org', '"victim@example.org> x"@evil.org', '"victim@example.org,b"@evil.org',
     "o'brien+tag@example.org", "a.b@xn--bcher-kva.example"],
)  # fmt: skip
def test_the_envelope_is_for_whom_the_letter_is(relay: Relay, to: str) -> None:
    from paperlab.site.digest import letters
    from paperlab.site.digest import relay as relays

    out = relays.relay()
    out.hand_over(letters.letter(to, "Hello", "text", "<p>text", letters.message_id("x"), {}))
    out.close()
    assert relay.asked == [to]
    assert relay.letters[0][1]["To"].addresses[0].addr_spec == to


def test_addresses_that_no_letter_can_be_for(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    from paperlab.site.digest import letters, post
    from paperlab.site.digest.models import Subscription
    from paperlab.site.people.models import SignIn

    for email_ in ('"x<victim@example.org"@evil.org', '"a b"@example.org', "a@b@example.org", "ä@example.org"):
        assert browser().post("/subscribe", {"email": email_}).status_code == 400, email_
        assert browser().post("/sign-in", {"email": email_}).status_code == 400, email_
    assert not SignIn.objects.exists()
    assert browser().post("/subscribe", {"email": "me@Bücher.example"}).status_code == 200
    assert Subscription.objects.get().email == "me@xn--bcher-kva.example"
    confirmation(relay)
    assert relay.asked == ["me@xn--bcher-kva.example"]
    for sender in ("paperlab", "a@example.org, b@example.org", "a@example.org\r\nBcc: c@d.example", "<>", "ä@x.org"):
        monkeypatch.setattr(settings, "PAPERLAB_FROM", sender)
        with pytest.raises(post.SmtpError, match="PAPERLAB_FROM"):
            send()
        with pytest.raises(post.SmtpError, match="PAPERLAB_FROM"):
            letters.letter("a@example.org", "x", "x", "x", "<x@y>", {})


def test_one_address_gets_few_letters_whoever_asks(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    from paperlab.site.api import limits
    from paperlab.site.digest import letters

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    clock = time.time()
    monkeypatch.setattr(limits.time, "time", lambda: clock)
    for hour in range(48):  # somebody asks for two days, from everywhere, for every spelling of the address
        clock += 3600
        for path in ("/subscribe", "/sign-in"):
            for spelling in ("victim", f"victim+{hour}", f"VICTIM+{hour}"):
                answer = browser().post(path, {"email": f"{spelling}@example.org"})
                assert answer.status_code in (200, 429)
                assert answer.status_code == 200 or "minutes, then" in answer.content.decode()
        while letters.urgent():
            pass
    assert len(relay.letters) <= 3 + 2 * 2 + 5 + 2 * 10


@pytest.mark.parametrize("path", ["/subscribe", "/sign-in"])
def test_without_a_relay_no_letter_is_promised(store: None, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    from django.conf import settings
    from django.test import Client

    monkeypatch.setattr(settings, "PAPERLAB_SMTP", "")
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", True)
    here = Client(headers={"host": "localhost"}, REMOTE_ADDR="127.0.0.1")
    for answer in (here.get(path), here.post(path, {"email": "me@example.org"})):
        page = answer.content.decode()
        assert "has no mail server" in page
        assert "outbox" in page
        assert "PAPERLAB_SMTP=smtp://" in page
        assert "on its way" not in page
    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    for answer in (browser().get(path), browser().post(path, {"email": "you@example.org"})):
        page = answer.content.decode()
        assert "cannot send e-mail" in page
        assert "outbox" not in page
        assert "on its way" not in page


def test_a_used_link_an_expired_one_and_an_unknown_one(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings
    from django.utils import timezone

    from paperlab.site.digest import letters
    from paperlab.site.digest.models import Subscription
    from paperlab.site.people.models import SignIn

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    for path, rows, again in (("/subscribe", Subscription, "/subscribe"), ("/sign-in", SignIn, "/sign-in")):
        browser().post(path, {"email": "links@example.org"})
        assert letters.urgent()
        text = relay.letters[-1][1].get_body(("plain",)).get_content()
        where = "/" + next(word for word in text.split() if f"{path}/" in word).split("/", 3)[3]
        kept = rows.objects.get()
        assert browser().post(where).status_code in (200, 302)
        for answer in (browser().get(where), browser().post(where)):
            assert answer.status_code == 410
            assert "This link was already used" in answer.content.decode()
        rows.objects.update(**{"expires": timezone.now(), **({"used": None} if rows is SignIn else {})})
        for answer in (browser().get(where), browser().post(where)):
            assert answer.status_code == 410
            assert "This link has expired" in answer.content.decode()
            assert f'href="{again}"' in answer.content.decode()
        unknown = browser().get(where[:-1])
        assert unknown.status_code == 410
        assert "This link does not work" in unknown.content.decode()
        assert kept.pk


@pytest.mark.parametrize(
    ("name", "hour"), [("UTC", "06:00"), ("America/Los_Angeles", "06:00"), ("Pacific/Auckland", "14:00")]
)
def test_every_week_is_on_monday_where_the_site_is(
    relay: Relay, papers: None, monkeypatch: pytest.MonkeyPatch, name: str, hour: str
) -> None:
    """In Auckland the day before is over in UTC only in the afternoon."""
    from zoneinfo import ZoneInfo

    from django.conf import settings

    from paperlab.site.digest import send as sending

    monkeypatch.setattr(settings, "PAPERLAB_TIMEZONE", name)
    monkeypatch.setattr(settings, "PAPERLAB_DIGEST_HOUR", 6.0)
    person(1, every="week")
    person(2)
    assert name in browser().get("/subscribe").content.decode()
    at = datetime(2024, 5, 26, tzinfo=UTC)
    job = sending.due(lambda: at)
    came: dict[str, list[datetime]] = {}
    while at < datetime(2024, 6, 12, tzinfo=UTC):
        before = len(relay.letters)
        job()
        for to, _ in relay.letters[before:]:
            came.setdefault(to, []).append(at.astimezone(ZoneInfo(name)))
        at += timedelta(minutes=30)
    assert [f"{when:%A %d %H:%M}" for when in came["p1@example.org"]] == [f"Monday 03 {hour}"]
    assert [f"{when:%A %d %H:%M}" for when in came["p2@example.org"]] == [f"Tuesday 28 {hour}"]


def test_a_week_whose_monday_had_no_worker_comes_late(relay: Relay, papers: None) -> None:
    from paperlab.site.digest import send as sending

    person(1, every="week", confirmed=datetime(2024, 6, 1, tzinfo=UTC))
    person(2, every="week", confirmed=datetime(2024, 6, 4, tzinfo=UTC))  # asked for it after that Monday
    person(3)
    at = datetime(2024, 6, 6, 12, tzinfo=UTC)  # a Thursday
    job = sending.due(lambda: at)
    for _ in range(3):
        job()
    assert [to for to, _ in relay.letters] == ["p1@example.org"]
    assert "Week 22" in relay.letters[0][1]["Subject"]


def test_a_wrong_time_zone_is_said() -> None:
    from paperlab.site import settings

    assert settings.timezone(None) == "UTC"
    assert settings.timezone("Europe/Berlin") == "Europe/Berlin"
    for wrong in ("Berlin", "../etc/passwd", "/etc/localtime", "x\0"):
        with pytest.raises(settings.SettingError, match="PAPERLAB_TIMEZONE"):
            settings.timezone(wrong)


def test_the_worker_tries_again_what_was_refused_and_not_without_end(relay: Relay, papers: None) -> None:
    from paperlab.site.digest import send as sending

    person(1), person(2)
    relay.to, relay.says = "p2@", {"RCPT": "452 4.2.2 Mailbox full"}
    at = datetime(2024, 5, 28, 6, tzinfo=UTC)
    job = sending.due(lambda: at)
    tries = []
    while at < datetime(2024, 5, 29, tzinfo=UTC):
        before = relay.asked.count("p2@example.org")
        try:
            job()
        except OSError:
            at += timedelta(minutes=5)  # as the worker does
        if relay.asked.count("p2@example.org") > before:
            tries.append(at)
        at += timedelta(minutes=1)
    assert 4 <= len(tries) <= 6
    assert tries[-1] - tries[0] > timedelta(hours=2)  # a mailbox may be emptied by then
    assert relay.asked.count("p1@example.org") == 1


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
    from paperlab.site.digest.models import Delivery, Subscription

    person(1)
    assert bounces.failed(REPORT.format(action="delayed", status="4.4.1").encode()) == []
    for status in ("4.2.2", "5.2.2", "5.7.1", "5.1.8", "5.1.11", "5.0.0"):  # full, blocked, of the sender
        assert bounces.failed(REPORT.format(action="failed", status=status).encode()) == [], status
    (gone,) = bounces.failed(REPORT.format(action="failed", status="5.1.1").encode())
    row = Subscription.objects.get()
    sent = Delivery.objects.create(subscription=row, day=date(2024, 5, 27), message_id="<" + "a" * 40 + "@localhost>")
    report = REPORT.format(action="failed", status="5.1.1").replace(
        "\n--b--", f"\n--b\nContent-Type: text/rfc822-headers\n\nMessage-ID: {sent.message_id}\n\n--b--"
    )
    for forged in (REPORT.format(action="failed", status="5.1.1"), report.replace("aaa", "bbb")):
        assert not send.bounced(gone, forged.encode())  # anybody can write that somebody is gone
    assert Subscription.objects.get().state == "active"
    assert send.bounced(gone, report.encode())
    assert Subscription.objects.get().state == "suppressed"
    draw, whole = random.Random(1), REPORT.format(action="failed", status="5.1.1").encode()
    for _ in range(300):  # whatever comes in, it is read or left
        broken = bytearray(whole)
        for _ in range(draw.randrange(1, 20)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        bounces.failed(bytes(broken[: draw.randrange(len(broken))]))
