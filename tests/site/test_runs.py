"""Runs from the page: who may, what is refused, and that a run is never lost, doubled or left behind."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest

SLUG, CLAIM = "easyquant", "better-than-rtn"

# Stands for `paperlab run`: a journal that a resumed run goes on with, and a record whose id the journal decides.
STUB = """
import json, os, sys, time
home = os.environ["STUB_HOME"]
os.makedirs(home, exist_ok=True)
journal, records = home + "/journal", home + "/records"
say = lambda text: print(text, file=sys.stderr, flush=True)
def tell(**event):
    with open(os.environ["PAPERLAB_EVENTS"], "a") as file:
        file.write(json.dumps({"time": time.time(), **event}) + chr(10))
tell(kind="begin")
with open(home + "/started", "a") as file:
    file.write(json.dumps([os.getpid(), sys.argv[1:]]) + chr(10))
if "--resume" not in sys.argv or not os.path.exists(journal):
    with open(journal + ".new", "w") as file:
        file.write(os.urandom(4).hex() + " ")
    os.rename(journal + ".new", journal)
tell(kind="stage", task="planted", model="nothing", scale="quick", arms=["arm <b>"])
say("planted on nothing, quick: 1 arms")
steps = int(os.environ.get("STUB_STEPS", "5"))
while len(open(journal).read().split()[1:]) < steps:
    time.sleep(float(os.environ.get("STUB_SLEEP", "0.02")))
    with open(journal, "a") as file:
        file.write("x ")
    done = len(open(journal).read().split()) - 1
    tell(kind="item", arm="arm <b>", seed=0, done=done, total=steps)
    say(f"  arm <b>: scored {done}/{steps}")
name = open(journal).read().split()[0]
if os.environ.get("STUB_FAIL"):
    tell(kind="failed", message="<script>no such thing</script>")
    say("paperlab: an error that only the log tells")
    sys.exit(2)
done = open(records).read().split() if os.path.exists(records) else []
if name not in done:
    with open(records, "a") as file:
        file.write(name + chr(10))
tell(kind="recorded", records=[name])
os.remove(journal)
time.sleep(float(os.environ.get("STUB_AFTER", "0")))
print(json.dumps([{"id": name}]))
"""


@pytest.fixture
def home(store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own, where `paperlab run` is the stub."""
    from paperlab.site.runs import runner

    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.setenv("STUB_HOME", str(tmp_path / "stub"))
    monkeypatch.setattr(
        runner, "command", lambda run: [sys.executable, "-c", STUB, *(["--resume"] if run.starts else [])]
    )
    return tmp_path


@pytest.fixture
def client() -> Any:
    from django.test import Client

    return Client(headers={"host": "localhost"})


@pytest.fixture
def page(store: None) -> None:
    """The bundled paper in the store."""
    from paperlab.site.store.models import Paper

    Paper.objects.create(slug=SLUG, title="EasyQuant", title_key="easyquant")


def ask(**given: str) -> Any:
    from paperlab.core.methods import find_method
    from paperlab.site.runs import queue

    return queue.ask(find_method(SLUG), {"claim": CLAIM, **given})


def follow(runner: Any, until: Callable[[Any], bool], seconds: float = 30) -> Any:
    """Step until the newest run is as wanted."""
    from paperlab.site.runs.models import Run

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        runner.step()
        run = Run.objects.first()
        if until(run):
            return run
        time.sleep(0.02)
    raise AssertionError(f"{run}: {run.error} {run.log}")


def records(home: Path) -> list[str]:
    file = home / "stub" / "records"
    return file.read_text().split() if file.exists() else []


def test_a_run_goes_from_the_form_to_its_record(home: Path, page: None, client: Any) -> None:
    from paperlab.core.methods import find_method
    from paperlab.site.runs import runner

    form = client.get(f"/papers/{SLUG}/run").content.decode()
    assert "No worker is running" in form
    assert 'name="set-bits"' in form
    says = next(check.says for check in find_method(SLUG).card.checks if check.claim == CLAIM)
    assert re.search(rf'<option value="{CLAIM}"[^>]*>{re.escape(escape(says[:60]))}', form)
    answer = client.post(f"/papers/{SLUG}/run", {"method": SLUG, "claim": CLAIM, "scale": "quick", "once": "a" * 20})
    assert answer.status_code == 302
    where = answer.headers["Location"]
    again = client.post(f"/papers/{SLUG}/run", {"method": SLUG, "claim": CLAIM, "scale": "quick", "once": "a" * 20})
    assert again.headers["Location"] == where  # the same form sent twice is one run
    queued = client.get(where).content.decode()
    assert "<strong>Queued</strong>" in queued
    assert escape(says[:60]) in queued
    one = runner.Runner()
    follow(one, lambda run: run.progress.get("arms"))
    shown = client.get(where).content.decode()
    assert "No worker" not in shown
    assert "arm &lt;b&gt;" in shown
    assert "<b>" not in shown
    follow(one, lambda run: run.state == "done")
    said = client.get(f"{where}.json").json()
    assert said["records"] == records(home)
    assert said["progress"]["stage"] == "planted on nothing, quick"
    assert said["progress"]["arms"] == {"arm <b>": ["scored", 5, 5]}
    assert (said["state"], said["starts"]) == ("done", 1)
    assert [row["id"] for row in client.get("/runs.json").json()["runs"]] == [said["id"]]


def test_bad_forms_are_refused_with_every_field_named(home: Path, page: None, client: Any) -> None:
    from paperlab.site.runs.models import Run

    sent = {
        "method": SLUG, "claim": "<script>x</script>", "scale": "gpu", "set-bits": "many", "set-n_std": "1e999",
        "set-evil": "; rm -rf /",
    }  # fmt: skip
    answer = client.post(f"/papers/{SLUG}/run", sent)
    said = answer.content.decode()
    assert answer.status_code == 400
    for part in ("no check", "no scale", "bits takes", "n_std takes a number from 0 to 1,000", "no parameter"):
        assert part in said or part in said.replace("&#x27;", "'"), part
    assert "<script>x" not in said
    assert not Run.objects.exists()
    assert client.get("/papers/nothing-of-the-kind/run").status_code == 404
    assert client.post("/papers/%00/run").status_code == 400
    for path in ("/runs/999999", "/runs/999999/events"):
        assert client.get(path).status_code == 404


def test_every_number_out_of_its_range_is_refused_with_the_range(home: Path, page: None, client: Any) -> None:
    from html import unescape

    from paperlab.core.methods import methods, parameters
    from paperlab.site.runs.models import Run

    refused = 0
    for method in (one for one in methods().values() if one.card.checks):
        numbers = [p for p in parameters(method) if p.range]
        for sent in ("99999999999", "-99999999999", "nan", "inf"):
            form = {"method": method.slug, **{f"set-{p.name}": sent for p in numbers}}
            answer = client.post(f"/papers/{method.slug}/run", form)
            said = unescape(answer.content.decode())
            assert answer.status_code == (400 if numbers else 302), method.slug
            for p in numbers:
                assert f"{p.name}={sent}: {p.name} takes {p.allowed}" in said, (method.slug, p.name)
                assert f'name="set-{p.name}" value="{sent}"' in said, "what was sent stands in the form"
                refused += 1
        Run.objects.all().delete()
    assert refused > 200
    answer = client.post(f"/papers/{SLUG}/run", {"method": SLUG, "set-bits": "16"})
    assert answer.status_code == 302
    assert Run.objects.get().params == {"bits": 16}


def test_the_command_is_words_never_a_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from paperlab.site.runs import runner

    words = runner.command(ask(**{"set-bits": "3", "scale": "full"}))
    assert words[-8:-1] == ["--scale", "full", "--claim", CLAIM, "--set", "bits=3", "--json"][-8:] or "bits=3" in words
    assert "--resume" not in words


def test_a_run_is_repeated_with_its_settings_by_one_click(home: Path, page: None, client: Any) -> None:
    from paperlab.site.runs import queue
    from paperlab.site.runs.models import Run

    first = ask(**{"set-bits": "3", "set-steps": "7", "scale": "full"})
    assert b"Run again" not in client.get(f"/runs/{first.pk}").content  # it is still to come
    queue.cancel(first)
    shown = client.get(f"/runs/{first.pk}").content.decode()
    token = re.search(r'action="/runs/\d+/again">.*?name="once" value="([^"]+)"', shown, re.S)
    assert token is not None
    answers = [client.post(f"/runs/{first.pk}/again", {"once": token[1]}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [302, 302]
    second = Run.objects.get(state="queued")  # a click that counts twice is one run
    assert {answer.headers["Location"] for answer in answers} == {f"/runs/{second.pk}"}
    for name in ("method", "paper", "claim", "scale", "params"):
        assert getattr(second, name) == getattr(first, name), name
    # What was run under an older version's rules may no longer be taken: the page says why, and what to do.
    Run.objects.filter(pk=first.pk).update(params={"bits": 99999999999})
    refused = client.post(f"/runs/{first.pk}/again")
    assert refused.status_code == 400
    assert "bits takes a whole number from 1 to 16" in refused.content.decode()
    assert "Choose other settings" in refused.content.decode()
    Run.objects.filter(pk=first.pk).update(method="no-longer-here", params={})
    assert client.post(f"/runs/{first.pk}/again").status_code == 400
    assert Run.objects.count() == 2
    assert client.get(f"/runs/{first.pk}/again").status_code == 405
    assert client.post("/runs/999999/again").status_code == 404


def test_strangers_run_nothing(home: Path, page: None, client: Any, settings_public: None) -> None:
    from paperlab.site.runs.models import Run

    run = ask()
    for method, path in (
        ("post", f"/papers/{SLUG}/run"), ("get", f"/papers/{SLUG}/run"), ("get", "/runs/"), ("get", "/runs.json"),
        ("get", f"/runs/{run.pk}"), ("get", f"/runs/{run.pk}.json"), ("get", f"/runs/{run.pk}/events"),
        ("get", f"/runs/{run.pk}/live"), ("post", f"/runs/{run.pk}/cancel"), ("post", f"/runs/{run.pk}/resume"),
        ("post", f"/runs/{run.pk}/again"),
    ):  # fmt: skip
        answer = getattr(client, method)(path)
        assert answer.status_code == 403, path
    assert Run.objects.get().state == "queued"
    from django.contrib.auth.models import User

    client.force_login(User.objects.create_user("someone"))
    assert client.get("/runs/").status_code == 403
    client.force_login(User.objects.create_user("keeper", is_staff=True))
    assert client.get("/runs/").status_code == 200


def test_a_local_site_answers_no_other_machine(home: Path, page: None) -> None:
    from django.test import Client

    assert Client(headers={"host": "localhost"}, REMOTE_ADDR="203.0.113.9").get("/runs/").status_code == 403


@pytest.fixture
def settings_public(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "PAPERLAB_LOCAL", False)


def test_another_page_cannot_make_the_browser_run_something(home: Path, page: None) -> None:
    from django.test import Client

    from paperlab.site.runs.models import Run

    strict = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    run = ask()
    for path in (f"/papers/{SLUG}/run", f"/runs/{run.pk}/cancel", f"/runs/{run.pk}/resume", f"/runs/{run.pk}/again"):
        assert strict.post(path, {"method": SLUG}).status_code == 403
        assert strict.get(path).status_code in (200, 405)  # and reading changes nothing
    assert Run.objects.get().state == "queued"


def alive(home: Path) -> list[int]:
    """Processes of the stub that still run."""
    found: list[int] = []
    started = home / "stub" / "started"
    for line in started.read_text().splitlines() if started.exists() else ():
        pid = json.loads(line)[0]
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found += [pid] if state != "Z" else []
        except OSError:
            pass
    return found


def gone(home: Path) -> bool:
    """Whether no process of the stub is left, a moment after the signal."""
    deadline = time.monotonic() + 3
    while alive(home) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(home)


def test_cancel_stops_the_processes(home: Path, page: None, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.runs import runner

    monkeypatch.setenv("STUB_STEPS", "100000")
    waits = ask(once="second")
    runs = ask(once="first")
    client.post(f"/runs/{runs.pk}/cancel")
    runs.refresh_from_db()
    assert runs.state == "cancelled"  # it had not begun
    one = runner.Runner()
    follow(one, lambda _: (home / "stub" / "started").exists())
    assert alive(home)
    client.post(f"/runs/{waits.pk}/cancel")
    for _ in range(500):
        one.step()
        waits.refresh_from_db()
        if waits.state != "running":
            break
        time.sleep(0.02)
    assert waits.state == "cancelled"
    assert gone(home)
    assert records(home) == []


def test_what_takes_too_long_or_too_much_is_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    from paperlab.site.runs import queue, runner

    monkeypatch.setenv("STUB_STEPS", "100000")
    monkeypatch.setattr(settings, "PAPERLAB_RUN_HOURS", 0.001)
    ask(once="1")
    run = follow(runner.Runner(), lambda run: run.state == "failed")
    assert "PAPERLAB_RUN_HOURS" in run.error
    assert gone(home)
    monkeypatch.setattr(settings, "PAPERLAB_RUN_HOURS", 4.0)
    monkeypatch.setattr(
        runner, "command", lambda run: [sys.executable, "-c", "x = b'x' * 300_000_000\nimport time; time.sleep(60)"]
    )
    monkeypatch.setattr(queue, "memory", lambda: 250_000_000)
    ask(once="2")
    run = follow(runner.Runner(), lambda run: run.state == "failed")
    assert "PAPERLAB_RUN_MEMORY" in run.error
    monkeypatch.setattr(
        runner, "command", lambda run: [sys.executable, "-c", "x = bytearray(2_000_000_000); print('[]')"]
    )
    ask(once="3")
    assert "MemoryError" in follow(runner.Runner(), lambda run: run.state == "failed").error


def test_a_run_that_fails_says_why(home: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.runs import runner

    monkeypatch.setenv("STUB_FAIL", "1")
    ask()
    run = follow(runner.Runner(), lambda run: run.state == "failed")
    assert run.error == "<script>no such thing</script>"
    shown = client.get(f"/runs/{run.pk}").content.decode()
    assert "&lt;script&gt;no such thing" in shown
    assert "<script>no" not in shown


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"error": "this needs torch", "code": 2, "kind": "missing-extra"}', "this needs torch"),
        ("MemoryError", "MemoryError"),
        ("[1]", "[1]"),
        ("", "it ended with status 2"),
    ],
)
def test_what_ends_before_its_first_event_is_read_from_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch, line: str, error: str
) -> None:
    from paperlab.site.runs import runner

    code = f"import sys; print({line!r}, file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(runner, "command", lambda run: [sys.executable, "-c", code])
    ask()
    assert follow(runner.Runner(), lambda run: run.state == "failed").error == error


def test_records_of_a_run_without_events_are_read_from_its_output(home: Path) -> None:
    from paperlab.site.runs import runner

    run = ask()
    runner.folder(run).mkdir(parents=True)
    assert runner.recorded(run) is None
    (runner.folder(run) / "out.json").write_text('[{"id": "abc"}]')
    assert runner.recorded(run) == ["abc"]
    (runner.folder(run) / "events.jsonl").write_text('{"kind": "recorded", "records": ["def"]}\n{"kind": "rec')
    assert runner.recorded(run) == ["def"]


@pytest.mark.kill
def test_a_process_killed_by_others_waits_for_a_word(home: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.runs import runner

    monkeypatch.setenv("STUB_STEPS", "200")
    ask()
    one = runner.Runner()
    follow(one, lambda run: run.progress.get("arms"))
    os.kill(alive(home)[0], signal.SIGKILL)
    run = follow(one, lambda run: run.state == "interrupted")
    assert "SIGKILL" in run.error
    client.post(f"/runs/{run.pk}/resume")
    monkeypatch.setenv("STUB_STEPS", "20")
    run = follow(one, lambda run: run.state == "done")
    assert run.records == records(home)
    assert run.starts == 2


def test_the_queue_is_not_endless(home: Path) -> None:
    from paperlab.site.runs import queue

    for number in range(queue.MOST):
        ask(once=str(number))
    with pytest.raises(queue.Refused, match="20 runs are queued already"):
        ask(once="more")


def test_events_tell_until_the_end(home: Path, client: Any) -> None:
    from paperlab.site.runs import runner

    run = ask()
    follow(runner.Runner(), lambda run: run.state == "done")
    from paperlab.site.runs.views import _live

    run.refresh_from_db()
    assert "Done" in _live(run)["state"]
    answer = client.get(f"/runs/{run.pk}/events")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert client.get(f"/runs/{run.pk}/live").json()["open"] is False


WORKER = """
import os, sys, threading
from pathlib import Path
from paperlab.site.start import configure
configure()
from paperlab.site.runs import runner
stub = Path(os.environ["STUB_FILE"]).read_text()
runner.command = lambda run: [sys.executable, "-c", stub, *(["--resume"] if run.starts else [])]
runner.TICK = 0.02
runner.STARTS = 1000
runner.work(threading.Event())
"""


@pytest.mark.kill
@pytest.mark.parametrize("kills", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_a_worker_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path, kills: int) -> None:
    (tmp_path / "stub.py").write_text(STUB)
    environment = {
        **os.environ, "PAPERLAB_HOME": str(tmp_path), "STUB_HOME": str(tmp_path / "stub"), "STUB_STEPS": "20",
        "STUB_SLEEP": "0.05", "STUB_AFTER": "0.2", "STUB_FILE": str(tmp_path / "stub.py"),
    }  # fmt: skip
    environment.pop("PAPERLAB_DATABASE", None)

    def python(code: str) -> str:
        begin = "from paperlab.site.start import configure; configure(); from paperlab.site.runs.models import Run\n"
        done = subprocess.run(
            [sys.executable, "-c", begin + code], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    runs = 3
    python(
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        f"[Run.objects.create(once=str(n), method='{SLUG}', claim='{CLAIM}', scale='quick') for n in range({runs})]"
    )
    draw = random.Random(kills)
    for _ in range(kills):
        worker = subprocess.Popen([sys.executable, "-c", WORKER], env=environment)
        time.sleep(draw.uniform(0.6, 2.0))
        worker.kill()
        worker.wait()
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=environment)
    try:
        deadline = time.monotonic() + 90
        while "queued" in (said := python("print([r.state for r in Run.objects.all()])")) or "running" in said:
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
    finally:
        worker.kill()
        worker.wait()
    said = json.loads(python("import json; print(json.dumps([[r.state, r.records] for r in Run.objects.all()]))"))
    assert [state for state, _ in said] == ["done"] * runs
    told = [name for _, names in said for name in names]
    assert sorted(told) == sorted(records(tmp_path))
    assert len(set(told)) == runs
    assert gone(tmp_path)


def test_the_worker_thread_ends_its_run_when_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.runs import runner

    monkeypatch.setenv("STUB_STEPS", "100000")
    ask()
    one = runner.Runner()
    follow(one, lambda _: (home / "stub" / "started").exists())
    one.close()
    assert gone(home)


def test_the_page_of_a_paper_has_the_button(home: Path, page: None, client: Any, settings_public: None) -> None:
    """For those who may; and the address of a form leads nowhere else."""
    from django.conf import settings

    assert 'action="/papers/easyquant/run"' not in client.get(f"/papers/{SLUG}").content.decode()
    settings.PAPERLAB_LOCAL = True
    shown = client.get(f"/papers/{SLUG}").content.decode()
    assert 'action="/papers/easyquant/run"' in shown
    assert "csrfmiddlewaretoken" in shown
    assert client.get("/static/runs/run.js").status_code == 200
