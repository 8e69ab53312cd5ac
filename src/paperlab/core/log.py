"""The package's logger, and how much is to be written besides results.

Library code logs to children of the logger `paperlab`, which has no handler but a NullHandler: what is printed is the
program's choice. `PAPERLAB_LOG` names the least level (ERROR, WARNING, INFO, DEBUG); the command line's `-q` and `-v`
set it, and processes that are started inherit it.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

VARIABLE = "PAPERLAB_LOG"
LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG")
DEFAULT = "WARNING"


def level(default: str = DEFAULT) -> str:
    """The least level that is wanted: what PAPERLAB_LOG names, else `default`."""
    named = os.environ.get(VARIABLE, "").strip().upper()
    return named if named in LEVELS else default


def quiet() -> bool:
    """Whether only results and errors are wanted: no progress, no notes."""
    return level() == "ERROR"


def logger(name: str) -> "Logger":
    """The logger called `name`, a module's `__name__`. Imports logging, which costs more than all of `import paperlab`:
    call it inside functions of modules that every listing loads."""
    import logging

    package = logging.getLogger("paperlab")
    if not package.handlers:
        package.addHandler(logging.NullHandler())
    return logging.getLogger(name)
