"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from paperlab.core.home import home


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Write beside, flush to the disk, rename over. An error (OSError: disk full …) leaves the old file intact."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as partial:
            yield partial
            partial.flush()
            os.fsync(partial.fileno())
        inside = home().resolve() in file.resolve().parents  # what is kept there is its owner's alone
        os.chmod(name, 0o600 if inside else 0o644)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomically(file: Path, content: bytes) -> None:
    """`content` as the whole file. Raises OSError with the old file intact."""
    with replacing(file) as partial:
        partial.write(content)
