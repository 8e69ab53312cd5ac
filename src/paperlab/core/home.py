"""Where paperlab keeps what it writes: PAPERLAB_HOME, else the platform's data folder."""

import contextlib
import os
import socket
import stat
from pathlib import Path

BUNDLED = Path(__file__).resolve().parent.parent / "data"


def home() -> Path:
    """The data folder: records/, runs/ (unfinished), models/, reports/. Not created by asking."""
    named = os.environ.get("PAPERLAB_HOME")
    if named:
        return Path(named).expanduser()
    import platformdirs  # the platform's conventions are another's job; loaded only when needed

    return Path(platformdirs.user_data_dir("paperlab", appauthor=False))


def me() -> str:
    """This data folder on this machine, as others who share its database know it: at most 300 characters."""
    return f"{socket.gethostname()}:{home()}"[:300]


class HomeError(RuntimeError):
    """The data folder cannot be one person's own; the message says why and what to do."""


def make_private(folder: Path, *, again: bool = False) -> None:
    """Make `folder` and all in it readable by its owner alone, and so too what this process makes from now on.

    again: look at what is in it even where the folder itself is closed. Links are not followed, and what belongs to
    somebody else is left as it is. Raises HomeError for a folder that is everybody's, such as /tmp.
    """
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    if mode & stat.S_ISVTX or folder.resolve() == Path("/"):
        raise HomeError(f"PAPERLAB_HOME={folder}: others keep things there too; name a folder of paperlab's own in it")
    if not (mode & 0o077 or again):
        return
    own = folder.resolve() != Path.home().resolve()  # what else is in a person's home is not ours to close
    for path, names, files in os.walk(folder) if own else [(str(folder), [], [])]:
        for name in (".", *names, *files):
            entry = os.path.join(path, name)
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
                known = os.lstat(entry)
                if not stat.S_ISLNK(known.st_mode) and known.st_mode & 0o077:
                    os.chmod(entry, stat.S_IMODE(known.st_mode) & 0o700)
