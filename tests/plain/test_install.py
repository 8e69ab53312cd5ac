"""Names and hints: the distributions, what brings a missing package, in a checkout and in an installation."""

import importlib
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import paperlab
from paperlab.core import install

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    extra: {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
}


def test_the_distributions_have_names_of_their_own():
    assert PROJECT["name"] == install.DISTRIBUTION == "paperlab-daily"
    native = tomllib.loads((ROOT / "native" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert native["name"] == install.ENGINE == "paperlab-engine"
    assert PROJECT["scripts"] == {"paperlab": "paperlab.__main__:main"}
    assert PROJECT["description"].startswith(install.SUMMARY)
    assert paperlab.__version__ == install.version() == PROJECT["version"]


def test_nothing_tells_people_to_install_the_package_of_somebody_else():
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    wrong = re.compile(r"""pip install [^\n`"<;]*\bpaperlab(?!-)(\[|['"` ]|$)|["'(]paperlab\[""", re.MULTILINE)
    assert wrong.search("pip install 'paperlab[serve]'")
    assert wrong.search('dependencies = ["paperlab[lab]"]')
    found = []
    for name in tracked.splitlines():
        file = ROOT / name
        if file.suffix in (".py", ".md", ".toml", ".html", ".txt", "") and file.is_file() and file != Path(__file__):
            text = file.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: {match[0]}" for match in wrong.finditer(text)]
    assert found == []


distributions = cache(importlib.metadata.packages_distributions)


@pytest.mark.parametrize("module", sorted(install.EXTRAS))
def test_every_extra_that_is_named_for_a_module_brings_it(module):
    names = distributions().get(module)
    if not names:
        pytest.skip(f"{module} is not installed here")
    ours = {name.lower().replace("_", "-") for name in names}
    for extra in install.EXTRAS[module]:
        wanted = EXTRAS[extra]
        # what the extra does not name itself comes with something that it names
        indirect = {"psycopg-pool": "psycopg", "tokenizers": "transformers"}
        assert ours & wanted or any(indirect.get(name) in wanted for name in ours), (module, extra)


def test_hints_in_a_checkout_name_its_folder(monkeypatch, tmp_path):
    assert install.checkout() == ROOT
    words = shlex.split(install.hint("serve"))
    assert words == [sys.executable, "-m", "pip", "install", "-e", f"{ROOT}[serve]"]
    assert str(ROOT / "native") in install.engine_hint()
    folder = tmp_path / "a folder"
    (folder / "src" / "paperlab" / "core").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(install, "__file__", str(folder / "src" / "paperlab" / "core" / "install.py"))
    assert shlex.split(install.hint("lab"))[-1] == f"{folder}[lab]"


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """As if the package lay in site-packages."""
    monkeypatch.setattr(install, "__file__", str(tmp_path / "site-packages" / "paperlab" / "core" / "install.py"))


def test_hints_of_an_installation_name_the_distribution(installed):
    assert install.checkout() is None
    assert install.hint("serve").endswith("-m pip install 'paperlab-daily[serve]'")
    assert "pip install paperlab-engine" in install.engine_hint()
    assert install.reinstall_hint().endswith("--force-reinstall --no-deps paperlab-daily")


def test_the_room_that_asks_decides_between_extras():
    assert install.extra_of("numpy", "engine") == "engine"
    assert install.extra_of("numpy.linalg", "site") == "site"
    assert install.extra_of("numpy") == "lab"
    assert install.extra_of("torch", "engine") == "lab"
    assert install.extra_of("uvicorn", "serve") == "serve"
    assert install.extra_of("of_a_dependency", "serve") == "serve"


def without(module, code):
    """(class, module, extra, message) of the error that `code` raises in a process that cannot import `module`."""
    ask = f"import sys, json\nsys.modules[{module!r}] = None\nimport paperlab\n"
    ask += f"try:\n    {code}\nexcept ImportError as e:\n"
    ask += "    print(json.dumps([type(e).__name__, e.name, e.extra, str(e)]))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("torch", "paperlab.load('gptq')", "lab"),
        ("torch", "paperlab.check('easyquant')", "lab"),
        ("numpy", "import paperlab.engine", "engine"),
        ("numpy", "from paperlab import engine", "engine"),
    ],
)
def test_the_python_side_names_the_extra_too(module, code, extra):
    assert issubclass(install.MissingExtra, ImportError)
    kind, name, named, message = without(module, code)
    assert (kind, name, named) == ("MissingExtra", module, extra)
    assert install.hint(extra) in message


def test_a_module_of_ours_that_is_missing_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError) as caught, install.needs("lab"):
        importlib.import_module("paperlab.nothing")
    assert not isinstance(caught.value, install.MissingExtra)


def distribution(folder: Path, summary: str) -> None:
    about = folder / "paperlab-0.1.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: paperlab\nVersion: 0.1.9\nSummary: {summary}\n")


@pytest.mark.parametrize(
    ("summary", "whose"), [("A paper reader.", "somebody else's"), (PROJECT["description"], "ours, from before")]
)
def test_doctor_warns_of_a_distribution_called_paperlab(tmp_path, monkeypatch, summary, whose):
    from paperlab.lab import doctor

    distribution(tmp_path, summary)
    monkeypatch.syspath_prepend(tmp_path)
    (row,) = doctor._other_paperlab()
    assert whose in row["value"]
    assert "0.1.9" in row["value"]
    assert row["ok"] is False
    assert "pip uninstall paperlab" in row["advice"]
    assert install.reinstall_hint() in row["advice"]


def test_doctor_is_silent_where_there_is_none(monkeypatch):
    from paperlab.lab import doctor

    monkeypatch.setattr(install, "other_paperlab", lambda: None)
    assert list(doctor._other_paperlab()) == []


def test_a_checkout_without_metadata_knows_its_version_and_extras(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for name in ("version", "requires", "metadata"):
        monkeypatch.setattr(importlib.metadata, name, absent)
    assert install.version() == PROJECT["version"]
    assert install.requirements() == PROJECT["optional-dependencies"]
    assert install.other_paperlab() is None
    monkeypatch.setattr(install, "checkout", lambda: None)
    assert install.version() == "unknown"
    assert install.requirements() == {}


def test_types_are_published():
    assert (ROOT / "src" / "paperlab" / "py.typed").is_file()


def test_bootstrap_uninstalls_this_checkout_under_its_former_name(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    folder = tmp_path / "site"
    distribution(folder, PROJECT["description"])
    monkeypatch.setattr(bootstrap, "BIN", tmp_path)
    (tmp_path / "python").write_text(
        f'#!/bin/sh\nshift\nPYTHONPATH={shlex.quote(str(folder))} exec {shlex.quote(sys.executable)} -S "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    ran = []
    monkeypatch.setattr(bootstrap, "run", lambda *words: ran.append(words))
    bootstrap._drop_old_name()
    assert ran == []  # no note of where it came from: not ours to remove
    note = folder / "paperlab-0.1.9.dist-info" / "direct_url.json"
    note.write_text('{"url": "file:///another/checkout", "dir_info": {"editable": true}}')
    bootstrap._drop_old_name()
    assert ran == []
    note.write_text(f'{{"url": "{ROOT.as_uri()}", "dir_info": {{"editable": true}}}}')
    bootstrap._drop_old_name()
    assert ran == [("python", "-m", "pip", "uninstall", "--quiet", "--yes", "paperlab")]
