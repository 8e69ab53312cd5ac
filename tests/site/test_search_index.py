"""The index beside the store: in step after any changes, after kills, after damage, with several processes at once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from api_papers import take
from search_papers import WORDS, content, fill, found, paper

KILLS = [6, pytest.param(40, marks=pytest.mark.slow)]


def index() -> Any:
    from paperlab.site.search import index

    return index


def changes(draw: random.Random, numbers: int = 60) -> None:
    """A page of new, changed and withdrawn papers, and a deletion now and then."""
    from paperlab.site.store.models import Paper

    page = []
    for number in draw.sample(range(1, numbers), draw.randrange(1, 12)):
        kind = draw.choice(["new", "new", "title", "withdrawn", "category"])
        if kind == "withdrawn":
            page.append(paper(number, deleted=True))
        elif kind == "title":
            page.append(
                paper(number, title=f"A wombat {draw.choice(WORDS)} {number}", as_of=f"2025-01-{number % 28 + 1:02d}")
            )
        else:
            page.append(
                paper(number, categories=[draw.choice(["cs.LG", "cs.CL", "math.OC"])], abstract=draw.choice(WORDS))
            )
    take(page, source="arxiv-oai")
    if draw.random() < 0.3 and (some := list(Paper.objects.values_list("pk", flat=True))):
        Paper.objects.filter(pk=draw.choice(some)).delete()


@pytest.mark.parametrize("seed", range(4))
def test_following_the_store_equals_a_rebuild(seed, engine, meaning, monkeypatch):
    from paperlab.site.search import vectors

    monkeypatch.setattr(vectors, "FROM", 30)
    monkeypatch.setattr(vectors, "GROWTH", 2)
    draw = random.Random(seed)
    for _ in range(12):
        changes(draw)
        if draw.random() < 0.7:
            index().refresh(meaning=draw.random() < 0.7)
        if draw.random() < 0.3:
            found("wombat")
    index().refresh()
    followed = content()
    index().refresh(rebuild=True)
    built = content()
    assert followed == built
    assert built["papers"] == sorted(built["vectors"])


def state(**told: Any) -> str:
    good = {
        "layout": 6,
        "generation": "0001",
        "words": [0, 0],
        "vectors": [0, 0],
        "encoder": "",
        "trust": 0.0,
        "judged": 0,
    }
    return json.dumps({**good, **told})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "5", '"x"', "\x00\x01", state(words="ab"), state(words=[1]), state(generation=5),
     state(generation=None), state(layout=1), state(more=1), state(generation="0777"), state(words=[None, 1]),
     state(words=["5", "5"]), state(words=[1.5, 1]), state(words=[-1, 0]), state(words=[True, 0]),
     state(words=[1, 2, 3]), state(vectors=None), state(trust="much"), state(trust=None), state(judged="x"),
     state(encoder=5), state(layout="3"), state(generation="../../x"),
     '{"layout": 6, "generation": "0001", "words": [Infinity, 0], "vectors": [0, 0]}',
     "[" * 100_000, state()[:-9], None],
)  # fmt: skip
def test_a_state_that_cannot_be_read_leads_to_a_new_index(text, files):
    from paperlab.site.search.engine import parsed

    assert parsed(state()) is not None
    fill(20)
    index().refresh()
    if text is None:
        (index().folder() / "state.json").unlink()
    else:
        (index().folder() / "state.json").write_text(text)
    assert len(found(limit=100)) == 20
    assert index().state().generation == "0002"
    assert [path.name for path in index().folder().glob("0*")] == ["0002"]


@pytest.mark.parametrize("text", ["{", state(trust="x"), None])
def test_the_worker_builds_a_lost_index_anew_and_keeps_its_vectors(text, files, meaning, monkeypatch, caplog):
    from paperlab.site.commands import worker
    from paperlab.site.search import rank
    from paperlab.site.search.query import Query

    monkeypatch.setattr(rank, "LAG", 5)  # as among many papers, where no search mends the index itself
    fill(20)
    jobs = worker.words(), worker.meaning()
    assert [job() for job in jobs] == [True, True]
    assert [job() for job in jobs] == [False, False]
    before = content()
    file = index().folder() / "state.json"
    file.unlink() if text is None else file.write_text(text)
    assert "damaged or missing" in " ".join(rank.search(Query("model")).notes)
    monkeypatch.setattr(meaning, "passages", None)  # no vector is made again
    assert [job() for job in jobs] == [True, True]
    assert content() == before
    results = rank.search(Query("model"))
    assert results.hits
    assert "damaged" not in " ".join(results.notes)
    assert sum("built anew" in record.getMessage() for record in caplog.records) == 1


def test_an_index_that_lost_its_papers_is_built_anew(files):
    fill(20)
    index().refresh()
    words = index().folder() / "0001" / "words"
    shutil.rmtree(words)
    from paperlab.site.search.words import Words

    Words(words)  # an empty one in its place, and a state that says all is there
    index()._opened = index().Embedded()
    assert len(found(limit=100)) == 20


def damage(folder: Path, how: str) -> None:
    words = next(folder.glob("0*")) / "words"
    segment = max(words.glob("*.term"), key=lambda file: file.stat().st_size)
    match how:
        case "no words":
            shutil.rmtree(words)
        case "no generation":
            shutil.rmtree(words.parent)
        case "no meta":
            (words / "meta.json").unlink()
        case "bad meta":
            (words / "meta.json").write_text("{oops")
        case "no segment":
            segment.unlink()
        case "cut segment":
            os.truncate(segment, segment.stat().st_size // 2)
        case "all":
            shutil.rmtree(folder)


DAMAGES = ["no words", "no generation", "no meta", "bad meta", "no segment", "cut segment", "all"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("way", ["search", "refresh"])
def test_damaged_words_are_built_anew(how, way, files, monkeypatch):
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    fill(20)
    index().refresh()
    before = content()
    monkeypatch.setattr(index(), "_opened", index().Embedded())  # as in a process that starts now
    damage(index().folder(), how)
    if way == "refresh":
        index().refresh()
    else:
        results = search(Query("model"))
        assert results.hits
        assert ("damaged" in " ".join(results.notes)) == (how in ("bad meta", "no segment", "cut segment"))
    assert content() == before


@pytest.mark.parametrize(
    "how", ["no rows", "no full", "cut rows", "cut full", "no codes", "cut codes", "bad codes", "all"]
)
def test_damaged_vectors_are_made_again(how, files, meaning, monkeypatch):
    from paperlab.site.search import vectors

    monkeypatch.setattr(vectors, "FROM", 30)
    fill(50)
    index().refresh()
    before = content()
    assert before["embedded"] == 50
    monkeypatch.setattr(index(), "_opened", index().Embedded())
    folder = next(index().folder().glob("0*/vectors-*"))
    what, _, name = how.partition(" ")
    file = next(folder.glob("codes.*")) if name == "codes" else folder / name
    if what == "all":
        shutil.rmtree(folder)
    elif what == "no":
        file.unlink()
    elif what == "cut":
        os.truncate(file, file.stat().st_size // 2 + 1)
    else:
        file.write_bytes(b"PK nothing")
    assert found("model data")
    fill(1, start=51)
    index().refresh()
    after = content()
    assert after["embedded"] == 51
    assert {number: after["vectors"][number] for number in before["vectors"]} == before["vectors"]


def test_what_a_killed_writer_left_behind_is_cut_off(files, meaning):
    fill(20)
    index().refresh()
    folder = next(index().folder().glob("0*/vectors-*"))
    for name, junk in (("rows", b"x" * 7), ("full", b"y" * 333), ("codes.partial", b"z" * 10)):
        with open(folder / name, "ab") as stream:
            stream.write(junk)
    before = content()
    fill(5, start=21)
    index().refresh()
    after = content()
    assert after["embedded"] == 25
    assert all(after["vectors"][number] == vector for number, vector in before["vectors"].items())


def test_another_encoder_means_other_vectors(engine, meaning):
    fill(20)
    index().refresh()
    before = content()
    meaning.name = "other"
    assert found("model")  # words only, until the vectors are made
    index().refresh()
    after = content()
    assert after["embedded"] == 20
    assert after["vectors"] != before["vectors"]


def test_a_changed_text_is_embedded_again_and_no_other(engine, meaning, monkeypatch):
    fill(20)
    index().refresh()
    asked_for: list[str] = []
    plainly = type(meaning).passages
    monkeypatch.setattr(meaning, "passages", lambda texts: asked_for.extend(texts) or plainly(meaning, texts))
    take([paper(3, title="A wombat", as_of="2025-01-01"), paper(4, upvotes=1, as_of="2025-01-01")])
    index().refresh()
    assert [text.split(".")[0] for text in asked_for] == ["A wombat"]
    index().refresh()
    assert len(asked_for) == 1


def test_who_writes_is_alone(engine):
    import filelock

    fill(5)
    index().folder().mkdir(parents=True)
    with filelock.FileLock(index().folder() / "write.lock"):
        with pytest.raises(index().Busy, match="another process"):
            index().refresh(wait=0)
        assert found("model") == []  # nothing is indexed yet, and nothing fails
    assert len(found(limit=100)) == 5


def test_an_interrupted_refresh_goes_on(files, meaning, monkeypatch):
    monkeypatch.setattr(index(), "EMBEDDED", 4)
    fill(30)

    def stop(what: str, done: int, total: int) -> None:
        if what == "vectors" and done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index().refresh(progress=stop)
    asked_for: list[str] = []
    plainly = type(meaning).passages
    monkeypatch.setattr(meaning, "passages", lambda texts: asked_for.extend(texts) or plainly(meaning, texts))
    index().refresh()
    assert len(asked_for) == 18
    assert content()["embedded"] == 30


def test_searching_goes_on_while_the_index_is_built_anew(files, meaning):
    fill(60)
    index().refresh()
    wanted, problems, stop = set(found(limit=100)), [], threading.Event()

    def read() -> None:
        from paperlab.site.search.query import EVERYTHING
        from paperlab.site.search.words import Asked, asked

        while not stop.is_set():
            try:
                opened = index().engine()
                if set(opened.listed(Asked(), EVERYTHING, "day", 100)) != wanted:
                    problems.append("papers are missing")
                opened.words(asked("model"), EVERYTHING, 10)
                opened.meaning(meaning.query("model"), EVERYTHING, 10)
            except Exception as error:
                problems.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(3):
        index().refresh(rebuild=True)
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []


DRIVER = """
import json, random, sys
sys.path.insert(0, sys.argv[1])
from paperlab.site import start
start.configure()
import search_papers
from paperlab.site.search import encoder
fake = search_papers.Fake()
encoder.load, encoder.available, encoder.setting = lambda named=None: fake, lambda: True, lambda: "fake"
from paperlab.site.store import bundled
bundled.load = lambda *_: None
start.start()
import importlib
from paperlab.site.search import index, vectors
import test_search_index
vectors.FROM, vectors.GROWTH, index.EMBEDDED, index.BULK = 40, 2, 8, 50
seed, job = int(sys.argv[2]), sys.argv[3]
draw = random.Random(seed)
print("ready", flush=True)
if job == "write":
    for _ in range(12):
        test_search_index.changes(draw, 300)
        index.refresh(rebuild=draw.random() < 0.1)
elif job == "refresh":
    index.refresh()
    print(json.dumps(search_papers.content()))
elif job == "read":
    import time
    end = time.monotonic() + 3
    while time.monotonic() < end:
        search_papers.found("model data"), search_papers.content()
elif job == "compare":
    index.refresh()
    followed = search_papers.content()
    index.refresh(rebuild=True)
    built = search_papers.content()
    assert followed == built
    assert built["papers"] == sorted(map(int, built["vectors"]))
    assert built["papers"]
"""


def drive(home: Path, seed: int, job: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(seed), job]
    told = {**os.environ, "PAPERLAB_HOME": str(home), "OMP_NUM_THREADS": "1"}
    told.pop("PAPERLAB_SEARCH", None)
    return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def only_sqlite() -> None:
    if os.environ.get("PAPERLAB_DATABASE"):
        pytest.skip("needs a database of its own; that is SQLite's file")


@pytest.mark.kill
@pytest.mark.usefixtures("only_sqlite")
@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_writer_loses_nothing(kills, tmp_path):
    draw, landed, number = random.Random(kills), 0, 0
    while landed < kills:
        process = drive(tmp_path, number, "write")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        time.sleep(draw.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        landed += process.wait() == -signal.SIGKILL
        process.communicate()
        number += 1
        assert number < 10 * kills
        if landed % 3 == 0:
            ended(drive(tmp_path, 0, "compare"))


@pytest.mark.usefixtures("only_sqlite")
def test_processes_read_while_one_writes_and_two_refresh_at_once(tmp_path):
    ended(drive(tmp_path, 1, "refresh"))
    readers = [drive(tmp_path, 2, "read") for _ in range(2)]
    ended(drive(tmp_path, 3, "write"))
    for reader in readers:
        ended(reader)
    both = [drive(tmp_path, 4, "refresh") for _ in range(2)]
    assert len({ended(process) for process in both}) == 1
    ended(drive(tmp_path, 5, "compare"))
