"""What tasks prepare once and use again: teachers, siblings, what an untouched model says. Safetensors and JSON only.

Everything lies in home()/cache/prepared/<task>/<hash>, the hash being of what decides it: a key of plain values, and
the code that makes it. So nothing stale is ever read, and the whole folder may be deleted at any time.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.core.home import home
from paperlab.core.sources import file_sources

if TYPE_CHECKING:
    from torch import Tensor

KEY, TENSORS = "key.json", "tensors.safetensors"


def prepared_folder() -> Path:
    """Where it all lies."""
    return home() / "cache" / "prepared"


def cached(task: str, key: Mapping[str, Any], make: Callable[[Path], None], *, code: str | Path) -> Path:
    """The folder that `make` filled for this key, made now if it is not there.

    key: plain values that decide the content, hashes of models and texts among them. code: the file of the caller; a
    change there or in what it imports makes the folder again. The folder appears whole or not at all; of two processes
    that ask at once one makes it and the other waits. Raises OSError, TypeError for a key that JSON cannot hold, and
    what `make` raises.
    """
    told = {"key": dict(key), "code": file_sources(Path(code))}
    text = json.dumps(told, sort_keys=True)
    into = prepared_folder() / task / hashlib.sha256(text.encode()).hexdigest()[:16]
    if into.is_dir():
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    with open(into.parent / f".{into.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in into.parent.glob(f".{into.name}.partial-*"):  # its maker was killed: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        if not into.is_dir():
            with tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}.partial-") as partial:
                ready = Path(partial) / "ready"
                ready.mkdir()
                make(ready)
                (ready / KEY).write_text(text, encoding="utf-8")
                os.replace(ready, into)
    return into


def cached_tensors(
    task: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, "Tensor"]], *, code: str | Path
) -> "dict[str, Tensor]":
    """As `cached`, for tensors by name. The processor's kind and torch's version are part of the key: they decide the
    last bits."""
    import torch
    from safetensors.torch import load_file, save_file

    def write(folder: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in make().items()}, folder / TENSORS)

    here = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}
    return load_file(cached(task, {**key, **here}, write, code=code) / TENSORS)


def prepared() -> dict[str, int]:
    """Bytes that each task has prepared."""
    return {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in sorted(prepared_folder().glob("*"))
        if folder.is_dir()
    }
