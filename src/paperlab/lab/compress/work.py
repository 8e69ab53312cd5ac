"""The work folder beside a result: one run at a time, and every finished piece whole on the disk."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paperlab.core.files import write_atomically
from paperlab.lab.errors import RunError
from paperlab.lab.machine import memory_left


def key_of(*parts: Any) -> str:
    """A short hash of what a stage depends on; the same parts give the same key."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def described(folder: Path) -> str:
    """A hash of all that a model's folder says: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(one for one in folder.iterdir() if one.is_file()):
        with file.open("rb") as content:
            digest.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def place_of(out: Path) -> Path:
    """The work folder of a result: hidden, beside it."""
    return out.absolute().parent / f".{out.name}.compress"


class Work:
    """Finished pieces by name. A name carries the key of its inputs, so that what is there is what would be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def json(self, name: str) -> Any | None:
        """A piece, or None where it is not there or not whole."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep_json(self, name: str, value: Any) -> None:
        """Write a piece whole."""
        self._write(self.folder / f"{name}.json", json.dumps(value, indent=1).encode())

    def tensors(self, name: str, prefix: str = "") -> dict[str, Tensor] | None:
        """A piece of tensors, those whose names begin so; None where it is not there or not whole."""
        try:
            with safe_open(self.folder / f"{name}.safetensors", framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def keep_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a piece of tensors whole."""
        self._write(self.folder / f"{name}.safetensors", save(dict(tensors)))

    def _write(self, file: Path, content: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)

    def clear(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def opened(out: Path) -> Iterator[Work]:
    """The work folder of `out`, for this process alone; the lock goes with the process, however that ends.

    Raises RunError where another run works on the same result, and for a full disk, with what was done kept.
    """
    folder = place_of(out)
    with said_if_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _locked(lock):
            raise RunError(f"another run is at work on {out}; wait for it, or name another folder")
        for partial in folder.rglob(".*.*"):  # left by a run that was killed while it wrote
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
        with said_if_full(folder):
            yield Work(folder)
    finally:
        os.close(lock)


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # no such lock on this system: two runs are then the user's care
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def said_if_full(folder: Path) -> Iterator[None]:
    """Turn "no space left" into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"the disk of {folder} is full; what is finished is kept: make room, and the same command goes on"
        ) from None


def need_memory(needed: float, what: str) -> None:
    """Raise RunError where so many bytes are not free, before they are taken."""
    left = memory_left()
    if needed > left:
        raise RunError(
            f"{what} takes about {needed / 1e9:.1f} GB of memory and {left / 1e9:.1f} GB are free: stopped before it "
            "runs out; close other programs, or take a smaller model; the same command goes on from here"
        )


def need_empty(out: Path) -> None:
    """Raise RunError where a result cannot be put."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not an empty folder; give another name, or remove it first")


def need_disk(needed: float, folder: Path, what: str) -> None:
    """Raise RunError where so many bytes are not free on the disk of a folder."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise RunError(
            f"{what} takes about {needed / 1e9:.2f} GB on the disk of {there}, and {free / 1e9:.2f} are free"
        )
