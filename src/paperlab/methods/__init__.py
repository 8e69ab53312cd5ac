"""Methods: one file per paper, found by folder and read without import."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperlab.core.methods import Method


class _Callable(ModuleType):
    """Importing any method binds this package to the name `paperlab.methods`, over the public function of that name.

    So the package answers the call itself.
    """

    def __call__(self) -> "dict[str, Method]":
        from paperlab.core.methods import methods

        return methods()


sys.modules[__name__].__class__ = _Callable
