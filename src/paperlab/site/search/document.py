"""What the index stores of a paper: its words, its names, its facts for filters and orders."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from paperlab.core.paper import papers
from paperlab.site import tex
from paperlab.site.search import cjk, trending
from paperlab.site.search.spelling import american
from paperlab.site.store.models import Paper

BATCH = 2_000  # papers in one query to the store
COLUMNS = ("pk", "revision", "slug", "arxiv", "title", "abstract", "authors", "categories", "published", "year",
           "withdrawn", "code", "family", "method", "summary")  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One paper, its TeX read. key: its key in the store. text: what words are looked for in, in American
    spelling, its Chinese, Japanese and Korean in pairs of letters (`cjk`).

    passage: what is embedded.

    names: spellings under which the paper is asked for that are no words of the text ("qbert" for Q-BERT, a letter of
    Chinese).
    day: of publication, counted from year 1; 0 if unknown. trend: `trending.static`.
    """

    key: int
    revision: int
    title: str
    text: str
    passage: str
    names: str
    authors: Sequence[str]
    categories: Sequence[str]
    family: str
    year: int
    code: bool
    day: int
    trend: float


def documents(rows: Iterable[tuple]) -> Iterator[Document]:
    """Documents of rows of COLUMNS, those withdrawn left out."""
    batch: list[dict[str, object]] = []
    for row in rows:
        batch.append(dict(zip(COLUMNS, row, strict=True)))
        if len(batch) == BATCH:
            yield from _documents(batch)
            batch = []
    yield from _documents(batch)


def _documents(batch: list[dict]) -> Iterator[Document]:
    trends = trending.static(row["pk"] for row in batch)
    known = papers()
    for row in batch:
        if row["withdrawn"]:
            continue
        ours = known.get(row["slug"] or "")
        claims = " ".join(f"{claim.claim} {claim.setting}" for claim in ours.claims) if ours else ""
        title, abstract = tex.plain(row["title"]), tex.plain(row["abstract"])
        body = "\n".join(part for part in (abstract, row["summary"]) if part)
        published = row["published"]
        yield Document(
            key=row["pk"],
            revision=row["revision"],
            title=title,
            text=american(cjk.pairs("\n".join(part for part in (title, body, row["method"], claims) if part))),
            passage=". ".join(part for part in (title, abstract or row["summary"]) if part),
            names=" ".join(
                [
                    *compounds(f"{cjk.pairs(title)} {row['slug'] or ''}"),
                    *signed(f"{title}\n{body}"),
                    *cjk.letters(f"{title}\n{body}"),
                ]
            ),
            authors=tex.names(row["authors"]),
            categories=row["categories"],
            family=row["family"],
            year=row["year"] or 0,
            code=bool(row["code"]),
            day=published.toordinal() if published else 0,
            trend=trends.get(row["pk"], trending.NEVER),
        )


def stored(after: tuple[int, int] = (0, 0), *, size: int = BATCH) -> Iterator[list[tuple]]:
    """The store's rows of COLUMNS in the order of their changes, from behind (revision, key), `size` at a time."""
    from django.db.models import Q

    revision, key = after
    while True:
        # One range of the index with an exception; as "this revision and further, or a later one" it would be a scan.
        behind = Q(revision__gte=revision) & ~Q(revision=revision, pk__lte=key)
        rows = list(Paper.objects.filter(behind).order_by("revision", "pk").values_list(*COLUMNS)[:size])
        if not rows:
            return
        yield rows
        key, revision = rows[-1][0], rows[-1][1]


_CHUNK = re.compile(r"(?<!\w)\w++(?:[-.+/]\w++)+|(?<!\w)\w+_\w+")


def compounds(text: str) -> list[str]:
    """What words with a hyphen, a point or a slash inside are when written as one: "Q-BERT" gives "qbert"."""
    if not any(sign in text for sign in "-.+/_"):
        return []
    joined = (re.sub(r"\W|_", "", match[0]).lower() for match in _CHUNK.finditer(text))
    return list(dict.fromkeys(word for word in joined if 3 <= len(word) <= 60))


_SIGN = re.compile(r"[+#*](?:(?<=\+)\+)?(?![\w+#*])")  # begins with a set of letters: a quick search
_BEFORE = re.compile(r"(?<![\w+#*])[A-Za-z]\w{0,11}\Z")
_SIGNS = {"+": "plus", "++": "plusplus", "#": "sharp", "*": "star"}


def signed(text: str) -> list[str]:
    """Names that are not what they are without their sign: "C++" gives "cplusplus", "A*" gives "astar"."""
    if not any(sign in text for sign in "+#*"):  # each a search for one letter, far quicker than one for a set
        return []
    found = (
        name[0].lower() + _SIGNS[sign[0]]
        for sign in _SIGN.finditer(text)
        if (name := _BEFORE.search(text, max(0, sign.start() - 14), sign.start()))
    )
    return list(dict.fromkeys(found))[:50]
