"""`paperlab up` as its user has it: real processes, a real socket, started on a fresh data folder without a network."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest


class Up:
    """A running `paperlab up`: its process, what it says, where it is."""

    def __init__(self, home: Path, *options: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERLAB_", "DJANGO_"))}
        self.said = home.parent / f"said-{time.monotonic_ns()}"
        with open(self.said, "w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "paperlab", "up", "--port", "0", *options],
                stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                env={**kept, "PAPERLAB_HOME": str(home), "PAPERLAB_ENCODER": "none", "PAPERLAB_FETCH": "off",
                     "PAPERLAB_TOKEN": "off", **environment},
            )  # fmt: skip
        found = wait(lambda: re.search(r"is up at (http://\S+/)(?:\?token=(\S+))? ", self.text()), self.text)
        self.address, self.token = found[1], found[2] or ""

    def text(self) -> str:
        return self.said.read_text()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.address + path, timeout=30, **options)

    def children(self) -> dict[str, list[psutil.Process]]:
        """The processes below: the worker and the servers."""
        found: dict[str, list[psutil.Process]] = {"worker": [], "server": []}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has just been killed
                for name, known in found.items():
                    if f"paperlab.site.commands.{name}" in child.cmdline():
                        known.append(child)
        return found

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def wait(there: Callable[[], Any], said: Callable[[], str] = str, seconds: float = 120) -> Any:
    """What `there` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := there():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s; it said: {said()}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start `paperlab up` in the test's own data folder; whatever is left at the end is killed."""
    running: list[Up] = []

    def go(*options: str, **environment: str) -> Up:
        running.append(Up(tmp_path / "home", *options, **environment))
        return running[-1]

    yield go
    for one in running:
        if one.process.poll() is None:
            for child in psutil.Process(one.process.pid).children(recursive=True):
                child.kill()
            one.process.kill()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_first_start_serves_and_stops(start: Callable[..., Up]) -> None:
    up = start("--workers", "2")
    assert 'href="/papers/' in up.get("").text  # papers that were checked lately
    assert "EasyQuant" in up.get("papers/easyquant").text
    said = up.get("api/papers/2403.02775").json()
    assert said["paperlab"]["slug"] == "easyquant"
    assert up.get("api/search", params={"q": "quantization"}).json()["hits"]
    answer = up.get("api/export/papers.jsonl")
    assert len(answer.text.splitlines()) == 375
    assert up.get("api/export/papers.jsonl", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert up.get("api/nothing").headers["Content-Type"] == "application/problem+json"
    head = httpx.head(up.address + "api/export/records.jsonl")
    assert (head.status_code, head.content) == (200, b"")
    children = up.children()
    assert (len(children["worker"]), len(children["server"])) == (1, 2)
    assert up.end() == 0
    assert gone([*children["worker"], *children["server"]])
    assert "Traceback" not in up.text()


def test_papers_arrive_by_themselves(start: Callable[..., Up]) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "site"))
    from local_server import Server, Told, serving

    class Today(Told):
        @property
        def stamp(self) -> str:
            return time.strftime("%Y-%m-%d", time.gmtime())

    with serving(Server([Today(7)])) as server:
        asked = {"PAPERLAB_DAILY_PAPERS": server.url + "/api/daily_papers", "PAPERLAB_ARXIV_OAI": server.url + "/oai"}
        up = start(**asked, PAPERLAB_FETCH="")  # nothing is set
        wait(lambda: "On the 7th" in up.get("").text, up.text)
        assert "fetched automatically: daily every hour, oai:cs every day" in up.text()
        wait(lambda: any(one["path"] == "/oai" for one in server.asked), up.text)
        environment = {**os.environ, "PAPERLAB_HOME": str(up.said.parent / "home"), "PAPERLAB_FETCH": ""}
        said = wait(lambda: "; fetched " in (text := doctor(environment)) and text, up.text)
        assert re.search(r"ok {2}fetched: daily +every hour; fetched \d+ s ago; next in", said), said
        assert up.end() == 0
    assert "Traceback" not in up.text()


def doctor(environment: dict[str, str]) -> str:
    told = [sys.executable, "-m", "paperlab", "doctor"]
    return subprocess.run(told, env=environment, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.kill
@pytest.mark.parametrize("name", ["worker", "server"])
def test_a_process_that_is_killed_is_noticed_and_started_again(
    start: Callable[..., Up], tmp_path: Path, name: str
) -> None:
    up = start()
    assert up.get("api/coverage").status_code == 200
    before = up.children()[name][0]
    before.kill()
    wait(lambda: f"the {name}" in up.text() and "was killed by SIGKILL" in up.text(), up.text)
    wait(lambda: up.children()[name] and up.children()[name][0].pid != before.pid, up.text)
    assert up.get("api/papers/easyquant").status_code == 200  # the socket never closed: what waits is served
    children = up.children()
    assert up.end(signal.SIGTERM) == 0
    assert gone([*children["worker"], *children["server"]])
    with sqlite3.connect(tmp_path / "home" / "paperlab.sqlite3") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.execute("SELECT count(*) FROM catalogue_paper").fetchone() == (375,)


def test_what_another_process_imports_is_served_and_found(start: Callable[..., Up], tmp_path: Path) -> None:
    up = start()
    assert up.get("api/search", params={"q": "zygomorphic"}).json()["hits"] == []
    before = up.get("api/papers?limit=1").headers["ETag"]
    row = {"id": "2405.00002", "title": "Zygomorphic networks", "summary": "They are zygomorphic."}
    bring(tmp_path, row)
    assert up.get("api/papers?limit=1", headers={"If-None-Match": before}).status_code == 200
    found = wait(lambda: up.get("api/search", params={"q": "zygomorphic"}).json()["hits"], up.text, 10)
    assert [hit["paper"]["id"] for hit in found] == ["2405.00002"]
    assert up.end() == 0


def bring(tmp_path: Path, row: dict[str, Any]) -> None:
    """`paperlab import` into the same data folder, as another program would while the site runs."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path / "home"), "PAPERLAB_ENCODER": "none"}
    environment.pop("PAPERLAB_DATABASE", None)
    subprocess.run(
        [sys.executable, "-m", "paperlab", "import", str(tmp_path / "rows.jsonl")],
        env=environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


@pytest.mark.kill
def test_no_orphan_is_left_where_it_is_killed_itself(start: Callable[..., Up]) -> None:
    up = start("--workers", "2")
    assert up.get("api/coverage").status_code == 200
    children = up.children()
    up.process.kill()
    up.process.wait()
    wait(lambda: gone([*children["worker"], *children["server"]]), up.text)
    again = start()
    assert again.get("api/coverage").status_code == 200
    assert again.end() == 0


def test_a_second_worker_stands_by(start: Callable[..., Up]) -> None:
    first, second = start(), start()
    wait(lambda: "another worker is at work" in first.text() + second.text(), second.text)
    assert second.get("api/coverage").status_code == first.get("api/coverage").status_code == 200
    assert first.end() == second.end() == 0


def test_the_worker_runs_by_itself(tmp_path: Path) -> None:
    """As a service manager starts it, without an input."""
    environment = {**os.environ, "PAPERLAB_HOME": str(tmp_path), "PAPERLAB_ENCODER": "none"}
    environment.pop("PAPERLAB_DATABASE", None)
    worker = subprocess.Popen(
        [sys.executable, "-m", "paperlab.site.commands.worker"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait(lambda: (tmp_path / "search" / "state.json").exists(), seconds=60)
    time.sleep(0.5)
    assert worker.poll() is None
    worker.terminate()
    assert worker.communicate(timeout=20)[1] == b""
    assert worker.returncode == 0


@pytest.mark.kill
def test_a_process_that_cannot_live_stops_all(start: Callable[..., Up]) -> None:
    up = start()
    for _ in range(3):
        wait(lambda: up.children()["worker"], up.text)[0].kill()
        wait(lambda: not up.children()["worker"] or up.process.poll() is not None, up.text)
    assert up.process.wait(20) == 2
    assert "the worker was killed by SIGKILL, 3 times" in up.text()


def test_a_taken_port_and_a_strange_host_are_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for options, said in (
            (["--port", str(taken.getsockname()[1])], "is in use"),
            (["--port", "0", "--host", "203.0.113.77"], "give another --host"),
            (["--port", "0", "--host", "no such host"], "--host"),
        ):
            run = subprocess.run(
                [sys.executable, "-m", "paperlab", "up", *options], capture_output=True, text=True, timeout=60
            )
            assert (run.returncode, said in run.stderr, len(run.stderr.splitlines())) == (2, True, 1), run.stderr


def test_limits_hold_over_processes_and_proxies_are_believed(start: Callable[..., Up]) -> None:
    up = start("--workers", "2", PAPERLAB_RATE="0.01/5", PAPERLAB_HOSTS="localhost,127.0.0.1")
    answers = [up.get("api/coverage", headers={"X-Forwarded-For": "203.0.113.9"}) for _ in range(12)]
    assert [a.status_code for a in answers].count(200) == 5
    assert int(answers[-1].headers["Retry-After"]) > 60
    assert up.get("api/coverage", headers={"X-Forwarded-For": "203.0.113.10"}).status_code == 200
    assert up.end() == 0


def test_the_client_library_of_the_known_api_reads_it(
    start: Callable[..., Up], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub, pointed here: what we did not write reads papers, searches and daily lists."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read once, by whichever test came first
    row = {"id": "2405.00001", "title": "A daily paper", "summary": "Short.", "upvotes": 7, "seen_on": ["2024-05-27"]}
    bring(tmp_path, row)
    up = start()
    api = hub.HfApi(endpoint=up.address.rstrip("/"), token=False)
    info = api.paper_info("2403.02775")
    assert (info.id, info.title.split(":")[0]) == ("2403.02775", "EasyQuant")
    assert next(iter(api.list_papers(query="EasyQuant"))).id == "2403.02775"
    daily = list(api.list_daily_papers(date="2024-05-27"))
    assert [(paper.id, paper.title, paper.upvotes) for paper in daily] == [("2405.00001", "A daily paper", 7)]
    assert up.end() == 0


HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"


def test_the_example_client_reads_and_mirrors(start: Callable[..., Up], tmp_path: Path) -> None:
    up, mirror = start(PAPERLAB_TOKEN=""), tmp_path / "papers.jsonl"

    def example() -> str:
        command = [sys.executable, str(HOWTO / "read_the_api.py"), up.address, str(mirror)]
        known = {**os.environ, "TOKEN": up.token}
        return subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=True).stdout

    said = example()
    assert "found: " in said
    assert f"375 papers came into {mirror}" in said
    assert f"0 papers came into {mirror}" in example()
    bring(tmp_path, {"id": "2405.00003", "title": "A late paper", "summary": "It came later."})
    whole = mirror.read_bytes()
    mirror.write_bytes(whole + b'{"id": "torn by an inter')
    assert f"1 papers came into {mirror}" in example()
    assert mirror.read_bytes().startswith(whole)
    assert json.loads(mirror.read_text().splitlines()[-1])["title"] == "A late paper"
    assert up.end() == 0


def test_the_how_to_page_names_every_setting() -> None:
    import paperlab

    read = set(
        re.findall(
            r"PAPERLAB_[A-Z_]+", "".join(f.read_text() for f in Path(paperlab.__file__).parent.rglob("site/**/*.py"))
        )
    )
    inside = {"PAPERLAB_EVENTS", "PAPERLAB_LOCAL"}  # set by the site itself, not by a deployment
    assert read - inside <= set(re.findall(r"PAPERLAB_[A-Z_]+", (HOWTO / "run_the_site.md").read_text()))


def test_links_in_mail_lead_to_the_port(start: Callable[..., Up], tmp_path: Path) -> None:
    up = start()
    page = up.get("subscribe")
    token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    sent = httpx.post(
        up.address + "subscribe",
        data={"email": "me@example.org", "csrfmiddlewaretoken": token[1]}, cookies=page.cookies, timeout=30,
    )  # fmt: skip
    assert "no mail server" in sent.text  # it becomes a file
    (file,) = wait(lambda: list((tmp_path / "home" / "outbox").glob("*.eml")), up.text)
    text = file.read_text().replace("=\n", "")
    assert f"{up.address}subscribe/" in text
    assert ":8000" not in text
    # Another process, which did not start the site, knows it as well.
    known = (
        "from paperlab.site.start import configure; configure()\n"
        "from paperlab.site.digest import letters\nprint(letters.site())"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAPERLAB_", "DJANGO_"))}
    told = subprocess.run(
        [sys.executable, "-c", known],
        env={**kept, "PAPERLAB_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == up.address.rstrip("/"), told.stderr
