"""What this machine has for paperlab, what is missing, and the exact command that brings it."""

import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paperlab.core import install
from paperlab.core.home import BUNDLED, home
from paperlab.lab.machine import machine, machine_id

ROOM = 3 * 2**30  # bytes that the default models, texts and reports may need on disk
MEMORY = 4 * 2**30  # bytes that a check at `quick` may need
GIB = 2**30

Finding = dict[str, Any]


def findings() -> list[Finding]:
    """One row for each thing looked at: part, name, value, ok (None: nothing to judge) and advice."""
    return [*_system(), *_data(), *_extras(), *_engine(), *_torch(), *_models(), *_texts(), *_prepared(), *_runs()]


def _row(part: str, name: str, value: str, ok: bool | None = None, advice: str | None = None) -> Finding:
    return {"part": part, "name": name, "value": value, "ok": ok, "advice": None if ok else advice}


def _system() -> Iterator[Finding]:
    here = machine()
    root = install.checkout()
    yield _row("system", "paperlab", f"{install.version()}{f', the checkout at {root}' if root else ''}")
    yield from _other_paperlab()
    yield _row("system", "Python", f"{here['python']} at {sys.executable}", sys.version_info >= (3, 11))
    yield _row("system", "system", f"{here['system']}, {here['architecture']}")
    yield _row("system", "processor", f"{here['cpu']}, {here['cores']} cores; records go under {machine_id()}")
    fast = bool({"avx2", "neon", "asimd"} & set(here["flags"]))
    yield _row("system", "CPU features", " ".join(here["flags"]) or "none of those that matter", fast,
               "no vector unit that PyTorch uses: checks will be several times slower")  # fmt: skip
    yield _row("system", "memory", f"{here['memory'] / GIB:.1f} GiB", here["memory"] >= MEMORY,
               "under 4 GiB: take a small model with --model abstracts-lm")  # fmt: skip


def _other_paperlab() -> Iterator[Finding]:
    """A distribution called `paperlab`, which is somebody else's, or ours from before it was called paperlab-daily."""
    other = install.other_paperlab()
    if other is None:
        return
    version, ours = other
    whose = "ours, from before the distribution was called paperlab-daily" if ours else "somebody else's package"
    yield _row("system", "other paperlab", f"the distribution paperlab {version} is installed too: {whose}", False,
               f"{sys.executable} -m pip uninstall paperlab, then {install.reinstall_hint()}, as both write the "
               "same files and the same command")  # fmt: skip


def _data() -> Iterator[Finding]:
    folder = home()
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    named = "set" if os.environ.get("PAPERLAB_HOME") else "not set: the platform's folder"
    yield _row("data", "PAPERLAB_HOME", f"{folder} ({named})", os.access(there, os.W_OK),
               "this folder cannot be written: export PAPERLAB_HOME=/a/folder/of/yours")  # fmt: skip
    yield _row("data", "free disk", f"{free / GIB:.1f} GiB", free >= ROOM,
               "under 3 GiB: free some space, or export PAPERLAB_HOME=/a/larger/disk")  # fmt: skip


def _extras() -> Iterator[Finding]:
    """Each extra of the package: which of its requirements are met in this environment."""
    for extra, requirements in sorted(install.requirements().items()):
        missing = [requirement for requirement in requirements if not _met(requirement)]
        have = f"{len(requirements) - len(missing)} of {len(requirements)} packages"
        value = f"{have}; missing {', '.join(missing)}" if missing else have
        yield _row("extras", f"extra [{extra}]", value, not missing, install.hint(extra))


def _met(requirement: str) -> bool:
    match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*(?:>=\s*([\d.]+))?", requirement)
    assert match
    if match[1] == install.DISTRIBUTION:  # an extra that takes others of ours along
        return True
    try:
        found = importlib.metadata.version(match[1])
    except importlib.metadata.PackageNotFoundError:
        return False
    return _release(found) >= _release(match[2] or "0")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].strip(".").split(".") if part)  # type: ignore[index]


def _engine() -> Iterator[Finding]:
    try:
        from paperlab.engine import EngineError, available, instruction_sets
    except ImportError as error:
        yield _row("engine", "engine", f"cannot be used without {error.name}", False,
                   install.hint("engine"))  # fmt: skip
        return
    without = "no chat, no serve-model, and search embeds with OpenVINO"
    if not available():
        yield _row("engine", "engine", f"its compiled part is not installed: {without}", None, install.engine_hint())
        return
    try:
        sets = instruction_sets()
        value = f"computes by {sets[-1]}, of {', '.join(sets)}; chat, serve-model and search use it"
        yield _row("engine", "engine", value, True)
    except EngineError as error:
        yield _row("engine", "engine", f"cannot be loaded: {without}", False, str(error))


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        yield _row("torch", "PyTorch", "not installed", False, install.hint("lab"))
        return
    cores, threads = machine()["cores"], torch.get_num_threads()
    yield _row("torch", "PyTorch", torch.__version__)
    yield _row("torch", "torch threads", f"{threads} of {cores} cores", threads == cores,
               f"export OMP_NUM_THREADS={cores} to use all cores")  # fmt: skip


def _models() -> Iterator[Finding]:
    from paperlab.assets.models import MODELS
    from paperlab.assets.packages import packages

    for known in MODELS.values():
        if known.package is None:
            there = (BUNDLED / "models" / known.id / "config.json").is_file()
            advice = f"missing from this installation: reinstall {install.DISTRIBUTION}"
        else:
            there = (home() / "models" / known.id).is_dir()
            size = packages()[known.package].bytes / 1e6
            advice = f"comes by itself at first use ({size:.0f} MB from the package index)"
        yield _row("models", known.id, f"{known.says}: {'at hand' if there else 'not here yet'}", there, advice)


def _texts() -> Iterator[Finding]:
    from paperlab.assets.packages import packages
    from paperlab.assets.texts import TEXTS

    package = packages()["gensim"]
    there = (home() / "texts" / f"{package.name}-{package.version}").is_dir()
    advice = f"they come by themselves at first use ({package.bytes / 1e6:.0f} MB from the package index)"
    yield _row("texts", "texts", f"{', '.join(TEXTS)}: {'at hand' if there else 'not here yet'}", there, advice)


def _prepared() -> Iterator[Finding]:
    """What tasks keep between runs: teachers, siblings, outputs of untouched models."""
    from paperlab.assets.cache import prepared, prepared_folder

    found = prepared()
    if found:
        sizes = ", ".join(f"{task} {size / 1e6:.0f} MB" for task, size in found.items())
        yield _row("prepared", "prepared", f"{sizes}; {prepared_folder()} may be deleted at any time")


def _runs() -> Iterator[Finding]:
    """Runs that were begun and not ended: each can be continued."""
    unfinished = sorted((home() / "runs").glob("*/run.json"))
    for file in unfinished:
        yield _row("runs", "unfinished run", _unfinished(file), False, "the same `paperlab run` with --resume goes on")
    if not unfinished:
        yield _row("runs", "unfinished runs", "none", True)


def _unfinished(file: Path) -> str:
    when = datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        return f"{run['task']} on {run['model'] or 'its own model'}, {run['scale']}, begun {when}"
    except (ValueError, KeyError, TypeError):
        return f"{file.parent.name}, begun {when}"
