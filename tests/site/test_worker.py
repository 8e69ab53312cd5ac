"""The worker's turns: what is due is done, what fails waits without holding up the rest, words go before meaning."""

from functools import partial
from typing import Any

import pytest
from api_papers import item, take

pytestmark = pytest.mark.usefixtures("store")


def test_a_job_that_fails_waits_longer_each_time_and_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paperlab.site.commands import worker

    monkeypatch.setattr("django.db.close_old_connections", lambda: None)  # the test's own connection stays
    done: list[str] = []

    def fails() -> bool:
        done.append("fails")
        raise OSError("no network here")

    def works() -> bool:
        done.append("works")
        return True

    jobs = [worker.Job("one", fails), worker.Job("other", works)]
    for now in (0.0, 1.0, 4.9, 5.0, 14.9, 15.0):
        assert worker.turn(jobs, now)
    assert done.count("fails") == 3  # at 0, 5 and 15
    assert done.count("works") == 6
    assert sum("no network here; tried again in 5 s" in r.getMessage() for r in caplog.records) == 1
    assert worker.turn(jobs, 1e6)
    assert jobs[0].not_before - 1e6 == 40.0


def test_words_follow_the_store_and_rest_when_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.commands import worker
    from paperlab.site.search import index

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(index, "refresh", lambda **options: asked.append(options))
    monkeypatch.setattr(index, "lost", lambda: False)
    words = worker.words()
    words()
    take([item(1)])
    assert words()
    assert not words()
    take([item(2)])
    assert words()
    assert [one["meaning"] for one in asked] == [False] * 3


def test_vectors_step_back_when_papers_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.commands import worker
    from paperlab.site.search import index

    finished: list[bool] = []

    def long(progress: Any) -> None:
        take([item(len(finished) + 1)] if not finished else [])
        progress("vectors", 1, 2)
        finished.append(True)

    monkeypatch.setattr(index, "refresh", long)
    monkeypatch.setattr(worker, "TICK", -1.0)
    meaning = worker.meaning()
    assert meaning()
    assert finished == []  # it was told that the store moved, and left
    finished.append(True)
    assert meaning()
    assert finished == [True, True]
    assert not meaning()


def test_new_records_get_their_verdicts(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from paperlab.core import record
    from paperlab.site import records
    from paperlab.site.commands import worker

    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    verdicts = worker.verdicts()
    verdicts()
    assert not verdicts()
    record.append(replace(next(iter(record.read())), id="feedfeedfeed"))
    assert "feedfeedfeed" not in records.record_index().verdicts
    assert verdicts()
    assert records.record_index().verdicts["feedfeedfeed"]["word"]


def test_a_job_that_is_set_aside_is_left_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from paperlab.site.commands import worker
    from paperlab.site.store import hangs
    from paperlab.site.store.models import Hang

    monkeypatch.setattr("django.db.close_old_connections", lambda: None)
    done: list[str] = []

    def run(name: str) -> bool:
        done.append(name)
        return True

    jobs = [worker.Job(name, partial(run, name)) for name in ("one", "other")]
    for _ in range(3):
        hangs.count(["one"])
    hangs.count(["other"])
    worker.turn(jobs, 0.0)
    assert done == ["other"]
    assert list(Hang.objects.values_list("name", flat=True)) == ["one"]  # the other came to its end
