"""Texts to calibrate and to evaluate on: real ones that a pinned package carries, or the user's own files."""

import bz2
import gzip
import hashlib
import html
import io
import json
import lzma
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paperlab.assets.packages import fetch, packages
from paperlab.core.home import BUNDLED, home

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["calibration", "held-out", "all"]

FROZEN_TEXTS = BUNDLED / "texts"  # files of their own, whose hashes `data/frozen.json` has; nothing edits them
PASSAGE = 2000  # characters; a text without documents of its own is cut into passages of about this length
MOST = 2**30  # bytes of a text of one's own, unpacked


class TextError(ValueError):
    """A text that is missing, not text, or too short. The message says the way out."""


@dataclass(frozen=True)
class Text:
    """documents: never empty, no two alike. sha256: over the documents, so that a record can name the text.
    held_out: the documents that are held out, where the text itself says so."""

    id: str
    documents: tuple[str, ...]
    sha256: str
    licence: str
    source: str
    held_out: frozenset[str] = frozenset()

    def describe(self) -> dict[str, Any]:
        """What a record keeps of the text."""
        return {
            "id": self.id,
            "sha256": self.sha256,
            "documents": len(self.documents),
            "characters": sum(map(len, self.documents)),
            "licence": self.licence,
            "source": self.source,
        }


@dataclass(frozen=True)
class _Known:
    says: str
    licence: str
    documents: Callable[[Path], list[str]]
    bundled: bool = False  # needs no package
    held_out: Callable[[Path], list[str]] = lambda folder: []  # where the text says itself which those are


def _lines(folder: Path) -> list[str]:
    return (folder / "lee_background.cor").read_text(encoding="utf-8").splitlines()


def _encyclopedia(folder: Path) -> list[str]:
    with bz2.open(folder / "enwiki.xml.bz2") as stream:
        return [text for text in _articles(stream) if len(text) >= PASSAGE]


def _bulgarian(folder: Path) -> list[str]:
    with bz2.open(folder / "bgwiki.xml.bz2") as stream:  # three long pages: cut, or there would be nothing to split
        return [passage for text in _articles(stream) for passage in passages(text)]


def _code(folder: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted((folder / "code").rglob("*.py"))]


def _catalogue(folder: Path) -> list[str]:
    return [row["text"] for row in _json_lines(folder / "catalogue.jsonl")]


def _abstracts(folder: Path, held_out: bool | None = None) -> list[str]:
    rows = _packed_lines(folder / "abstracts.jsonl.xz")
    return [row["text"] for row in rows if held_out in (None, row["held_out"])]


def _more_abstracts(folder: Path) -> list[str]:
    return [*_abstracts(folder), *(row["text"] for row in _packed_lines(folder / "abstracts_more.jsonl.xz"))]


def categorised_abstracts() -> list[tuple[str, str]]:
    """(arXiv category, title and abstract) of 6,518 papers, the part of "abstracts-8k" that "abstracts" has not."""
    return [(row["category"], row["text"]) for row in _packed_lines(FROZEN_TEXTS / "abstracts_more.jsonl.xz")]


def _packed_lines(file: Path) -> list[dict[str, Any]]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


TEXTS = {
    "abstracts": _Known(
        "titles and abstracts of arXiv papers; held out are those that abstracts-lm was not trained on",
        "CC0-1.0",
        _abstracts,
        bundled=True,
        held_out=lambda folder: _abstracts(folder, True),
    ),
    "abstracts-8k": _Known(
        "titles and abstracts of 8,000 arXiv papers, enough to train on; held out are the same as of abstracts",
        "CC0-1.0",
        _more_abstracts,
        bundled=True,
        held_out=lambda folder: _abstracts(folder, True),
    ),
    "catalogue": _Known("paperlab's own summaries and claims of its catalogue", "Apache-2.0", _catalogue, bundled=True),
    "news": _Known(
        "300 short English news texts (Lee, Pincombe and Welsh 2005)", "research use; gensim's test data", _lines
    ),
    "encyclopedia": _Known("English Wikipedia articles, markup removed", "CC BY-SA 3.0", _encyclopedia),
    "bulgarian": _Known("Bulgarian Wikipedia pages, markup removed, in passages", "CC BY-SA 3.0", _bulgarian),
    "code": _Known("Python source files of gensim", "LGPL-2.1-only", _code),
}


def texts_folder() -> Path:
    """The folder with the bundled texts' files (fetched at first use). Raises PackageError."""
    package = packages()["gensim"]
    return fetch(package, home() / "texts" / f"{package.name}-{package.version}")


def retrieval_pairs(count: int) -> list[tuple[str, str]]:
    """The first `count` pairs (query, answer) of the bundled retrieval set: titles and our own summaries of papers.

    A frozen copy: editing the catalogue changes no pair. Every family is among the first 200.
    """
    return [(row["query"], row["answer"]) for row in _json_lines(FROZEN_TEXTS / "retrieval.jsonl")[:count]]


def _json_lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@cache
def _known(name: str, folder: Path) -> Text:
    known = TEXTS[name]
    source = "paperlab" if known.bundled else f"package {packages()['gensim']}"
    text = _text(name, known.documents(folder), known.licence, f"{source}: {known.says}")
    return replace(text, held_out=frozenset(document.strip() for document in known.held_out(folder)))


def load_text(name_or_path: str) -> Text:
    """A known text by name (`TEXTS`), or a file: .txt, .jsonl with "text" in each row, either also as .gz.

    A .txt file is cut into passages of about 2,000 characters at blank lines (else line ends, else spaces); each
    is a document. Raises TextError (missing, binary, empty, bad row) and PackageError (cannot be fetched).
    """
    if name_or_path in TEXTS:
        return _known(name_or_path, FROZEN_TEXTS if TEXTS[name_or_path].bundled else texts_folder())
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise TextError(f"text {name_or_path!r} is {what}; give a .txt or .jsonl file, or one of {', '.join(TEXTS)}")
    content = _decode(path)
    if path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        documents = list(_rows(content, path))
    else:
        documents = passages(content)
    if not documents:
        raise TextError(f"text {path} is empty")
    return _text(path.name, documents, "the user's own", f"file {path.name}")


def _text(name: str, documents: list[str], licence: str, source: str) -> Text:
    unique = tuple(dict.fromkeys(stripped for document in documents if (stripped := document.strip())))
    digest = hashlib.sha256()
    for document in unique:
        digest.update(document.encode() + b"\0")
    return Text(name, unique, digest.hexdigest(), licence, source)


def _decode(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            raw = stream.read(MOST + 1)
        if len(raw) > MOST:
            raise TextError(f"text {path} has more than {MOST >> 20:,} MB; give a part of it")
        if b"\0" in raw:
            raise TextError(f"text {path} is binary; give plain UTF-8 text")
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TextError(f"text {path} is not UTF-8 (byte {error.start}); convert it: iconv -t UTF-8") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise TextError(f"text {path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise TextError(f"text {path} cannot be read: {error.strerror or error}") from None


def _rows(content: str, path: Path) -> list[str]:
    documents = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError):
            document = None
        if not isinstance(document, str):
            raise TextError(f'{path}:{number}: not a JSON object with a string under "text"')
        documents.append(document)
    return documents


def passages(text: str, length: int = PASSAGE) -> list[str]:
    """Cut a text into consecutive passages of at least `length` characters, at blank lines where there are any,
    else at line ends, else at spaces. The passages joined are the text again, but for white space at the cuts."""
    for cut in ("\n\n", "\n", " "):
        if text.count(cut) * length >= len(text) or cut == " ":
            break
    out: list[str] = []
    current: list[str] = []
    size = 0
    for piece in text.split(cut):
        current.append(piece)
        size += len(piece) + len(cut)
        if size >= length:
            out.append(cut.join(current))
            current, size = [], 0
    if current:
        out.append(cut.join(current))
    return [passage for passage in out if passage.strip()]


def split_documents(text: Text, split: Split) -> tuple[str, ...]:
    """Half the documents for calibration, half held out, by the order of their hashes: deterministic, balanced,
    and never one document in both; or as the text itself divides them. Each half keeps the text's own order."""
    if split == "all":
        return text.documents
    if text.held_out:
        wanted = split == "held-out"
        return tuple(document for document in text.documents if (document in text.held_out) == wanted)
    ranked = sorted(text.documents, key=lambda document: hashlib.sha256(document.encode()).digest())
    chosen = set(ranked[0::2] if split == "calibration" else ranked[1::2])
    return tuple(document for document in text.documents if document in chosen)


def separator(tokenizer: Any) -> int | None:
    """The token between documents: end of text as in pretraining (a chat model's `eos` ends a turn instead)."""
    found = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.eos_token_id)
    return None if found is None else int(found)


def windows(
    tokenizer: Any, text: Text, length: int, count: int, *, split: Split = "held-out", seed: int | None = None
) -> "Tensor":
    """Token windows (count, length), int64, that do not overlap.

    The split's documents, each followed by the separator, are one stream, cut every `length` tokens; the first
    `count` windows are taken, or with a seed `count` of all windows in an order drawn from it. Windows of
    different splits share no document. Raises TextError when the text is too short, saying by how much.
    """
    import torch

    between = separator(tokenizer)
    documents = split_documents(text, split)
    stream: list[int] = []
    for ids in tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"] if documents else []:
        stream.extend(ids)
        if between is not None:
            stream.append(between)
    there = len(stream) // length
    if there < count:
        raise TextError(
            f"text {text.id!r} is too short: its {split} part has {len(stream):,} tokens, {count} windows of {length} "
            f"need {count * length:,}; give about {count * length / max(len(stream), 1):.1f} times as much text"
        )
    cut = torch.tensor(stream[: there * length], dtype=torch.long).reshape(there, length)
    if seed is None:
        return cut[:count].clone()
    order = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:count]
    return cut[order]


def _articles(stream: io.BufferedIOBase | Any) -> list[str]:
    """Plain text of a MediaWiki dump's articles, in its order; redirects and empty pages are left out."""
    out = []
    for _, element in ElementTree.iterparse(stream):
        if element.tag.endswith("}page"):
            space = element.tag.removesuffix("page")
            source = element.findtext(f".//{space}text") or ""
            if element.find(f"{space}redirect") is None and (text := plain_wikitext(source)):
                out.append(text)
            element.clear()
    return out


def plain_wikitext(source: str) -> str:
    """Readable text of wikitext: templates, tables, references, files and markup go; link texts stay.

    Deliberately plain: what a template would have printed is lost.
    """
    text = re.sub(r"<!--.*?-->", "", source, flags=re.S)
    text = re.sub(r"<(ref|math|gallery|timeline|source|pre|code)\b[^>]*?/>", "", text)
    text = re.sub(r"<(ref|math|gallery|timeline|source|pre|code)\b.*?</\1>", "", text, flags=re.S)
    for inner in (r"\{\{[^{}]*\}\}", r"\{\|[^{}]*?\|\}"):  # from the innermost outwards
        while True:
            text, replaced = re.subn(inner, "", text, flags=re.S)
            if not replaced:
                break
    while True:  # [[File:...]] may hold links in its caption
        text, replaced = re.subn(r"\[\[(?:[^\[\]|:]*\|)?([^\[\]|:]*)\]\]", r"\1", text)
        text, more = re.subn(r"\[\[[^\[\]]*:[^\[\]]*\]\]", "", text)
        if not replaced and not more:
            break
    text = re.sub(r"\[\[(?:[^\[\]]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ([^\]]*)\]", r"\1", text)
    text = re.sub(r"\[https?:\S+\]", "", text)
    text = re.sub(r"<[^<>]+>", "", text)
    text = re.sub(r"'{2,}", "", text)
    text = re.sub(r"^=+\s*(.*?)\s*=+\s*$", r"\1", text, flags=re.M)
    text = re.sub(r"^[*#:;|!{}].*$", "", text, flags=re.M)  # lists are mostly link collections, the rest left-overs
    text = html.unescape(re.sub(r"__[A-Z]+__", "", text)).replace("\xa0", " ")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+", " ", text)).strip()
