"""Pairs of texts that belong together, to train and judge embeddings on: at hand offline, or the user's own file."""

import ast
import hashlib
import json
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paperlab.assets.texts import TextError, load_text

LEAST = 60  # pairs that a file must have
WORDS, CHARACTERS = 4, 80  # the shortest docstring and the shortest function that are taken

# Pure Python that has been in the library for long. Left out: modules that say the same twice (ntpath, _pyio), and
# tkinter and turtle, whose hundreds of functions are one or two lines each.
_MODULES = """
argparse ast asyncio base64 bdb bz2 calendar cmd code codecs codeop collections compileall concurrent configparser
contextlib copy csv ctypes curses dataclasses dbm difflib dis doctest email enum filecmp fileinput fnmatch fractions
ftplib functools genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib importlib
inspect ipaddress json keyword linecache locale logging lzma mailbox mimetypes modulefinder multiprocessing netrc
numbers opcode operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint
profile pstats pty pyclbr pydoc queue quopri random re reprlib runpy sched secrets selectors shelve shlex shutil site
smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess symtable sysconfig tabnanny
tarfile tempfile textwrap threading timeit token tokenize tomllib trace traceback tracemalloc types typing unittest
urllib uuid venv warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport zoneinfo
"""
MODULES = tuple(_MODULES.split())


@dataclass(frozen=True)
class PairSet:
    """queries and documents, one for each, in order; neither twice. groups: what must stay on one side of a split.
    sha256: over all three, so that a record can name the pairs."""

    id: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    groups: tuple[str, ...]
    sha256: str
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.queries)

    def describe(self) -> dict[str, Any]:
        """What a record keeps of the pairs."""
        return {
            "id": self.id,
            "sha256": self.sha256,
            "pairs": len(self),
            "groups": len(set(self.groups)),
            "licence": self.licence,
            "source": self.source,
        }


@cache
def load_pairs(name_or_path: str) -> PairSet:
    """ "functions", "abstracts", or a .jsonl file with "query" and "document" (and, if wanted, "group") in each row.

    Raises TextError for a file that is missing, damaged or too short.
    """
    if name_or_path == "functions":
        version = platform.python_version()
        return _set("functions", list(_functions()), "PSF-2.0", f"standard library of Python {version}")
    if name_or_path == "abstracts":
        text = load_text("abstracts")
        rows = [(title, title, rest) for title, _, rest in (document.partition("\n") for document in text.documents)]
        return _set("abstracts", rows, text.licence, text.source)
    return _file(Path(name_or_path).expanduser())


def _set(name: str, rows: list[tuple[str, str, str]], licence: str, source: str) -> PairSet:
    """Rows (group, query, document), without those of which either side came before."""
    seen: set[str] = set()
    kept = []
    for group, query, document in rows:
        query, document = query.strip(), document.strip()
        if query and document and not {query, document} & seen:
            seen |= {query, document}
            kept.append((group, query, document))
    digest = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
    groups, queries, documents = (tuple(column) for column in zip(*kept, strict=True)) if kept else ((), (), ())
    return PairSet(name, queries, documents, groups, digest, licence, source)


def _functions() -> Iterator[tuple[str, str, str]]:
    """Module, first paragraph of the docstring, function without docstring and comments; the name is masked in both."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in MODULES:
        folder = root / name
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [root / f"{name}.py"]
        for file in files:
            if not file.is_file() or {"test", "tests"} & set(file.relative_to(root).parts):
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (pair := _pair(node)):
                    yield (name, *pair)


def _pair(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, str] | None:
    said = ast.get_docstring(node)
    if not said or len(node.body) < 2:
        return None
    own = re.compile(rf"\b{re.escape(node.name)}\b")
    node.body, node.name = node.body[1:], "function"
    query, document = (
        own.sub("function", text) for text in (" ".join(said.split("\n\n")[0].split()), ast.unparse(node))
    )
    return (query, document) if len(query.split()) >= WORDS and len(document) >= CHARACTERS else None


def _file(path: Path) -> PairSet:
    if not path.is_file():
        raise TextError(f"pairs {str(path)!r} are not there; give a .jsonl file, or functions, or abstracts")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            query, document = row["query"], row["document"]
        except (json.JSONDecodeError, KeyError, TypeError):
            query = document = None
        if not isinstance(query, str) or not isinstance(document, str):
            raise TextError(f'{path}:{number}: not a JSON object with strings under "query" and "document"')
        rows.append((str(row.get("group", query)), query, document))
    found = _set(path.name, rows, "the user's own", f"file {path.name}")
    if len(found) < LEAST:
        raise TextError(f"{path}: {len(found)} pairs of which neither side comes twice; give at least {LEAST}")
    return found


def fold_groups(groups: tuple[str, ...], folds: int) -> list[int]:
    """The fold of each item: every group wholly in one, folds of about the same size, the same for all seeds."""
    sizes = Counter(groups)
    load = [0] * folds
    where = {}
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], hashlib.sha256(item[0].encode()).digest())):
        least = min(range(folds), key=load.__getitem__)
        where[group], load[least] = least, load[least] + size
    return [where[group] for group in groups]
