"""The API when something is wrong: bad parameters, faults underneath, too many requests; and caching, CORS, HEAD."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_papers import item, take

pytestmark = pytest.mark.usefixtures("store")
Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Ask:
    """Ask for an address by any method; what fails underneath becomes an answer, as it does for a real client."""
    from django.test import Client

    client = Client(raise_request_exception=False, headers={"host": "localhost"})

    def send(address: str, method: str = "GET", client_address: str = "127.0.0.1", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.generic(method, address, headers=named, REMOTE_ADDR=client_address)

    return send


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem in an answer, whole."""
    assert answer.status_code == status, answer.content[:300]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Traceback" not in answer.content.decode()
    said = json.loads(answer.content)
    assert (said["type"], said["status"]) == ("about:blank", status)
    assert said["title"]
    assert said["detail"]
    return said


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("limit=0", {"limit"}),
        ("limit=1e9&since=yesterday&order=sideways", {"limit", "since", "order"}),
        ("family=nonsense&kind=nonsense", {"family", "kind"}),
        ("year=12", {"year"}),
        ("code=perhaps", {"code"}),
        ("since=2024-02-30", {"since"}),
        ("since=2024-05-02&until=2024-05-01", {"since"}),
        ("famly=quantization", {"famly"}),
        ("famly=quantization&limit=0", {"famly", "limit"}),
        ("cursor=nonsense", {"cursor"}),
        ("cursor=p2024-13-45.1", {"cursor"}),
        ("cursor=a1", {"cursor"}),  # of another order
        ("cursor=a1%27%20OR%201=1--&order=added", {"cursor"}),
        ("cursor=a99999999999999999999&order=added", {"cursor"}),
        ("cursor=" + "a" * 10_000, {"cursor"}),
    ],
)
def test_every_bad_parameter_is_named(ask: Ask, query: str, names: set[str]) -> None:
    said = problem(ask(f"/api/papers?{query}"), 400)
    assert {error["parameter"] for error in said["errors"]} == names
    assert all(error["detail"] for error in said["errors"])


@pytest.mark.parametrize("cursor", ["p9999-12-31.999999999999999999", "p0001-01-01.0", "p.0", "p.999999999999999999"])
def test_a_made_up_cursor_only_asks_for_a_place(ask: Ask, cursor: str) -> None:
    take(item(n) for n in range(1, 4))
    papers = json.loads(ask(f"/api/papers?cursor={cursor}").content)["papers"]
    assert len(papers) == (3 if cursor.startswith("p9999") else 0)


@pytest.mark.parametrize(
    "address",
    ["/api/nothing", "/api/papers/9999.99999", "/api/papers/nothing/related", "/api/papers/~", "/api/papers/~1e5",
     "/api/papers/~99999999999999999999", "/api/records/nothing", "/api/papers/" + "x" * 5000, "/api/papers/",
     "/api/papers/%F0%9F%A4%96", "/api/papers/%ff%fe", "/api/papers/../../etc/passwd", "/api/openapi.yaml"],
)  # fmt: skip
def test_what_is_not_there_is_a_404_problem(ask: Ask, address: str) -> None:
    problem(ask(address), 404)


@pytest.mark.parametrize(
    "address", ["/api/search?q=a%00b", "/api/papers/a%00b", "/api/papers?a%00=1", "/api/daily_papers?date=%00"]
)
def test_nul_is_refused(ask: Ask, address: str) -> None:
    problem(ask(address), 400)


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "%F0%9F%A4%96" * 800, "%22unbalanced", "%25%25%25___", "(((((", "%ff%fe", "'; DROP TABLE--"]
)
def test_any_words_may_be_looked_for(ask: Ask, text: str) -> None:
    answer = ask(f"/api/search?q={text}")
    assert answer.status_code == 200
    assert json.loads(answer.content)["hits"] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"])
def test_nothing_but_reading_is_allowed(ask: Ask, method: str) -> None:
    answer = ask("/api/papers", method)
    problem(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_web_pages_anywhere_may_read(ask: Ask) -> None:
    answer = ask("/api/papers", "OPTIONS", origin="https://example.org", access_control_request_method="GET")
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "DELETE" not in answer.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


ADDRESSES = ["/api/papers", "/api/papers/2401.00001", "/api/papers/2401.00001/related", "/api/search?q=number",
             "/api/papers/search?q=number", "/api/daily_papers", "/api/verdicts", "/api/coverage", "/api/openapi.json",
             "/api/papers/2401.00001/records", "/api/papers/2401.00001/verdicts", "/api/export/papers.jsonl",
             "/api/export/records.jsonl", "/api/export/verdicts.jsonl"]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_has_not_changed_is_a_304(ask: Ask, address: str) -> None:
    take([item(1), item(2)])
    answer = ask(address)
    assert answer.status_code == 200
    tag = answer.headers["ETag"]
    again = ask(address, if_none_match=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == tag
    assert ask(address, if_none_match='W/"another"').status_code == 200
    if "search" in address or "related" in address:
        return  # as long as it says the same
    if "verdicts" not in address or "papers/" in address:
        take([item(3)])
        changed = ask(address, if_none_match=tag)
        assert changed.status_code == 200
        assert changed.headers["ETag"] != tag


def test_a_304_costs_one_query(ask: Ask, django_queries: Any) -> None:
    take([item(n) for n in range(1, 9)])
    tag = ask("/api/papers").headers["ETag"]
    with django_queries() as asked:
        assert ask("/api/papers", if_none_match=tag).status_code == 304
    assert len(asked) == 1


@pytest.fixture
def django_queries() -> Callable[[], Any]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    return lambda: CaptureQueriesContext(connection)


def test_a_new_record_changes_the_tags_and_shows_once_published(
    ask: Ask, paperlab_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from paperlab.core import files, published, record

    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    before = ask("/api/verdicts")
    old = next(iter(record.read()))
    record.append(replace(old, id="feedfeedfeed", started="2031-01-01T00:00:00+00:00", arms=broken(old.arms)))
    changed = ask("/api/verdicts", if_none_match=before.headers["ETag"])
    assert changed.status_code == 200
    assert b"feedfeedfeed" not in changed.content
    published.publish()
    assert b"feedfeedfeed" in ask("/api/verdicts?all=1&limit=1000").content
    said = json.loads(ask("/api/records/feedfeedfeed?samples=1").content)
    values = next(iter(next(iter(said["arms"][0]["samples"].values())).values()))
    assert values[:2] == ["NaN", "Infinity"]  # JSON knows neither
    assert ask("/api/verdicts").headers["Last-Modified"]
    file = next(tmp_path.rglob("*.jsonl"))
    files.write_atomically(file, b"this is no record\n" + file.read_bytes())
    assert ".jsonl:1: not a record" in json.loads(ask("/api/coverage").content)["unreadable"][0]
    assert ask("/api/records/feedfeedfeed").status_code == 200


def broken(arms: Any) -> Any:
    """The arms, the first of them diverged."""
    from dataclasses import replace

    samples = {
        seed: {key: [float("nan"), float("inf"), *v[2:]] for key, v in keys.items()}
        for seed, keys in arms[0].samples.items()
    }
    return [replace(arms[0], samples=samples), *arms[1:]]


def test_head_is_get_without_a_body(ask: Ask) -> None:
    take([item(1)])
    for address in ("/api/papers", "/api/export/papers.jsonl"):
        head, get = ask(address, "HEAD"), ask(address)
        assert head.status_code == 200
        assert head.content == b""
        assert head.headers["ETag"] == get.headers["ETag"]


def test_answers_are_compressed(ask: Ask) -> None:
    import gzip

    take(item(n) for n in range(1, 60))
    for address in ("/api/papers", "/api/export/papers.jsonl"):
        plain, packed = ask(address), ask(address, accept_encoding="gzip")
        bodies = [b"".join(a.streaming_content) if a.streaming else a.content for a in (plain, packed)]
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(bodies[1]) == bodies[0]
        assert len(bodies[1]) < len(bodies[0]) / 3


def test_a_locked_database_says_come_back(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    from paperlab.site.api import cursor, guard

    def locked(*_: Any) -> None:
        raise OperationalError("database is locked at /secret/place")

    for module, name in ((cursor, "page"), (guard, "tag")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, locked)
            answer = ask("/api/papers")
        assert "secret" not in problem(answer, 503)["detail"]
        assert answer.headers["Retry-After"] == "1"


def test_a_fault_of_ours_is_logged_and_not_shown(ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    from paperlab.site.api import shapes

    def fault(*_: Any) -> None:
        raise RuntimeError("the password is swordfish")

    take([item(1)])
    monkeypatch.setattr(shapes, "paper", fault)
    assert "swordfish" not in str(problem(ask("/api/papers"), 500))


def test_another_host_is_refused(ask: Ask) -> None:
    assert "PAPERLAB_HOSTS" in problem(ask("/api/papers", host="evil.example"), 400)["detail"]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The site with a rate of 2 a second, 3 at once, in a file of its own."""
    from django.conf import settings

    from paperlab.site.api import guard, limits

    monkeypatch.setattr(settings, "PAPERLAB_RATE", limits.Rate(2, 3))
    monkeypatch.setattr(guard, "home", lambda: tmp_path)
    return tmp_path / "rates.sqlite3"


def test_too_many_requests_wait(limited: Path) -> None:
    from django.test import Client

    client = Client(headers={"host": "localhost"})
    answers = [client.get("/api/nothing", REMOTE_ADDR="203.0.113.5") for _ in range(4)]
    assert [a.status_code for a in answers] == [404, 404, 404, 429]
    assert answers[0].headers["RateLimit"].startswith('"client";r=2;t=')
    assert answers[0].headers["RateLimit-Policy"] == '"client";q=3;w=2'
    problem(answers[3], 429)
    assert answers[3].headers["Retry-After"] == "1"
    assert client.get("/api/nothing", REMOTE_ADDR="203.0.113.6").status_code == 404  # others are not held up
    assert [client.get("/api/nothing", REMOTE_ADDR="127.0.0.1").status_code for _ in range(9)] == [404] * 9


def test_a_public_site_limits_loopback_too(limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings
    from django.test import Client

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)
    client = Client(headers={"host": "localhost"})
    assert [client.get("/api/nothing").status_code for _ in range(4)][-1] == 429


def test_buckets_fill_again_and_a_clock_set_back_locks_nobody_out(tmp_path: Path) -> None:
    from paperlab.site.api.limits import Buckets, Rate

    buckets = Buckets(tmp_path / "r.sqlite3", Rate(10, 5))
    assert [buckets.take("a", 1000.0).allowed for _ in range(6)] == [True] * 5 + [False]
    refused = buckets.take("a", 1000.0)
    assert refused.wait == pytest.approx(0.1)
    assert not buckets.take("a", 1000.0 + refused.wait / 2).allowed
    assert buckets.take("a", 1000.0 + refused.wait).allowed
    assert buckets.take("a", 1010.0).remaining == 4
    assert buckets.take("b", 9e9).allowed
    assert buckets.take("b", 2000.0).remaining == 4


TAKE = """
import sys
from pathlib import Path
from paperlab.site.api.limits import Buckets, Rate
buckets = Buckets(Path(sys.argv[1]), Rate(0.001, 50))
print(sum(buckets.take("a").allowed for _ in range(40)))
"""


def test_processes_share_the_buckets(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path / "r.sqlite3")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(process.communicate(timeout=60)[0]) for process in running) == 50


def test_limits_that_cannot_be_kept_let_everybody_through(tmp_path: Path) -> None:
    from paperlab.site.api.limits import Buckets, Rate

    (tmp_path / "file").write_text("no folder")
    buckets = Buckets(tmp_path / "file" / "r.sqlite3", Rate(1, 1))
    assert [buckets.take("a").allowed for _ in range(3)] == [True] * 3


def test_a_broken_file_of_buckets_is_made_anew(tmp_path: Path) -> None:
    from paperlab.site.api.limits import Buckets, Rate

    (tmp_path / "r.sqlite3").write_bytes(b"this is no database" * 1000)
    buckets = Buckets(tmp_path / "r.sqlite3", Rate(1, 2))
    assert [buckets.take("a", 1000.0).allowed for _ in range(4)] == [
        True,
        True,
        True,
        False,
    ]  # the first was not counted


def test_clients_are_addresses_and_networks() -> None:
    from paperlab.site.api.limits import client, parse

    assert client("2001:db8::1") == client("2001:db8::ffff") != client("2001:db8:0:1::1")
    assert client("::ffff:203.0.113.5") == client("203.0.113.5") == "203.0.113.5"
    assert parse("off") is None
    from paperlab.site.settings import SettingError, rate

    for text in ("fast", "10", "0/5", "5/0", "nan/3", "1e99/3", "-1/2"):
        with pytest.raises(SettingError, match="PAPERLAB_RATE"):
            rate(text)


def test_the_site_leaves_torch_unloaded() -> None:
    code = (
        "from paperlab.site.start import configure; configure(); import sys\n"
        "import paperlab.site.urls\nfrom paperlab.site.commands import server, up, worker\n"
        "print([name for name in ('torch', 'transformers', 'paperlab.lab', 'paperlab.kit') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
