"""The command line on a terminal: narrow tables, completion, -q and -v. Real records, a real pseudo-terminal."""

import fcntl
import importlib.util
import io
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from paperlab.cli import app, text, verbosity
from paperlab.core import log

WIDTHS = (40, 60, 80)
_SPEC = importlib.util.spec_from_file_location("records", Path(__file__).with_name("records.py"))
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
SLUG = r"[a-z0-9][a-z0-9.-]*"


def on_a_terminal(*words, columns, home, **variables):
    """(lines, exit code) of the program on a terminal that is `columns` wide; its standard error goes there too."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "PAPERLAB_HOME": str(home), "NO_COLOR": "1", "TERM": "xterm", **variables}
    for name in ("COLUMNS", "FORCE_COLOR"):
        environment.pop(name, None) if name not in variables else None
    process = subprocess.Popen(
        [sys.executable, "-m", "paperlab", *words],
        stdin=subprocess.DEVNULL, stdout=child, stderr=child, env=environment,
    )  # fmt: skip
    os.close(child)
    found = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        found += piece
    os.close(parent)
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", found).decode().replace("\r\n", "\n")
    return plain.split("\n"), process.wait()


def too_wide(lines, columns):
    """Lines that a terminal would have to fold, but for those of one word: links, slugs, commands stay whole."""
    return [line for line in lines if len(line) > columns and " " in line.strip()]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("words", [["papers", "--family", "quantization"], ["papers"], ["search", "low", "rank"]])
def test_lists_of_papers_fit(words, columns, tmp_path):
    lines, code = on_a_terminal(*words, columns=columns, home=tmp_path)
    assert code == 0
    notes = ("papers; ", "papers, ", "only words were searched")
    shown = [line for line in lines if line.strip() and not any(note in line for note in notes)]
    assert too_wide(shown, columns) == []
    assert len(shown) > 10
    assert all(re.match(rf"({SLUG}|  \S)", line) for line in shown), "a folded cell"


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_verdict_is_shown_at_every_width(columns, tmp_path):
    lines, _ = on_a_terminal("papers", "--family", "quantization", columns=columns, home=tmp_path)
    whole = "\n".join(lines)
    assert "easyquant" in whole
    assert re.search(r"not run|holds|fails|undecided|outdated", whole)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_page_of_a_paper_fits(columns, tmp_path):
    lines, code = on_a_terminal("show", "easyquant", columns=columns, home=tmp_path)
    assert code == 0
    snippet = lines.index("Use it")  # code is not folded
    assert too_wide(lines[:snippet], columns) == []
    assert len(lines) > 30


@pytest.mark.parametrize("columns", WIDTHS)
def test_doctor_fits(columns, tmp_path):
    lines, code = on_a_terminal("doctor", columns=columns, home=tmp_path)
    assert code == 0
    # an advised command has long words of its own; what is folded is indented below its name
    assert [line for line in too_wide(lines, columns) if len(line.split()) > 3] == []
    assert any("PAPERLAB_HOME" in line for line in lines)


def drawn(columns, show):
    """Lines that `show` prints on a rich console of a terminal."""
    out = io.StringIO()
    show(Console(file=out, width=columns, force_terminal=True, color_system=None, highlight=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]


KEPT = {40: {"MB"}, 60: {"95 %", "MB"}, 80: {"95 %", "bits/weight", "MB", "build s"}}  # of what may be left out


@pytest.mark.parametrize("columns", WIDTHS)
def test_tables_of_arms_fit(columns):
    from paperlab.core.panels import panels
    from paperlab.core.summaries import summary
    from paperlab.lab import compare

    groups = panels([summary(made.record(made.check()))])
    lines = drawn(columns, lambda console: compare._print(groups, console))
    assert max(map(len, lines)) <= columns
    (headers,) = [line for line in lines if line.strip().startswith("configuration")]
    assert "perplexity" in headers
    assert {name for name in compare.DROP if name in headers} == KEPT[columns]
    assert sum("easyquant" in line for line in lines) == 1


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_summary_of_a_run_fits(columns):
    from paperlab.lab import report

    records = [made.record(made.check())]
    lines = drawn(columns, lambda console: console.print(report.run_summary(records, columns)))
    assert max(map(len, lines)) <= columns
    (headers,) = [line for line in lines if line.strip().startswith("method")]
    assert "perplexity" in headers
    assert "gain" in headers
    assert ("build s" in headers) == (columns > 80)
    assert "the gap" in " ".join(lines)


@pytest.mark.parametrize("columns", WIDTHS)
def test_verify_fits(columns, monkeypatch):
    from paperlab.core import verify as verify_room

    monkeypatch.setattr(verify_room, "verify", lambda: (1_690, []))
    monkeypatch.setattr(text, "width", lambda: columns)
    done = CliRunner().invoke(app, ["verify"])
    assert "every verdict" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= columns


def test_the_variable_columns_counts_on_a_terminal(tmp_path):
    lines, _ = on_a_terminal("papers", "--year", "2024", columns=200, home=tmp_path, COLUMNS="60")
    assert too_wide(lines, 60) == []


def test_a_pipe_gets_everything(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "paperlab", "papers"],
        capture_output=True, text=True, env={**os.environ, "PAPERLAB_HOME": str(tmp_path), "COLUMNS": "40"},
    )  # fmt: skip
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["slug", "year", "family", "verdict", "title"]
    assert len(rows) == 375
    assert "…" not in done.stdout


def test_columns_go_in_the_stated_order():
    headers, rows = ["slug", "year", "family", "title"], [["a" * 20, "2024", "quantization", "long words " * 9]]

    def shown(fit):
        return text.table(headers, rows, fit=fit, drop=("family", "year")).splitlines()[0].split()

    assert shown(None) == shown(60) == headers
    assert shown(20 + 2 + 4 + 2 + 12 + 2 + 16) == headers
    assert shown(20 + 2 + 4 + 2 + 12 + 2 + 15) == ["slug", "year", "title"]
    assert shown(20 + 2 + 4 + 2 + 15) == ["slug", "title"]
    folded = text.table(headers, rows, fit=30, drop=("family", "year")).splitlines()
    assert folded[0] == "a" * 20
    assert folded[1] == "  2024 · quantization"  # nothing is left out where there is room below
    assert folded[2].startswith("  long words")
    assert len(folded[2]) <= 30


# completion


def complete(line, home):
    """What bash would offer for the last word of a line."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "paperlab"],
        capture_output=True, text=True,
        env={**os.environ, "PAPERLAB_HOME": str(home), "_PAPERLAB_COMPLETE": "complete_bash", "COMP_WORDS": line,
             "COMP_CWORD": str(len(words) - 1)},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split("\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("paperlab com", "compare"),
        ("paperlab show easyq", "easyquant"),
        ("paperlab run easyq", "easyquant"),
        ("paperlab papers --family quant", "quantization"),
        ("paperlab papers --verdict ho", "holds in direction"),
        ("paperlab papers --kind m", "method"),
        ("paperlab compare quan", "quantization"),
        ("paperlab run easyquant --set b", "bits="),
        ("paperlab pack m --method gp", "gptq"),
        ("paperlab pack m --method gptq --set act", "act_order="),
        ("paperlab run easyquant --sca", "--scale"),
    ],
)
def test_completion(line, offered, tmp_path):
    assert offered in complete(line, tmp_path)


def test_completion_of_claims(tmp_path):
    import paperlab

    claims = [check.claim for check in paperlab.methods()["easyquant"].card.checks]
    assert claims
    assert set(complete("paperlab run easyquant --claim ", tmp_path)) == {"", *claims}
    assert set(complete("paperlab run nothing-like-this --claim ", tmp_path)) == {""}


def test_completion_is_offered_and_its_script_is_printed(tmp_path):
    done = CliRunner().invoke(app, ["--help"], prog_name="paperlab")
    assert "--install-completion" in done.output
    done = subprocess.run(
        [sys.executable, "-m", "paperlab"],
        capture_output=True, text=True,
        env={**os.environ, "PAPERLAB_HOME": str(tmp_path), "_PAPERLAB_COMPLETE": "source_bash"},
    )  # fmt: skip
    assert "complete -o" in done.stdout


# -q, -v


@pytest.fixture
def level(monkeypatch):
    """The level that a run sees, by a `run_checks` that logs and notes its progress."""
    import paperlab.lab.run

    seen = []

    def run_checks(slug, *, progress, **options):
        seen.append(log.level())
        progress({"kind": "stage", "task": "t", "model": "m", "scale": "quick", "arms": ["a"]})
        log.logger("paperlab.lab.run").info("an event")
        log.logger("paperlab.lab.run").debug("a detail")
        log.logger("paperlab.lab.run").warning("a warning")
        return []

    monkeypatch.setattr(paperlab.lab.run, "run_checks", run_checks)
    monkeypatch.delenv(log.VARIABLE, raising=False)
    package = logging.getLogger("paperlab")
    before = package.handlers[:], package.level
    package.handlers[:] = []
    yield seen
    package.handlers[:], package.level = before[0], before[1]
    package.setLevel(before[1])


@pytest.mark.parametrize(
    ("words", "wanted", "progress", "logged"),
    [
        ("run easyquant", "WARNING", True, ("a warning",)),
        ("run easyquant -q", "ERROR", False, ()),
        ("-q run easyquant", "ERROR", False, ()),
        ("run easyquant --verbose", "INFO", True, ("a warning", "an event")),
        ("-v run easyquant", "INFO", True, ("a warning", "an event")),
        ("run easyquant -vv", "DEBUG", True, ("a warning", "an event", "a detail")),
    ],
)
def test_quiet_and_verbose(level, words, wanted, progress, logged):
    done = CliRunner().invoke(app, words.split(), prog_name="paperlab")
    assert done.exit_code == 0, done.output
    assert level == [wanted]
    assert ("t on m, quick: 1 configurations" in done.stderr) == progress
    assert [
        line for line in ("a warning", "an event", "a detail") if f"paperlab.lab.run: {line}" in done.stderr
    ] == list(logged)
    assert log.VARIABLE not in os.environ  # it lasts as long as the command


def test_the_variable_is_the_default_of_every_command(level, monkeypatch):
    monkeypatch.setenv(log.VARIABLE, "error")
    assert "t on m" not in CliRunner().invoke(app, ["run", "easyquant"]).stderr
    assert CliRunner().invoke(app, ["papers", "--year", "2024"]).stderr == ""
    monkeypatch.setenv(log.VARIABLE, "no such level")
    assert log.level() == "WARNING"


def test_quiet_keeps_results_and_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["-q", "papers", "--json"])
    assert len(json.loads(done.stdout)) == 375
    assert done.stderr == ""
    assert "no paper" in CliRunner().invoke(app, ["-q", "show", "nothing-like-this"]).stderr


def test_every_command_that_works_for_long_takes_both():
    from typer.main import get_command

    commands = get_command(app).commands
    taking = {name for name, command in commands.items() if {"quiet", "verbose"} <= {p.name for p in command.params}}
    assert taking == {
        "run", "forget", "compare", "report", "verify", "index", "pack", "compress", "distill", "merge", "eval",
        "export", "chat", "serve-model", "fetch", "import", "up", "digest", "mcp",
    }  # fmt: skip


def test_a_command_keeps_its_help_and_its_words():
    from paperlab.cli import lab

    assert lab.run.__doc__.startswith("Run a paper's checks")
    assert lab.run.__wrapped__ is not lab.run
    assert callable(verbosity.takes_verbosity(lab.run.__wrapped__))


def test_the_library_prints_nothing_of_what_it_logs():
    code = (
        "import sys, paperlab\nfrom paperlab.core.log import logger\nassert 'logging' not in sys.modules or True\n"
        "logger('paperlab.x').error('not shown')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_does_not_import_logging():
    code = "import sys, paperlab; sys.exit('logging' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
