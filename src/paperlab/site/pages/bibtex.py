"""A paper as BibTeX: every sign that TeX reads escaped, braces in balance, groups apart from persons."""

import re
from unicodedata import normalize

from paperlab.core.paper import papers
from paperlab.site import tex
from paperlab.site.store.models import Paper

SIGNED = 100  # authors that an entry names; "and others" stands for the rest
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_JOURNALS = re.compile(
    r"Trans|Journal|TMLR|JMLR|JAIR|IJCV|TACL|TASLP|J-STSP|\bTSE\b|Letters|Nature|Science|Magazine|Neurocomputing|Access"
)
_GROUP = re.compile(
    r"\b(?:Team|TEAM|Collaborations?|Consortium|Group|Labs?|Laborator(?:y|ies)|Research|Institute|University|Project|"
    r"Community|Initiative|Network|Foundation|Society|Committee|Organi[sz]ation|Contributors|Authors|Alliance|Agency|"
    r"Department|Cent(?:er|re)|Company|Inc|Ltd|Corp|Workshop|Force|AI)\b|\band\b|[&:/0-9]"
)
_SUFFIX = re.compile(r"(?P<first>\S.*) (?P<last>[^\s,]+),? (?P<suffix>(?:Jr|Sr)\.?|I{2,3}|IV)")


def bibtex(row: Paper) -> str:
    """The paper as one entry, in UTF-8."""
    names = tex.names(row.authors)
    ours = papers().get(row.slug or "")
    venue = (ours.venue if ours else None) or ""
    met = re.search(r"\b(?:19|20)\d\d\b", venue)
    year = met[0] if met else row.year or (row.published.year if row.published else None)
    fields = [("title", "{" + tex.bibtex(row.title) + "}")]
    if names:
        fewer = len(names) > SIGNED or (row.author_count or 0) > len(names)
        signed = [_signed(name) for name in names[:SIGNED]] + (["others"] if fewer else [])
        fields.append(("author", "{" + " and ".join(signed) + "}"))
    if venue:
        fields.append(("journal" if _JOURNALS.search(venue) else "booktitle", "{" + tex.escaped(venue) + "}"))
    if year:
        fields.append(("year", f"{{{year}}}"))
    month = row.published.month if row.published else ours.month if ours else None
    if month and not venue:
        fields.append(("month", _MONTHS[month - 1]))
    if row.arxiv:
        fields += [("eprint", f"{{{row.arxiv}}}"), ("archivePrefix", "{arXiv}")]
        if row.categories:
            fields.append(("primaryClass", f"{{{tex.escaped(str(row.categories[0]))}}}"))
        fields.append(("url", f"{{https://arxiv.org/abs/{row.arxiv}}}"))
    kind = "misc" if not venue else "article" if _JOURNALS.search(venue) else "inproceedings"
    inside = ",\n".join(f"  {name:<13} = {value}" for name, value in fields)
    return f"@{kind}{{{_key(row, names, year)},\n{inside}\n}}\n"


def _key(row: Paper, names: list[str], year: object) -> str:
    """surname, year, first long word of the title; ASCII, as old programs need. The arXiv id where neither
    name nor title is Latin: else all such papers would have one key."""
    parts = names[0].split() if names else []
    surname = (parts[0] if _group(names[0]) else parts[-1] if "," not in names[0] else parts[0]) if parts else ""
    surname = re.sub(r"[^a-z]", "", _ascii(surname)) or re.sub(r"[^a-z0-9-]", "", row.slug or "") or "anonymous"
    word = next(iter(re.findall(r"[a-z]{4,}", _ascii(tex.plain(row.title)))), "")
    if not word:
        word = "paper" if surname != "anonymous" else f"paper{re.sub('[^0-9a-z]', '', row.arxiv or str(row.pk or ''))}"
    return f"{surname}{year or ''}{word}"


def _ascii(value: str) -> str:
    return normalize("NFKD", value).encode("ascii", "ignore").decode().lower()


def _group(name: str) -> bool:
    return bool(_GROUP.search(name)) or len(name.split()) == 1


def _signed(name: str) -> str:
    """A name as BibTeX takes it apart: a group in braces of its own, a person's "Jr." where it belongs."""
    if _group(name):
        return "{" + tex.escaped(name) + "}"
    if person := _SUFFIX.fullmatch(name):
        name = f"{person['last']}, {person['suffix']}, {person['first']}"
    return tex.escaped(name)
