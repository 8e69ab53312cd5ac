"""Papers that arrive by themselves: from a local server that answers, fails, hangs and is down."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from local_server import Clock, Server, Told, free_port, serving

pytestmark = pytest.mark.usefixtures("store")
TODAY = datetime(2024, 2, 2, 9, tzinfo=UTC)


class Time:
    """The time of day of the schedule, set by hand."""

    now = TODAY


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> type[Time]:
    from paperlab.site.store import arriving
    from paperlab.site.store.sources import daily_papers

    Time.now = TODAY
    clock = SimpleNamespace(now=lambda zone: Time.now)
    monkeypatch.setattr(arriving, "timezone", SimpleNamespace(now=lambda: Time.now))
    monkeypatch.setattr(daily_papers, "datetime", clock)
    return Time


@pytest.fixture
def server(time: type[Time], monkeypatch: pytest.MonkeyPatch, hourly: None, tmp_path: Path) -> Iterator[Server]:
    from paperlab.site.store.sources import named
    from paperlab.site.store.sources.http import Polite

    clock = Clock()
    quick = partial(Polite, clock=clock.time, sleep=clock.sleep, timeout=0.3, folder=tmp_path)
    monkeypatch.setattr(named, "Polite", quick)
    with serving(Server([Told(1), Told(28), Told(29)])) as running:
        monkeypatch.setenv("PAPERLAB_DAILY_PAPERS", running.url + "/api/daily_papers")
        monkeypatch.setenv("PAPERLAB_ARXIV_OAI", running.url + "/oai")
        yield running


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_setting(monkeypatch, {"daily": 3600})


def fetch_setting(monkeypatch: pytest.MonkeyPatch, wanted: dict[str, int]) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_FETCH", wanted)


def rows() -> dict[str, Any]:
    from paperlab.site.store.models import Fetching

    return {row.name: row for row in Fetching.objects.all()}


def stored() -> set[str]:
    from paperlab.site.store.models import Paper

    return set(Paper.objects.values_list("arxiv", flat=True))


def test_the_list_of_the_day_is_read_each_hour(server: Server, time: type[Time]) -> None:
    from paperlab.site.store import arriving

    run = arriving.due(chance=lambda: 0.5)
    assert run()
    assert {"2401.00001", "2401.00028"} <= stored()  # yesterday's list and today's
    row = rows()["daily"]
    assert (row.last_success, row.failures, row.error) == (TODAY, 0, "")
    assert row.next_run == TODAY + timedelta(seconds=3600 * 1.05)
    assert row.counts["new"] == 3
    asked = len(server.asked)
    assert not run()  # not before its time
    assert len(server.asked) == asked
    server.papers.append(Told(30))  # of 3 February
    time.now = TODAY + timedelta(hours=16)
    assert run()
    assert "2401.00030" in stored()
    assert all(one["agent"].startswith("paperlab/") for one in server.asked)


def test_a_source_that_fails_is_asked_later_and_later_and_said_once(
    server: Server, time: type[Time], caplog: pytest.LogCaptureFixture
) -> None:
    from paperlab.site.store import arriving

    run = arriving.due(chance=lambda: 0.0)
    server.wrong = ["503"] * 60
    waits = []
    with caplog.at_level(logging.INFO, "paperlab"):
        for _ in range(6):
            assert run()
            waits.append((rows()["daily"].next_run - time.now).total_seconds())
            time.now = rows()["daily"].next_run
        assert waits == [300, 600, 1200, 2400, 3600, 3600]  # never longer than its own hour
        assert rows()["daily"].failures == 6
        assert "status 503" in rows()["daily"].error
        assert len(server.asked) == 6 * arriving.TRIES
        server.wrong = []
        assert run()
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(";")[0][:26] for line in said] == ["fetch: daily: 127.0.0.1: s", "fetch: daily answers again"]
    assert "PAPERLAB_FETCH=off stops this" in said[0]
    row = rows()["daily"]
    assert (row.error, row.failures, row.last_success) == ("", 0, time.now)


@pytest.mark.parametrize("how", ["hangs", "is down", "html", "truncated"])
def test_no_answer_is_a_reason_and_the_other_source_goes_on(
    server: Server, time: type[Time], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from paperlab.site.store import arriving

    fetch_setting(monkeypatch, {"daily": 3600, "oai:cs": 86_400})
    if how == "is down":
        monkeypatch.setenv("PAPERLAB_DAILY_PAPERS", f"http://127.0.0.1:{free_port()}/api/daily_papers")
    else:
        server.wrong = ["slow" if how == "hangs" else how] * arriving.TRIES
    run = arriving.due()
    assert run()
    assert run()
    assert not run()
    found = rows()
    assert found["daily"].error.startswith("127.0.0.1: ")
    assert found["daily"].failures == 1
    assert found["oai:cs"].error == ""
    assert found["oai:cs"].last_success == time.now


def test_a_machine_without_a_network_gets_one_line_in_a_week(
    time: type[Time], server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from paperlab.site.store import arriving

    fetch_setting(monkeypatch, {"daily": 3600, "oai:cs": 86_400})
    monkeypatch.setenv("PAPERLAB_DAILY_PAPERS", f"http://127.0.0.1:{free_port()}/api/daily_papers")
    monkeypatch.setenv("PAPERLAB_ARXIV_OAI", f"http://127.0.0.1:{free_port()}/oai")
    tried = 0
    with caplog.at_level(logging.DEBUG, "paperlab"):
        run = arriving.due()
        while time.now < TODAY + timedelta(days=7):
            while run():
                tried += 1
            if not tried % 50:
                run = arriving.due()  # a worker that was started again knows what the last one knew
            time.now = min(row.next_run for row in rows().values())
    assert tried > 100
    assert len(caplog.records) == 1, caplog.text


def test_a_reading_that_broke_off_goes_on(server: Server, time: type[Time], monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.store import arriving

    fetch_setting(monkeypatch, {"oai:cs": 86_400})
    server.papers = [Told(n) for n in range(60, 70)]
    monkeypatch.setattr("paperlab.site.store.sources.arxiv_oai.datetime", SimpleNamespace(now=lambda zone: TODAY))
    server.wrong = ["", "", *["malformed"] * arriving.TRIES]
    run = arriving.due()
    assert run()
    assert rows()["oai:cs"].failures == 1
    first = len(stored())
    assert 0 < first < 10
    time.now = rows()["oai:cs"].next_run
    before = len(server.asked)
    assert run()
    assert len(stored()) == 10
    assert "resumptionToken" in server.asked[before]["query"]  # not from the beginning


def test_two_workers_on_one_database_read_a_source_once(server: Server, time: type[Time]) -> None:
    from paperlab.site.store import arriving

    (row,) = arriving.sync()
    assert arriving._claim(row)
    assert not arriving._claim(row)
    assert not arriving.due()()


def test_the_admins_page_shows_each_source_and_fetches_now(server: Server, time: type[Time]) -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    from paperlab.site.store import arriving

    run = arriving.due()
    server.wrong = ["503"] * 20
    run()
    server.wrong = []
    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create_superuser("root"))
    page = client.get("/admin/catalogue/fetching/").content.decode()
    assert "status 503" in page
    assert "Fetch now" in page
    assert "Add fetched" not in page
    row = rows()["daily"]
    assert not run()  # it waits
    told = {"action": "fetch_now", "_selected_action": [row.pk]}
    answer = client.post("/admin/catalogue/fetching/", told, follow=True)
    assert "The worker fetches 1 source now." in answer.content.decode()
    assert run()
    assert "3 new" in client.get("/admin/catalogue/fetching/").content.decode()


def test_off_asks_nobody_and_says_so(server: Server, time: type[Time], monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.store import arriving

    arriving.sync()
    fetch_setting(monkeypatch, {})
    assert not arriving.due()()
    assert server.asked == []
    assert rows() == {}
    assert arriving.announcement() == ["nothing is fetched automatically: PAPERLAB_FETCH is off"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, {"daily": 3600, "oai:cs": 86_400}),
        ("  ", {"daily": 3600, "oai:cs": 86_400}),
        ("off", {}),
        ("None", {}),
        ("daily@30m", {"daily": 1800}),
        ("daily, arxiv:cat:cs.CL AND ti:codec @ 12h", {"daily": 86_400, "arxiv:cat:cs.CL AND ti:codec": 43_200}),
        ("feed:https://me@example.org/a@2.xml", {"feed:https://me@example.org/a@2.xml": 86_400}),
    ],
)
def test_the_setting_is_read(text: str | None, wanted: dict[str, int]) -> None:
    from paperlab.site.store import timetable

    assert timetable.parse(text) == wanted


@pytest.mark.parametrize("text", ["daily@1s", "daily@5m", "daily@99d", "daly@1h", "daily@1", "feed:nothing", "on"])
def test_a_setting_that_cannot_be_meant_is_refused_by_name(text: str) -> None:
    from paperlab.site.settings import SettingError, fetched

    with pytest.raises(SettingError, match="PAPERLAB_FETCH: "):
        fetched(text)


def test_what_a_dead_worker_was_reading_is_due_again(server: Server, time: type[Time]) -> None:
    """The lease goes with the worker that had it, not with that of another machine."""
    from paperlab.site.store import arriving
    from paperlab.site.store.models import Fetching

    arriving.sync()
    (row,) = Fetching.objects.all()
    assert arriving._claim(row)
    run = arriving.due()
    assert not run()  # somebody has it
    Fetching.objects.update(holder="elsewhere:/data")
    arriving.release()
    assert not run()
    Fetching.objects.update(holder=arriving.me())
    arriving.release()
    assert run()
    assert [(one.holder, one.error) for one in Fetching.objects.all()] == [("", "")]
    arriving.release()
    assert not run()  # it was read


def test_a_source_that_hangs_is_set_aside_and_tried_again_after_a_day(
    server: Server, time: type[Time], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    from paperlab.site.commands import fetched
    from paperlab.site.store import arriving, hangs
    from paperlab.site.store.models import Fetching, Hang

    arriving.sync()
    run = arriving.due()
    for times in (1, 2):
        hangs.count(["fetch daily", "words"])
        assert Hang.objects.get(name="fetch daily").times == times
        assert hangs.names_aside("fetch") == []
    assert run()  # it came to its end: nothing in a row
    assert set(Hang.objects.values_list("name", flat=True)) == {"words"}
    for _ in range(3):
        hangs.count(["fetch daily"])
    arriving.ask(["daily"])
    assert not run()
    assert not hangs.is_aside("words")
    rows = {row["name"]: row for row in fetched.findings()}
    assert rows["worker: fetch daily"]["ok"] is False
    assert "hung 3 times in a row" in rows["worker: fetch daily"]["value"]
    assert "hung 2 times in a row" in rows["worker: words"]["value"]
    chief = Client(headers={"host": "localhost"})
    chief.force_login(User.objects.create(username="chief", is_staff=True, is_superuser=True))
    page = chief.get("/admin/catalogue/hang/").content.decode()
    assert "fetch daily" in page
    assert "set aside until" in page
    Hang.objects.filter(name="fetch daily").update(at=Hang.objects.get(name="fetch daily").at - timedelta(hours=25))
    monkeypatch.setattr(hangs, "LOOK", -1.0)
    assert run()  # a day later it is tried once more
    assert not Hang.objects.filter(name="fetch daily").exists()
    for _ in range(3):
        hangs.count(["fetch daily"])
    arriving.ask(["daily"])
    chief.post(
        "/admin/catalogue/hang/", {"action": "delete_selected", "_selected_action": "fetch daily", "post": "yes"}
    )
    assert run()  # whoever keeps the site let it go
    assert Fetching.objects.get().error == ""
