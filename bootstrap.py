#!/usr/bin/env python3
"""Set paperlab up in .venv beside this file, and run it. Needs Python 3.11 or later and nothing else.

    python3 bootstrap.py            install (3 minutes), then check EasyQuant's main claim on two models (2 to 3 more)
    python3 bootstrap.py --test     install with the test tools, then run every check that a change must pass
    python3 bootstrap.py --only     install, run nothing

Downloads: 450 MB of packages with a CPU build of PyTorch (several GB with CUDA), 200 MB of models and texts.

The CPU engine (native/) is compiled and installed too where there is a C++ compiler; everything else works without it.
Versions are those of constraints.txt. Running it again reuses what is there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")

FIRST = ("run", "easyquant", "--claim", "better-than-rtn")  # the main claim of a paper that needs no data
ABOUT = {
    "": """Installs packages (450 MB with a CPU build of PyTorch, about 3 minutes), then checks EasyQuant's main claim
on two models (200 MB fetched once, 2 to 3 minutes on two cores; the first verdict within one).""",
    "test": """Installs packages and test tools (650 MB with a CPU build of PyTorch, about 4 minutes), then runs
formatting, lint, types and all tests (200 MB fetched once, about 20 minutes on two cores).""",
    "only": "Installs packages (450 MB with a CPU build of PyTorch, about 3 minutes).",
}

TWO = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")  # files in their order, shared out among processes
TESTS = (
    ("format", ["ruff", "format", "--check", "."]),
    ("lint", ["ruff", "check", "."]),
    ("types", ["mypy"]),
    ("tests", ["pytest", *TWO, "--durations=20", "--ignore=tests/browser"]),
    ("tests in a browser", ["pytest", "tests/browser"]),  # apart: Playwright's event loop stays in its process
)


def install(extras: str) -> None:
    """Create .venv if it is missing and install this checkout into it."""
    if sys.version_info < (3, 11):  # noqa: UP036  what an older interpreter is told
        sys.exit(f"paperlab needs Python 3.11 or later; this is {sys.version.split()[0]}. Try: python3.11 bootstrap.py")
    if not (BIN / "python").exists() and not (BIN / "python.exe").exists():
        print(f"creating {ENVIRONMENT.name}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    _drop_old_name()
    print(f"installing paperlab-daily[{extras}]", flush=True)
    run("python", "-m", "pip", "install", "--quiet", "-c", "constraints.txt", "-e", f".[{extras}]")
    if compiler := shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++"):
        print(f"compiling the CPU engine with {compiler}", flush=True)
        run("python", "-m", "pip", "install", "--quiet", "./native")
    else:
        print("no C++ compiler here: the CPU engine is left out (install g++ and run this again for it)", flush=True)


# Prints where the distribution `paperlab` was installed from, if it is there and pip noted a folder.
ORIGIN = """
import json
from importlib.metadata import PackageNotFoundError, distribution
try:
    print(json.loads(distribution("paperlab").read_text("direct_url.json") or "{}").get("url", ""))
except PackageNotFoundError:
    pass
"""


def _drop_old_name() -> None:
    """Uninstall this checkout under its former name, `paperlab`: it would own the same command."""
    asked = subprocess.run([str(BIN / "python"), "-I", "-c", ORIGIN], capture_output=True, text=True)
    if asked.stdout.strip().rstrip("/") == ROOT.as_uri():
        run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "paperlab")


def run(program: str, *words: str) -> None:
    """Run a program of the environment in this folder; stop with its exit code if it fails."""
    done = subprocess.run([str(BIN / program), *words], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="install the test tools too and run the tests")
    parser.add_argument("--only", action="store_true", help="install and run nothing")
    arguments = parser.parse_args()
    print(ABOUT["test" if arguments.test else "only" if arguments.only else ""], flush=True)
    install("engine,lab,serve,site,test" if arguments.test else "engine,lab,serve,site")
    if arguments.test:
        for what, words in TESTS:
            print(f"== {what}", flush=True)
            run(*words)
    elif not arguments.only:
        run("paperlab", *FIRST)
        program = BIN.relative_to(ROOT) / "paperlab"
        print(f"\nNext: {program} run easyquant (all its claims), {program} papers --runnable", flush=True)


if __name__ == "__main__":
    main()
