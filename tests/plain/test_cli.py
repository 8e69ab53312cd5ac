"""The command line, with records of every verdict in the data folder: listings, pages, JSON, errors, exit codes."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paperlab.cli import app, running, text
from paperlab.cli import show as show_room
from paperlab.core import install, panels, published, record, standings
from paperlab.core import methods as method_files
from paperlab.core import verify as verify_room
from paperlab.core.card import Arm, Card, Check
from paperlab.core.methods import filled, read_method
from paperlab.core.sources import arm_sources
from paperlab.lab import compare as compare_room
from paperlab.lab import report as report_room

HERE = Path(__file__).resolve()


def load(file: Path):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = load(HERE.with_name("records.py"))

SOURCE = '''"""{says}"""
from paperlab.core.card import Card
CARD = Card(family="quantization")
def quantize(weight, *, bits: int = 4, group: int | None = None) -> "Quantized":
    return weight
'''


def check(claim, expect="lower", **fields):
    return Check(
        claim=claim, says=f"About {claim}: 7.0 against 10.3", task="lm_compress", metric="perplexity", expect=expect,
        margin=0.02, method=Arm("easyquant", {"bits": 4}), baseline=Arm("round-to-nearest", {"bits": 4}),
        gap="the paper: 7 billion parameters; here 135 million", **fields,
    )  # fmt: skip


HOLDS, FAILS, CONTROL = check("gains"), check("loses"), check("same", "equal", role="a/a control")
UNRUN = check("unrun")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A data folder with three records, and three methods: easyquant with four checks, one study, one baseline."""
    folder = tmp_path / "quantization"
    folder.mkdir()
    cards = {
        "easyquant": Card("quantization", "easyquant", (HOLDS, FAILS, CONTROL, UNRUN), ("a grid, not gradient steps",)),
        "baq": Card("quantization", "baq", (replace(check("baq-gains"), method=Arm("baq", {})),)),
        "round-to-nearest": Card("quantization"),
    }
    known = {}
    for slug, its in cards.items():
        file = folder / f"{slug.replace('-', '_')}.py"
        file.write_text(SOURCE.format(says=f"{slug}: in a line."))
        known[slug] = replace(read_method(file), slug=slug, card=its)
    for module in (method_files, standings, compare_room, report_room, show_room):
        monkeypatch.setattr(module, "methods", lambda: known)
    for module in (standings, panels):
        monkeypatch.setattr(module, "task_version", lambda name: 1)
    for module in (record, standings, verify_room):
        monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / "home"))
    forget()
    for its, loss in ((HOLDS, 3.1), (FAILS, 3.6), (CONTROL, 3.3)):
        losses = {str(its.method): loss, str(its.baseline): 3.3}
        found = made.record(its, losses, id=its.claim, machine="box", model="smollm2-135m")
        arms = [replace(a, sources=arm_sources(a.arm, "lm_compress"), params=filled(a.arm).params) for a in found.arms]
        record.append(replace(found, arms=arms))
    yield tmp_path
    forget()


def forget():
    standings.forget()


def ask(*words, code=0):
    done = CliRunner().invoke(app, list(words), prog_name="paperlab")
    assert done.exit_code == code, (done.output, done.exception)
    return done


def rows(*words):
    """What --json printed: one array on standard output."""
    done = ask(*words, "--json")
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    assert done.stdout.count("\n") == 1
    return found


def test_own_records_are_deleted_and_no_others(shelf):
    own = list(record.read((record.records_folder(),)))
    assert [one.id for one in own] == ["gains", "loses", "same"]
    refused = ask("forget", "baq", code=2)
    assert "no run of yours is called baq" in refused.output
    asked = CliRunner().invoke(app, ["forget", "easyquant"], input="n\n", prog_name="paperlab")
    assert (asked.exit_code, "Delete 3 records for good?" in asked.output) == (1, True)
    assert len(list(record.read((record.records_folder(),)))) == 3
    (gone,) = rows("forget", "easyquant", "--claim", "loses", "--yes")
    assert (gone["id"], gone["claim"]) == ("loses", "loses")
    forget()
    assert [one.id for one in record.read((record.records_folder(),))] == ["gains", "same"]
    assert ask("verify").stdout.startswith("2 records")
    assert {row["slug"]: row["verdict"] for row in rows("papers")}["easyquant"] == "holds"
    ask("forget", "easyquant", "-y")
    assert not list(record.records_folder().glob("*/*/*.json*"))


# listings


def test_papers_lists_all_with_their_verdicts(shelf):
    found = {row["slug"]: row for row in rows("papers")}
    assert len(found) == 375
    easyquant = found["easyquant"]
    assert easyquant["arxiv"] == "2403.02775"
    assert easyquant["runnable"] is True
    assert easyquant["verdict"] == "holds"  # of its main claim, the first
    assert easyquant["counts"] == {"holds": 1}
    assert easyquant["summary"] == "holds on smollm2-135m"
    assert easyquant["main"] == ["gains"]
    assert {v["claim"]: v["word"] for v in easyquant["verdicts"]} == {
        "gains": "holds",
        "loses": "fails",
        "same": "undecided",
    }
    assert found["ostquant"]["runnable"] is False
    assert found["ostquant"]["verdict"] is None


@pytest.mark.parametrize(
    ("words", "slugs"),
    [
        (["--runnable"], {"easyquant", "baq"}),
        (["--verdict", "holds"], {"easyquant"}),
        (["--verdict", "mixed"], set()),
        (["--verdict", "Not_Run"], {"baq"}),
        (["--verdict", "undecided"], set()),
        (["--family", "Quantization", "--kind", "study", "--year", "2025"], {"qwen3-quantization-study"}),
        (["--family", "low_rank", "--year", "2023", "--runnable"], set()),
    ],
)
def test_papers_filters(shelf, words, slugs):
    assert {row["slug"] for row in rows("papers", *words)} == slugs


def test_papers_in_a_pipe_cuts_nothing(shelf):
    done = ask("papers", "--family", "quantization")
    assert (
        "Refining Large Language Model Quantization with Orthogonal and Scaling Transformations for Better"
        in done.stdout
    )
    assert "holds on smollm2-135m" in done.stdout
    assert "not yet run" in next(line for line in done.stdout.splitlines() if line.startswith("baq "))
    assert "14 papers" in done.stderr
    assert "\x1b" not in done.stdout


def test_papers_on_a_terminal_of_80_columns_fit(shelf, monkeypatch):
    monkeypatch.setattr(text, "width", lambda: 80)
    for family in ("quantization", "speech-understanding"):
        lines = ask("papers", "--family", family).stdout.splitlines()
        assert len(lines) > 10
        assert max(map(len, lines)) <= 80
    assert any("…" in line for line in ask("search", "kv", "cache").stdout.splitlines())


def test_search(shelf):
    found = rows("search", "low", "rank", "compensation", "--limit", "3")
    assert next(row["slug"] for row in found) == "zeroquant-v2-lorc"
    assert len(found) == 3
    assert rows("search", "xyzzyqwv") == []
    assert "nothing found" in ask("search", "xyzzyqwv").stderr
    assert ask("search", "2403.02775").stdout.count("easyquant") == 1


def test_methods_shows_parameters_and_baselines(shelf):
    found = {row["slug"]: row for row in rows("methods", "--family", "quantization")}
    assert found["round-to-nearest"]["baseline"] is True
    assert found["easyquant"]["checks"] == ["gains", "loses", "same", "unrun"]
    assert found["easyquant"]["parameters"][1] == {
        "name": "group", "allowed": "a whole number from 1 to 65,536 or none", "choices": [], "default": None
    }  # fmt: skip
    assert "bits=4 group=none" in ask("methods").stdout


# one paper


def test_show_tells_claims_checks_verdicts_and_use(shelf):
    text = ask("show", "easyquant").stdout
    assert max(map(len, text.splitlines())) <= 80
    for said in ("over 10 times faster", "gains: About gains: 7.0 against 10.3", "HOLDS here: gain +1",
                 "FAILS here: gain -",
                 "same (a/a control)", "within 2 % of round-to-nearest(bits=4)", "gap: the paper: 7 billion",
                 "not yet run",
                 "a grid, not gradient steps", "group = none  (a whole number from 1 to 65,536 or none)",
                 "  paperlab run easyquant",
                 'easyquant = paperlab.load("easyquant", bits=4)', "https://arxiv.org/abs/2403.02775"):  # fmt: skip
        assert said in text


def test_show_as_json(shelf):
    (found,) = rows("show", "2403.02775")
    assert found["slug"] == "easyquant"
    assert [c["claim"] for c in found["checks"]] == ["gains", "loses", "same", "unrun"]
    assert found["checks"][0]["hash"] == HOLDS.hash
    assert found["command"] == "paperlab run easyquant"
    gains = next(v for v in found["verdicts"] if v["claim"] == "gains")
    assert gains["low"] < gains["gain"] < gains["high"]


def test_show_of_a_plan_a_survey_and_a_baseline(shelf):
    assert "No check yet; planned (effort" in ask("show", "ostquant").stdout
    assert "Nothing to run:" in ask("show", "speculative-decoding-survey").stdout
    assert "round-to-nearest: in a line." in ask("show", "round_to_nearest").stdout
    assert rows("show", "round-to-nearest")[0]["kind"] == "baseline"


def test_every_paper_can_be_shown(shelf):
    from paperlab.cli import show
    from paperlab.core.paper import papers

    for slug in papers():
        known = show.about(slug)
        json.dumps(known)
        page = show.page(known)
        assert known["title"].split()[0] in page
        assert [
            line for line in page.splitlines() if len(line) > 80 and " " in line.strip().removeprefix("code: ")
        ] == []


# errors: one line, what was wrong and what to do, nothing on standard output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "easyqant"], "did you mean easyquant"),
        (["show", "9999.99999"], "no paper with arXiv id"),
        (["papers", "--family", "quantisation"], "one of: quantization"),
        (["papers", "--kind", "metod"], "one of: method"),
        (["papers", "--verdict", "hold"], "one of: holds"),
        (["papers", "--year", "last"], "--year"),
        (["papers", "--bogus"], "`paperlab papers --help`"),
        (["bogus"], "`paperlab --help`"),
        (["show"], "`paperlab show --help`"),
        (["search", "a", "--limit", "0"], "--limit"),
        (["run", "easyqant"], "did you mean easyquant"),
        (["run", "ostquant"], "planned, not written; `paperlab papers --runnable`"),
        (["run", "speculative-decoding-survey"], "cannot be run"),
        (["run", "round-to-nearest"], "is a baseline"),
        (["run", "easyquant", "--claim", "gain"], "one of: gains"),
        (["run", "easyquant", "--set", "bitz=3"], "did you mean bits"),
        (["run", "easyquant", "--set", "bits=three"], "bits takes a whole number from 1 to 16 (default 4)"),
        (["run", "easyquant", "--set", "bits"], "write name=value"),
        (["run", "easyquant", "--scale", "huge"], "--scale"),
        (["compare", "nothing"], "no method 'nothing'"),
        (["compare", "baq"], "no finished record of baq"),
    ],
)
def test_errors_are_one_line_on_standard_error(shelf, words, says):
    done = ask(*words, code=2)
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.startswith("paperlab: ")
    assert done.stderr.count("\n") == 1
    done = ask(*words, "--json", code=2)
    assert done.stdout == ""
    error = json.loads(done.stderr)
    assert says in error["error"]
    assert (error["code"], error["kind"]) == (2, error["kind"])
    assert error["kind"] in ("misuse", "unknown")


def failure(*words, code):
    """The object that a command with --json leaves on standard error, with nothing on standard output."""
    done = ask(*words, "--json", code=code)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    error = json.loads(line)
    assert sorted(error) == ["code", "error", "kind"]
    assert error["code"] == code
    return error["kind"], error["error"]


def test_errors_with_json_are_objects_that_name_their_kind(shelf, monkeypatch):
    assert failure("papers", "--bogus", code=2)[0] == "misuse"
    assert failure("--bogus", "papers", code=2)[0] == "misuse"
    assert failure("papers", "--kind", "metod", code=2)[0] == "misuse"
    kind, message = failure("show", "easyqant", code=2)
    assert kind == "unknown"
    assert "did you mean easyquant" in message

    def raises(error):
        def broken(*_, **__):
            raise error

        return broken

    monkeypatch.setattr(running, "run", raises(ModuleNotFoundError("No module named 'torch'", name="torch")))
    kind, message = failure("run", "easyquant", code=2)
    assert kind == "missing-extra"
    assert install.hint("lab") in message
    monkeypatch.setattr(running, "run", raises(OSError(28, "No space left on device", "/data/x.jsonl")))
    assert failure("run", "easyquant", code=1) == ("machine", "/data/x.jsonl: No space left on device")
    monkeypatch.setattr(running, "run", raises(KeyboardInterrupt()))
    assert failure("run", "easyquant", code=130)[0] == "interrupted"
    monkeypatch.setattr(running, "run", raises(KeyError("a bug")))
    kind, message = failure("run", "easyquant", code=1)
    assert kind == "bug"
    assert "Traceback" in message
    assert "in broken" in message
    assert "Traceback" not in ask("show", "--json", code=2).stderr  # and without a fault there is none


def test_json_behind_two_dashes_is_a_word_to_search_for(shelf):
    assert ask("show", "--", "--json", code=2).stderr.startswith("paperlab: ")


def test_a_fault_of_ours_keeps_its_trace(shelf, monkeypatch):
    from paperlab.core import paper

    def broken():
        raise KeyError("a bug")

    monkeypatch.setattr(paper, "papers", broken)
    done = CliRunner().invoke(app, ["papers"])
    assert isinstance(done.exception, KeyError)


def test_a_full_disk_is_told_in_one_line(shelf, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/data/records/x.jsonl")

    monkeypatch.setattr(running, "run", full)
    done = ask("run", "easyquant", code=1)
    assert done.stderr == "paperlab: /data/records/x.jsonl: No space left on device\n"


def test_a_missing_package_names_the_extra_that_brings_it(shelf, monkeypatch):
    def bare(*_, **__):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(running, "run", bare)
    said = ask("run", "easyquant", code=2).stderr
    assert f"torch, which is not installed: {install.hint('lab')}" in said
    monkeypatch.setitem(sys.modules, "numpy", None)
    for name in [name for name in sys.modules if name.startswith("paperlab.engine")]:
        monkeypatch.delitem(sys.modules, name)
    assert f"numpy, which is not installed: {install.hint('engine')}" in ask("chat", "abstracts-lm", code=2).stderr


def test_an_interrupt_says_how_to_go_on(shelf, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", stopped)
    assert "--resume" in ask("run", "easyquant", code=130).stderr
    monkeypatch.setattr(report_room, "report", stopped)
    assert ask("report", code=130).stderr == "paperlab: interrupted\n"


def test_settings_without_a_method_are_refused(shelf, tmp_path):
    for words in ("pack m -o out --set bits=3", "export m --to hf -o out --data text.txt"):
        assert "--set, --data and --documents are for a --method" in ask(*words.split(), code=2).stderr


def test_each_command_is_listed_with_a_whole_sentence():
    listed = ask("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(listed) > 15
    assert [line for line in listed if not line.endswith(".") or line.endswith("..")] == []


def test_a_broken_record_is_named_with_its_line(shelf):
    file = next((shelf / "home" / "records").glob("*/*/*.jsonl"))
    with open(file, "a") as stream:
        stream.write('{"schema": 1}\n')
    forget()
    assert f"{file}:4: not a record" in ask("papers", code=2).stderr


# run, verify, report, compare


@pytest.fixture
def ran(shelf, monkeypatch):
    """`run_checks` replaced: keeps what it was asked, tells its progress, returns the two claims' records."""
    asked = {}

    def run_checks(slug, *, progress, **options):
        asked.update(slug=slug, **options)
        arm = "easyquant(bits=4)"
        progress({"kind": "stage", "task": "lm_compress", "model": "m", "scale": "quick", "arms": [arm]})
        progress({"kind": "left", "message": "an unfinished run was here"})
        progress({"kind": "build", "arm": arm, "seed": 0, "what": "layers", "done": 1, "total": 2})
        for done in (1, 2):
            progress({"kind": "item", "arm": arm, "seed": 0, "done": done, "total": 2, "values": {}})
        progress({"kind": "error", "arm": "gptq(bits=4)", "seed": 0, "message": "ValueError: no"})
        found = list(record.read((shelf / "home" / "records",)))[:2]
        progress({"kind": "record", "record": found[0]})
        return found

    import paperlab.lab.run

    monkeypatch.setattr(paperlab.lab.run, "run_checks", run_checks)
    return asked


def test_run_passes_on_what_was_asked(ran):
    ask("run", "2403.02775", "--claim", "Gains", "--scale", "full", "--model", "dir", "--data", "text.txt",
        "--set", "bits=3", "--set", "group=none", "--set", "calibration=code", "--seeds", "3", "--resume")  # fmt: skip
    assert ran == {
        "slug": "easyquant", "claim": "gains", "scale": "full", "model": "dir", "data": "text.txt", "seeds": 3,
        "resume": True, "jobs": None, "on": None, "params": {"bits": 3, "group": None, "calibration": "code"},
    }  # fmt: skip


def test_run_takes_a_family_or_what_is_outdated(ran, monkeypatch):
    import paperlab.lab.run

    asked = []
    one = paperlab.lab.run.run_checks("easyquant", progress=lambda event: None)[0]

    def run_all(wanted, *, progress, **options):
        asked.append(([(w.method.slug, w.check.claim, w.on) for w in wanted], options["scale"], options["jobs"]))
        return [one]

    monkeypatch.setattr(paperlab.lab.run, "run_all", run_all)
    ask("run", "quantization", "--jobs", "2")
    ((wanted, scale, jobs),) = asked
    assert (scale, jobs) == ("quick", 2)
    assert {on for _, _, on in wanted} == {None}
    assert len({slug for slug, _, _ in wanted}) > 1
    asked.clear()
    old = [("easyquant", "gains", "lm_compress", "abstracts-lm", "full"),
           ("easyquant", "loses", "lm_compress", "mine", "quick")]  # fmt: skip
    monkeypatch.setattr("paperlab.core.standings.outdated_checks", lambda: old)
    ask("run", "--outdated")
    once = [([("easyquant", "gains", ("lm_compress", "abstracts-lm"))], "full", None)]
    assert asked == once  # the other is on a model of the user's: only they know where it lies
    ask("run", "--outdated", "quantization")
    assert asked == once * 2
    ask("run", "--outdated", "pruning", code=2)
    assert asked == once * 2
    assert "name a paper" in ask("run", code=2).stderr
    assert "belong to the checks of one paper" in ask("run", "--outdated", "--set", "bits=3", code=2).stderr


def test_run_tells_progress_on_standard_error_and_the_verdict_on_standard_output(ran):
    done = ask("run", "easyquant")
    assert "easyquant: gains" in done.stdout
    assert "beyond 0 the other way; here: smollm2-135m" in done.stdout
    for said in (
        "lm_compress on m, quick: 1 configurations",
        "layers 1/2",
        "scored 2/2",
        "failed: ValueError: no",
        "note: an unfinished",
    ):
        assert said in done.stderr
        assert said not in done.stdout


def test_a_run_that_ends_in_an_error_says_so_with_its_exit_status(ran, monkeypatch):
    import paperlab.lab.run

    broken, fine = paperlab.lab.run.run_checks("easyquant", progress=lambda event: None)
    broken = replace(broken, status="failed", error="ValueError: no")
    monkeypatch.setattr(paperlab.lab.run, "run_checks", lambda slug, progress, **options: [broken, fine])
    done = ask("run", "easyquant", code=1)
    assert "ended in an error: gains on smollm2-135m" in done.stderr
    assert "loses" in done.stdout
    done = ask("run", "easyquant", "--json", code=1)
    assert [row["word"] for row in json.loads(done.stdout)] == ["error", "fails"]


def test_run_as_json(ran):
    found = rows("run", "easyquant")
    assert [(row["claim"], row["word"]) for row in found] == [("gains", "holds"), ("loses", "fails")]
    assert found[0]["command"].startswith("paperlab run")


def test_the_live_table_follows_every_event(ran):
    from rich.console import Console

    state = {"title": "", "arms": {}}
    events = [
        {"kind": "stage", "task": "t", "model": None, "scale": "quick", "arms": ["a", "b", "c"]},
        {"kind": "build", "arm": "b", "seed": 0, "what": "layers", "done": 3, "total": 30},
        {"kind": "item", "arm": "a", "seed": 0, "done": 4, "total": 4},
        {"kind": "error", "arm": "c", "seed": 0, "message": "no"},
    ]
    for event in events:
        running._follow(state, event)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(running._table(state))
    said = console.export_text()
    for word in ("t, quick: 3 configurations", "builds: layers", "3/30", "done", "4/4", "failed"):
        assert word in said


def test_verdicts_are_marked_outdated_once_their_code_changed(shelf):
    assert "outdated" not in ask("papers", "--runnable").stdout + ask("show", "easyquant").stdout
    assert standings.outdated_checks() == []
    file = shelf / "quantization" / "round_to_nearest.py"
    file.write_text(file.read_text() + "\n\ndef helper() -> int:\n    return 1\n")
    forget()
    assert "holds on smollm2-135m, outdated" in ask("papers", "--runnable").stdout
    changed = "outside/quantization/round_to_nearest.py changed"
    assert f"(outdated: {changed} since)" in " ".join(ask("show", "easyquant").stdout.split())
    verdicts = rows("papers", "--runnable")[1]["verdicts"]
    assert [row["outdated"] for row in verdicts] == [[changed]] * 3
    assert "3 of 3 current verdicts are outdated" in ask("verify").stdout
    assert {check[:3] for check in standings.outdated_checks()} == {
        ("easyquant", claim, "lm_compress") for claim in ("gains", "loses", "same")
    }


def test_verify_counts_and_finds_a_changed_verdict(shelf):
    ask("papers")  # publishes
    done = ask("verify")
    assert "3 records: every verdict follows from its samples" in done.stdout
    assert rows("verify") == []
    (file,) = map(published.verdicts_file, record.record_files(shelf / "home" / "records"))
    file.write_text(file.read_text().replace('"word": "fails"', '"word": "holds"'))
    done = ask("verify", code=1)
    assert "published word is 'holds', its samples say 'fails'" in done.stderr
    assert "1 problems in 3 records" in done.stderr
    done = ask("verify", "--json", code=1)
    (problem,) = json.loads(done.stdout)
    assert "loses" in problem["problem"]
    assert json.loads(done.stderr) == {"error": "1 problems in 3 records", "code": 1, "kind": "problems"}


def test_report_writes_a_page_for_each_family_and_an_index(shelf):
    file = shelf / "out" / "page.html"
    assert ask("report", "-o", str(file)).stdout == f"{file}\n"
    assert 'href="page-quantization.html"' in file.read_text()
    assert "EasyQuant" in file.with_name("page-quantization.html").read_text()
    reports = shelf / "home" / "reports"
    names = ["report.html", "report-quantization.html"]
    assert rows("report") == [{"page": str(reports / name)} for name in names]
    assert rows("report", "quantization") == [{"page": str(reports / names[1])}]
    assert "no method 'nothing'" in ask("report", "nothing", code=2).stderr


def test_a_picture_needs_one_method_and_a_package_for_png(shelf, monkeypatch):
    file = shelf / "out" / "gains.svg"
    assert ask("report", "easyquant", "-o", str(file)).stdout == f"{file}\n"
    assert file.read_text().startswith("<svg")
    assert "one method with records is wanted" in ask("report", "baq", "-o", str(file), code=2).stderr
    assert ask("compare", "quantization", "-o", str(shelf / "out" / "front.svg")).stderr.endswith("front.svg\n")
    assert (shelf / "out" / "front.svg").read_text().startswith("<svg")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert "PNG needs resvg-py" in ask("report", "--png", "-o", str(shelf / "out"), code=2).stderr


def test_compare_prints_a_table_and_writes_its_page(shelf):
    done = ask("compare", "quantization", "-o", str(shelf / "out"))
    assert "easyquant(bits=4)" in done.stdout
    assert (shelf / "out" / "compare.html").exists()
    found = rows("compare", "easyquant", "-o", str(shelf / "out"))
    assert {"easyquant(bits=4)", "round-to-nearest(bits=4)"} <= {row["arm"] for row in found}
    assert all(isinstance(row["value"], float) for row in found)


def test_doctor_says_what_is_there_and_what_is_missing(shelf, monkeypatch):
    from paperlab.lab import doctor

    unfinished = shelf / "home" / "runs" / "abc"
    unfinished.mkdir(parents=True)
    (unfinished / "run.json").write_text(json.dumps({"task": "lm_compress", "model": "m", "scale": "quick"}))
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setattr(doctor, "_met", lambda requirement: not requirement.startswith("gguf"))
    found = {row["name"]: row for row in rows("doctor")}
    assert found["PAPERLAB_HOME"]["ok"] is True
    assert str(shelf / "home") in found["PAPERLAB_HOME"]["value"]
    assert found["smollm2-135m"]["ok"] is False
    assert found["extra [lab]"]["ok"] is False
    assert "missing gguf" in found["extra [lab]"]["value"]
    assert found["extra [lab]"]["advice"] == install.hint("lab")
    assert found["PyTorch"]["value"] == "not installed"
    assert found["extra [test]"]["advice"] is None
    assert found["unfinished run"]["value"].startswith("lm_compress on m, quick, begun 20")
    text = ask("doctor").stdout
    assert "lm_compress on m, quick" in text
    assert "> the same `paperlab run` with --resume goes on" in text


def test_doctor_says_what_the_engine_computes_by_and_what_is_lost_without_it(monkeypatch):
    from paperlab import engine
    from paperlab.lab import doctor

    monkeypatch.setattr(engine, "available", lambda: True)
    monkeypatch.setattr(engine, "instruction_sets", lambda: ["ref", "avx2"])
    assert [row["value"] for row in doctor._engine()] == [
        "computes by avx2, of ref, avx2; chat, serve-model and search use it"
    ]

    def damaged():
        raise engine.EngineError("it is of another version")

    monkeypatch.setattr(engine, "instruction_sets", damaged)
    (row,) = doctor._engine()
    assert row["ok"] is False
    assert row["advice"] == "it is of another version"
    monkeypatch.setattr(engine, "available", lambda: False)
    (row,) = doctor._engine()
    assert "no chat, no serve-model" in row["value"]
    assert row["advice"] == install.engine_hint()


def test_releases_compare_as_numbers():
    from paperlab.lab.doctor import _met

    assert _met("pytest>=8")
    assert _met("typer")
    assert not _met("pytest>=999.1")
    assert not _met("a-package-that-is-not-there>=1")
    assert not _met("typer[all]>=999.1")
    assert _met("paperlab-daily[milvus,site]")


# the program itself


def program(*words, home, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "paperlab", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PAPERLAB_HOME": str(home), "NO_COLOR": "1"},
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_program_prints_help_version_and_json(tmp_path):
    assert "Commands:" in program("--help", home=tmp_path).stdout
    assert program("--version", home=tmp_path).stdout.startswith("paperlab 0.")
    done = program("papers", "--json", home=tmp_path)
    assert len(json.loads(done.stdout)) == 375
    assert done.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}  # listing leaves only an index that speeds it up


def test_the_program_fails_with_one_line(tmp_path):
    done = program("show", "nothing-like-this", "--json", home=tmp_path, code=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_fault(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m paperlab papers | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PAPERLAB_HOME": str(tmp_path)},
    )
    assert done.stdout.startswith("slug")
    assert "Traceback" not in done.stderr


def test_the_reference_page_is_fresh():
    generate = load(HERE.parents[2] / "docs" / "reference" / "generate.py")
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run: python docs/reference/generate.py"
