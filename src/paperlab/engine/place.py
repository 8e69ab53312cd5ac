"""Where models are written: beside their place first, and there only when they are whole."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from paperlab.engine.native import EngineError


def room(out: Path) -> Callable[[int], None]:
    """Refuses sizes that the disk of `out` has no room for."""
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())

    def check(size: int) -> None:
        free = shutil.disk_usage(folder).free
        if size > free:
            raise EngineError(f"{out} takes {size / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB left")

    return check


@contextlib.contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A place beside `out` to write in: what is there at the end becomes `out`, or vanishes with an error."""
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
            # A folder that is there keeps its files; config.json comes last, it makes the folder a model.
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
