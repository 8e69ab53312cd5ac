"""Listing pages as a browser's copy gives them, rendered from papers that we know, so that reading can be compared."""

import random
from dataclasses import dataclass

INVITATION = "Get trending papers in your email inbox!"
TOP = ("new", INVITATION, "Subscribe", "Daily Papers", "by AK and the research community")


@dataclass(frozen=True)
class Shown:
    """What the page shows of one paper. abstract: paragraphs; date: as written; comments: None is not shown."""

    title: str
    abstract: tuple[str, ...]
    authors: int | None = None
    date: str = ""
    comments: int | None = None
    votes: int | None = None
    arxiv: str | None = None
    by: str = ""


def plain(papers: list[Shown], top: tuple[str, ...] = TOP, page_date: str = "") -> str:
    """Titles and abstracts with an empty line between any two."""
    blocks = [*top, *([page_date] if page_date else [])]
    for paper in papers:
        blocks += [paper.title, *paper.abstract]
    return "\n\n".join(blocks) + "\n"


def dated(papers: list[Shown], top: tuple[str, ...] = TOP, page_date: str = "", *, one_line: bool = False) -> str:
    """The same, each paper followed by its authors and date, on three lines or on one."""
    blocks = [*top, *([page_date] if page_date else [])]
    for paper in papers:
        tail = f"{paper.date}{'' if paper.comments is None else f' {paper.comments}'}"
        authors = "" if paper.authors is None else f"{paper.authors} authors"
        if one_line and authors:
            meta = f"{authors} · {tail}"
        else:
            meta = "\n".join([*([f"  • {authors}"] if authors else []), "·", tail])
        blocks += [paper.title, *paper.abstract, meta]
    return "\n\n".join(blocks) + "\n"


def tight(papers: list[Shown], *, glued: bool = True) -> str:
    """A line each, the button's word glued to the first title; paragraphs of an abstract keep their empty line."""
    lines = ["Get trending papers in your email inbox once a day!", INVITATION]
    for paper in papers:
        lines += [paper.title, "\n\n".join(paper.abstract)]
    if glued:
        lines[2] = "Subscribe" + lines[2]
    return "\n".join(lines) + "\n"


# -- any mixture of layouts --------------------------------------------------------------------------------------------

FEET = (
    (),
    ("Previous 1 2 3 Next",),
    ("Previous", "1", "2", "3", "...", "100", "Next"),
    ("Company TOS Privacy About Careers",),
    ("Previous", "1 2 3 … 100", "Next", "System theme", "Company", "TOS", "Privacy", "About", "Careers"),
    ("Previous 1 2 3 Next", "© Hugging Face", "Company TOS Privacy About Careers"),
)
NAMED = ("Daily Papers", "by AK and the research community")
TOPS = (
    (),
    TOP,
    TOP[:3],
    NAMED,
    (*TOP[:4], "byAK and the research community"),
    ("Get trending papers in your email inbox once a day!", INVITATION, "Subscribe"),
    ("Get trending papers in your email inbox once a day!Subscribe", "Daily Papersby AK"),
    ("Hugging Face", "Models", "Datasets", "Spaces", "Docs", "Pricing", "Log In", "Sign Up", *TOP),
    ("Daily Papers", "by AK"),
    ("Daily Papers", "by", "AK", "and the research community"),
)
SPACING = {"spaced": ("\n\n", "\n\n"), "grouped": ("\n", "\n\n"), "tight": ("\n", "\n")}


@dataclass(frozen=True)
class Style:
    """One way to render a page. spacing: of SPACING; small: where the small print stands ("", "after", "between",
    "before"); lines: in how many lines ("one", "some", "each"); votes: ("", "before", "after")."""

    spacing: str = "spaced"
    small: str = ""
    lines: str = "one"
    votes: str = ""
    by: bool = False
    arxiv: bool = False
    numbered: bool = False
    words: bool = False
    top: tuple[str, ...] = TOP
    glued: bool = False
    page_date: str = ""
    foot: tuple[str, ...] = ()
    end: str = "\n"
    trailing: str = ""

    @classmethod
    def drawn(cls, rng: random.Random) -> "Style":
        """Some style."""
        small = rng.choice(("", "", "after", "after", "after", "between", "before"))
        top = rng.choice(TOPS)
        glued = bool(top) and top[-1] == "Subscribe" and rng.random() < 0.5
        return cls(
            spacing=rng.choice(tuple(SPACING)),
            small=small,
            lines=rng.choice(("one", "some", "each")),
            votes=rng.choice(("", "", "before", "after")),
            by=rng.random() < 0.25,
            arxiv=rng.random() < 0.25,
            numbered=rng.random() < 0.2,
            words=rng.random() < 0.3,
            top=top,
            glued=glued,
            page_date=rng.choice(("", "", "Apr 17", "Aug 3, 2026")) if top and small != "before" and not glued else "",
            foot=rng.choice(FEET),
            end=rng.choice(("\n", "\n", "\r\n")),
            trailing=rng.choice(("", "", " ", "\u00a0", "\t ")),
        )


def small_print(paper: Shown, style: Style, between: str) -> str:
    """The paper's authors, date and comments in this style."""
    authors = "" if paper.authors is None else f"{paper.authors} author{'s' if paper.authors != 1 else ''}"
    comments = "" if paper.comments is None else str(paper.comments)
    if style.words and comments:
        comments += " comment" if comments == "1" else " comments"
    sign = " · " if style.words else " "
    tail = f"{paper.date}{sign if comments else ''}{comments}"
    if style.lines == "one":
        return " · ".join(part for part in (authors, tail) if part)
    if style.lines == "some":
        return "\n".join(part for part in (f"  • {authors}" if authors else "", "·", tail) if part)
    return between.join(part for part in (authors, "·", paper.date, comments) if part)


def render(papers: list[Shown], style: Style) -> str:
    """A page in any mixture of layouts."""
    within, after = SPACING[style.spacing]
    blocks = []
    for number, paper in enumerate(papers, 1):
        small = small_print(paper, style, after if style.spacing == "spaced" else "\n") if style.small else ""
        named = f"{number}. {paper.title}" if style.numbered else paper.title
        votes = "" if paper.votes is None else f"{paper.votes} upvotes" if style.words else str(paper.votes)
        parts = [
            f"Submitted by\n{paper.by}" if style.by and paper.by and style.lines == "each" else "",
            f"Submitted by {paper.by}" if style.by and paper.by and style.lines != "each" else "",
            votes if style.votes == "before" else "",
            small if style.small == "before" else "",
            named,
            f"arXiv:{paper.arxiv}" if style.arxiv and paper.arxiv else "",
            small if style.small == "between" else "",
            ("\n\n").join(paper.abstract),
            votes if style.votes == "after" else "",
            small if style.small == "after" else "",
        ]
        blocks.append(within.join(part for part in parts if part))
    top = [*style.top, *([style.page_date] if style.page_date else [])]
    if style.glued:
        blocks[0] = top.pop() + blocks[0]
    page = after.join([*top, *blocks, *style.foot]) + "\n"
    return page.replace("\n", f"{style.trailing}\n").replace("\n", style.end)
