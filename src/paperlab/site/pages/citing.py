"""Papers for reference managers: BibTeX and RIS of one or many, and the `citation_*` tags that Zotero reads of a page.

RIS is written as reference managers document it: "TY  - " to "ER  - ", a tag a line, each author a line as "Last,
First". The tags of a page are those of Highwire Press, as Google Scholar documents them and Zotero's "Embedded
Metadata" reads them; `z:itemType` says that a paper of arXiv is a preprint, for which Highwire has no word.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from django.http import HttpResponse

from paperlab.site.pages import addresses, text
from paperlab.site.store.models import Paper

AUTHORS = 500  # that are named
_DOI = re.compile(r"10\.\d{4,9}/\S+")
_PARTICLES = {"da", "de", "del", "della", "den", "der", "di", "dos", "du", "la", "le", "ten", "ter", "van", "von", "zu"}


def doi(row: Paper) -> str:
    """The paper's DOI: the one that a source gave, else the one that arXiv registers for each of its papers; or ""."""
    for facts in (row.extra or {}).values():
        given = str(facts.get("doi") or "") if isinstance(facts, dict) else ""
        if found := _DOI.search(given):
            return found[0]
    return f"10.48550/arXiv.{row.arxiv}" if row.arxiv else ""


def inverted(name: str) -> str:
    """A name as "Last, First", particles with the last name; one word, or a name with a comma, as it is."""
    words = text.plain(name).split()
    if len(words) < 2 or "," in name:
        return " ".join(words)
    at = len(words) - 1
    while at > 1 and words[at - 1].lower() in _PARTICLES:
        at -= 1
    return f"{' '.join(words[at:])}, {' '.join(words[:at])}"


def _names(row: Paper) -> list[str]:
    return [name for one in row.authors[:AUTHORS] if (name := text.plain(str(one)))]


def ris(row: Paper, note: str = "", tags: Sequence[str] = ()) -> str:
    """The paper as RIS, ended by its "ER". note, tags: of the reader who saves it."""
    day = row.published
    year = row.year or (day.year if day else None)
    lines = [("TY", "GEN" if row.arxiv else "JOUR"), ("TI", text.plain(row.title))]
    lines += [("AU", inverted(name)) for name in _names(row)]
    lines += [("PY", str(year))] if year else []
    lines += [("DA", f"{day:%Y/%m/%d}")] if day else []
    lines += [("AB", text.plain(row.abstract))]
    lines += [("KW", text.plain(str(word))) for word in [*row.categories, *row.keywords[:20], *tags]]
    lines += [("DO", doi(row))]
    if row.arxiv:
        lines += [("DB", "arXiv"), ("AN", f"arXiv:{row.arxiv}"), ("PB", "arXiv")]
        lines += [("UR", f"https://arxiv.org/abs/{row.arxiv}"), ("L1", f"https://arxiv.org/pdf/{row.arxiv}")]
    lines += [("N1", note)]
    # A line is one value: a line break inside it would begin another tag.
    body = [f"{tag}  - {' '.join(value.split())}" for tag, value in lines if value.strip()]
    return "\r\n".join([*body, "ER  - ", "", ""])


def joined(made: Iterable[str]) -> str:
    """BibTeX of many papers as one file; a key that two of them share gets a letter."""
    seen: Counter[str] = Counter()
    entries = []
    for entry in made:
        if match := re.match(r"@\w+\{([^,\s]+),", entry):
            count, key = seen[match[1]], match[1]
            seen[key] += 1
            if count:
                entry = f"{entry[: match.start(1)]}{key}{_letter(count)}{entry[match.end(1) :]}"
        entries.append(entry)
    return "\n".join(entries)


def _letter(count: int) -> str:
    """1 is "a", 26 "z", 27 "aa"."""
    letters = ""
    while count:
        count, last = divmod(count - 1, 26)
        letters = chr(97 + last) + letters
    return letters


def tags(row: Paper, site: str) -> list[tuple[str, str]]:
    """The page's tags for reference managers, as (name, content), in order. site: scheme and host."""
    day = row.published
    year = row.year or (day.year if day else None)
    made = [("citation_title", text.plain(row.title))]
    made += [("citation_author", name) for name in _names(row)]
    made += [("citation_publication_date", f"{day:%Y/%m/%d}" if day else str(year or ""))]
    made += [("citation_abstract", text.plain(row.abstract)), ("citation_doi", doi(row))]
    if row.arxiv:
        made += [("citation_arxiv_id", row.arxiv), ("citation_publisher", "arXiv"), ("z:itemType", "preprint")]
        made += [("citation_pdf_url", f"https://arxiv.org/pdf/{row.arxiv}")]
        made += [("citation_public_url", f"https://arxiv.org/abs/{row.arxiv}")]
    made += [("citation_abstract_html_url", site + addresses.paper(row))]
    words = [str(word) for word in [*row.categories, *row.keywords[:20]]]
    made += [("citation_keywords", "; ".join(word.replace(";", ",") for word in words))]
    return [(name, content) for name, content in made if content]


def answer(content: str, kind: str, name: str) -> HttpResponse:
    """A file of references. kind: bib or ris."""
    media = {"bib": "application/x-bibtex", "ris": "application/x-research-info-systems"}[kind]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "papers"
    headers = {"Content-Disposition": f'attachment; filename="{safe}.{kind}"'}
    return HttpResponse(content, content_type=f"{media}; charset=utf-8", headers=headers)
