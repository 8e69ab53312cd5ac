"""Who may import whom; what stays unloaded; which names are public."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import paperlab

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "paperlab"
HEAVY = ("torch", "numpy", "transformers", "rich", "jinja2", "matplotlib", "tokenizers")

# One import for each contract of .importlinter that must break it.
PLANTED = {
    "core imports no other room": ("core/planted.py", "import paperlab.lab.machine"),
    "kit imports core only": ("kit/planted.py", "import paperlab.tasks.lm_compress"),
    "assets import core only": ("assets/planted.py", "from paperlab.kit import grid"),
    "methods import kit, core and assets": ("methods/quantization/planted.py", "def f():\n    import paperlab.lab.run"),
    "no method imports another": (
        "methods/quantization/planted_too.py",
        "from paperlab.methods.quantization import round_to_nearest",
    ),
    "tasks import kit, core and assets, never a method": (
        "tasks/planted.py",
        "import paperlab.methods.quantization.original",
    ),
    "the lab reaches methods and tasks by name": ("lab/planted.py", "import paperlab.methods.quantization.original"),
    "the engine imports core only": ("engine/planted.py", "import paperlab.kit.grid"),
    "the engine has no import circle": (
        "engine/packing/planted.py",
        "def f():\n    from paperlab.engine.formats import source",
    ),
    "the site imports core, the engine, and from assets what fetches packages": (
        "site/planted.py",
        "def f():\n    from paperlab.lab import machine",
    ),
}


def lint(sources: Path, where: Path) -> dict[str, bool]:
    """Run import-linter on the package under `sources`; whether each contract is kept."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", ROOT / ".importlinter"],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(sources), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    kept = {
        line.rpartition(" ")[0]: line.endswith("KEPT")
        for line in done.stdout.splitlines()
        if line.endswith(("KEPT", "BROKEN"))
    }
    assert done.returncode == (0 if all(kept.values()) else 1), done.stdout + done.stderr
    return kept


def test_every_room_keeps_to_its_contract(tmp_path):
    assert lint(ROOT / "src", tmp_path) == dict.fromkeys(PLANTED, True)


def test_every_contract_breaks_on_a_planted_import(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "paperlab", ignore=shutil.ignore_patterns("data", "__pycache__"))
    for file, code in PLANTED.values():
        (tmp_path / "paperlab" / file).write_text(code)
    assert lint(tmp_path, tmp_path) == dict.fromkeys(PLANTED, False)


def test_a_circle_of_two_modules_in_one_room_of_the_engine_is_seen(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "paperlab", ignore=shutil.ignore_patterns("data", "__pycache__"))
    channels = tmp_path / "paperlab" / "engine" / "packing" / "channels.py"
    channels.write_text(channels.read_text() + "\n\ndef planted():\n    from paperlab.engine.packing import pack\n")
    name = "the engine has no import circle"
    assert lint(tmp_path, tmp_path) == dict.fromkeys(PLANTED, True) | {name: False}


def imports(file: Path, *, inside: bool) -> set[str]:
    """Top packages that a file imports at module level, or also inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("file", sorted((SOURCE / "core").glob("*.py")), ids=lambda file: file.name)
def test_core_is_standard_library_only(file):
    foreign = imports(file, inside=True) - set(sys.stdlib_module_names) - {"paperlab", "__future__"}
    assert foreign <= ({"platformdirs"} if file.name == "home.py" else set())


@pytest.mark.parametrize("file", sorted((SOURCE / "cli").glob("*.py")), ids=lambda file: file.name)
def test_the_command_line_loads_its_rooms_inside_functions(file):
    foreign = imports(file, inside=False) - set(sys.stdlib_module_names) - {"paperlab"}
    assert foreign <= {"typer"}
    rooms = [n.module for n in ast.parse(file.read_text()).body if isinstance(n, ast.ImportFrom) and n.module]
    assert not [room for room in rooms if room.startswith(("paperlab.lab", "paperlab.kit", "paperlab.tasks"))]


def loaded_after(code: str, tmp_path: Path) -> set[str]:
    """Which of HEAVY are loaded in a fresh process after `code`."""
    ask = f"import io, sys, json\nreal, sys.stdout = sys.stdout, io.StringIO()\n{code}\n"
    ask += f"real.write(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, env={**os.environ, "PAPERLAB_HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import paperlab; assert len(paperlab.papers()) > 300; assert 'round-to-nearest' in paperlab.methods()",
        "from paperlab.cli import app; app(['papers'], standalone_mode=False)",
        "from paperlab.cli import app; app(['papers', '--json', '--verdict', 'holds'], standalone_mode=False)",
        "from paperlab.cli import app; app(['search', 'low', 'rank'], standalone_mode=False)",
        "from paperlab.cli import app; app(['show', 'easyquant'], standalone_mode=False)",
        "from paperlab.cli import app; app(['methods'], standalone_mode=False)",
        "import paperlab\ntry: paperlab.load('gptq', bitz=3)\nexcept ValueError: pass\nelse: raise SystemExit(3)",
    ],
)
def test_listing_loads_nothing_heavy(code, tmp_path):
    assert loaded_after(code, tmp_path) == set()


def test_what_the_command_line_refuses_it_refuses_before_torch(tmp_path):
    code = "from paperlab.cli import app\ntry: app(['run', 'gptq'])\nexcept SystemExit as e: assert e.code == 2"
    assert loaded_after(code, tmp_path) == set()


def test_public_names():
    assert sorted(paperlab.__all__) == ["__version__", "check", "compress", "distill", "load", "methods", "papers"]
    assert paperlab.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        paperlab.nothing  # noqa: B018


def test_importing_the_methods_package_does_not_hide_the_public_function():
    import importlib

    importlib.import_module("paperlab.methods.quantization")
    assert "round-to-nearest" in paperlab.methods()


def test_an_unknown_name_is_refused_with_its_neighbours():
    for ask in (lambda: paperlab.load("round-to-nearst"), lambda: paperlab.check("round-to-nearst")):
        with pytest.raises(LookupError, match="round-to-nearest"):
            ask()
