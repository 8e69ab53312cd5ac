"""Files and folders that appear complete or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paperlab.engine.native import EngineError


def check_place(out: Path) -> None:
    """Raise EngineError where a model cannot be written to `out`, a folder or a .gguf file: before any work."""
    gguf = out.suffix == ".gguf"
    if out.exists() if gguf else (out / "config.json").exists() or (out / "model.safetensors").exists():
        raise EngineError(f"{out} already holds a model; give another name, or remove it first")
    if not gguf and out.exists() and not out.is_dir():
        raise EngineError(f"{out} is a file; give the name of a folder")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=folder, prefix=f".{out.name}."))
    except OSError as error:
        raise EngineError(f"cannot write {out}: {folder}: {error.strerror}") from None


def check_space(out: Path, size: int) -> None:
    """Raise EngineError where the disk of `out` has not `size` bytes free."""
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise EngineError(f"{out} takes {size / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB left")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary path next to `out` to write to: moved to `out` at the end, removed where an error ends it."""
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}."))
    except OSError as error:
        raise EngineError(f"cannot write {out}: {error.strerror}") from None
    try:
        yield place / out.name if out.suffix == ".gguf" else place
        if out.suffix == ".gguf":
            os.replace(place / out.name, out)
        elif not out.exists():
            os.chmod(place, 0o755)
            os.replace(place, out)
        else:
            # An existing folder keeps its other files; config.json comes last, as it makes the folder a model.
            for file in sorted(place.rglob("*"), key=lambda file: file == place / "config.json"):
                if not file.is_dir():
                    (out / file.relative_to(place)).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, out / file.relative_to(place))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineError(f"the disk of {out} is full; nothing was left there") from None
        raise EngineError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
