"""Python source as a tree, one thread at a time.

Before Python 3.11.8 and 3.12.1 two threads that parse at once may end in "SystemError: AST constructor recursion depth
mismatch" (CPython issue 106905); a server's threads do, when they look at the method files together.
"""

import ast
import threading
from pathlib import Path

_ONE = threading.Lock()


def syntax_tree(source: str, filename: str | Path = "<unknown>") -> ast.Module:
    """As `ast.parse`. Raises SyntaxError."""
    with _ONE:
        return ast.parse(source, filename=str(filename))


def expression(source: str) -> ast.expr:
    """The tree of one expression. Raises SyntaxError."""
    with _ONE:
        return ast.parse(source, mode="eval").body
