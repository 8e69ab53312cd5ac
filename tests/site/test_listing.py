"""Listing pages: what was rendered is read back, in every layout, also where titles and abstracts pretend."""

import os
import random
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listing_pages import INVITATION, SPACING, TOP, Shown, Style, dated, plain, render, tight

from paperlab.site.store import clean
from paperlab.site.store.sources.listing import looks_like, read

WORDS = [
    "sparse",
    "dense",
    "neural",
    "codec",
    "language",
    "model",
    "pruning",
    "attention",
    "speech",
    "token",
    "loss",
    "layer",
    "weight",
    "gradient",
    "sampling",
    "robust",
    "efficient",
    "scaling",
    "law",
    "transformer",
    "decoding",
    "draft",
    "verify",
    "quantization",
    "outlier",
    "rank",
    "adaptive",
    "mixture",
    "expert",
]
DECEIVING = (
    *("May 13", "Oct 10, 2023", "Sept 5, 2024 3", "Attention", "LoRA", "Subscribe", "Daily Papers", "New", "?", "2023"),
    *("GPT-9 Technical Report.", "Is it? Yes. It is.", "Next", "7 Authors of One Paper"),
    "Subscribe to Win: Newsletters and Their Readers",
)
SHORT = ("Withdrawn.", "We report a bug", "Code is available at https://example.org/a/b", "Preliminary version.")


def sentence(rng: random.Random, words: int) -> str:
    text = " ".join(rng.choice(WORDS) for _ in range(words))
    return text[0].upper() + text[1:] + "."


def abstract(rng: random.Random) -> str:
    return " ".join(sentence(rng, rng.randrange(12, 28)) for _ in range(rng.randrange(5, 10)))


def title(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS).capitalize() for _ in range(rng.randrange(2, 16)))


def paper(rng: random.Random, hostile: bool) -> Shown:
    name, parts = title(rng), (abstract(rng),)
    draw = rng.random()
    if hostile and draw < 0.06:
        name = rng.choice(DECEIVING)
    elif hostile and draw < 0.16:
        parts = (abstract(rng), abstract(rng))
    elif hostile and draw < 0.19:
        parts = (rng.choice(SHORT),)
    month = rng.choice(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"])
    written = f"{month} {rng.randrange(1, 29)}" + (f", {rng.randrange(2015, 2026)}" if rng.random() < 0.7 else "")
    authors = None if hostile and rng.random() < 0.05 else rng.randrange(1, 40)
    return Shown(name, parts, authors, written, rng.randrange(1, 60) if rng.random() < 0.4 else None)


STRANGE = (
    Shown("Is Attention All You Need?", ("Yes.",)),
    Shown("What Is a Token?", ("It depends on the tokenizer.",)),
    Shown("Разреженные языковые модели", ("Мы обучаем модель.",)),
    Shown("大型语言模型的稀疏微调", ("我们研究了稀疏微调问题。为此,我们提出一种基于蒸馏的损失。",)),
    Shown("نماذج اللغة الكبيرة", ("ندرس نماذج اللغة.",)),
    Shown("A: B: C", ("We do.",)),
    Shown("No. 5 Is Alive.", ("We show it.",)),
    Shown("3D Gaussians", ("Fast.",)),
    Shown("1-bit Models: Are They Real?", ("We say so", "And we mean it.")),
    Shown(f"{'Very ' * 60}Long Title", ("Short.",)),
)


def small(rng: random.Random, paper: Shown) -> Shown:
    """The paper with small print."""
    date = paper.date or f"May {rng.randrange(1, 29)}"
    comments = rng.choice((None, None, 1, 7, 1204))
    arxiv = f"{rng.randrange(10, 26)}{rng.randrange(1, 13):02d}.{rng.randrange(1, 19999):05d}"
    by = rng.choice(("Ann Lee", "some_user-3", "A. B."))
    return Shown(paper.title, paper.abstract, rng.randrange(1, 60), date, comments, rng.randrange(0, 200), arxiv, by)


def compare(papers: list[Shown], style: Style) -> None:
    """Render, read back, and require every fact that the style shows; nothing may be left over."""
    page = render(papers, style)
    listing = read(page)
    assert [(clean.line(entry.title), clean.paragraphs(entry.abstract)) for entry in listing.entries] == told(papers)
    assert listing.strays == []
    assert listing.dated.text == style.page_date
    for entry, shown in zip(listing.entries, papers, strict=True):
        if style.small:
            assert (entry.authors, entry.dated.text, entry.comments) == (shown.authors, shown.date, shown.comments)
        assert entry.votes == (shown.votes if style.votes else None)
        assert entry.arxiv == (shown.arxiv if style.arxiv else None)
        assert entry.by == (shown.by if style.by else "")
    if style.top:
        assert looks_like(page)


@pytest.mark.parametrize("seed", range(80))
def test_any_mixture_of_layouts_is_read_back(seed):
    rng = random.Random(seed)
    strange = seed % 4 == 0
    papers = [
        small(rng, rng.choice(STRANGE) if strange and rng.random() < 0.1 else paper(rng, hostile=False))
        for _ in range(rng.choice((1, 2, 3, 10, 40)))
    ]
    compare(papers, Style.drawn(rng))


@pytest.mark.parametrize("spacing", SPACING)
def test_a_page_of_strange_papers(spacing):
    rng = random.Random(3)
    compare([small(rng, shown) for shown in STRANGE], Style(spacing=spacing, small="after", lines="some"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_broken_to_a_width_are_made_whole(width):
    rng = random.Random(width)
    papers = [paper(rng, hostile=False) for _ in range(20)]
    lines = dated(papers).split("\n")
    page = "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines)
    assert found(page) == told(papers)


@pytest.mark.parametrize("page", [plain([]), "Daily Papers\nby AK and the research community\n\nNo papers found\n"])
def test_an_empty_page_is_a_listing_without_papers(page):
    from paperlab.site.store.sources.listing import ListingPages

    assert looks_like(page)
    (got,) = ListingPages(page).pages({}, {})
    assert (got.items, got.rejected, got.ranked) == ([], [], None)


def told(papers: list[Shown]) -> list[tuple[str, str]]:
    return [(paper.title, "\n\n".join(paper.abstract)) for paper in papers]


def found(page: str) -> list[tuple[str, str]]:
    return [(clean.line(entry.title), clean.paragraphs(entry.abstract)) for entry in read(page).entries]


LAYOUTS = {
    "plain": plain,
    "plain with a date": lambda papers: plain(papers, page_date="Apr 17"),
    "no furniture": lambda papers: plain(papers, top=()),
    "no Daily Papers line": lambda papers: plain(papers, top=TOP[:3]),
    "glued by AK": lambda papers: plain(papers, top=(*TOP[:4], "byAK and the research community")),
    "dated": lambda papers: dated(papers, page_date="Apr 17"),
    "dated, one line": lambda papers: dated(papers, one_line=True),
    "tight": tight,
    "Windows": lambda papers: tight(papers).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=st.integers(0, 10**9), count=st.sampled_from([2, 3, 7, 30]))
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_page_is_read_back(layout, seed, count):
    rng = random.Random(seed)
    papers = [paper(rng, hostile=False) for _ in range(count)]
    page = LAYOUTS[layout](papers)
    assert found(page) == told(papers)
    assert read(page).strays == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(12))
def test_a_hostile_page_is_read_back(layout, seed):
    rng = random.Random(seed)
    papers = [paper(rng, hostile=True) for _ in range(25)]
    assert found(LAYOUTS[layout](papers)) == told(papers)


@pytest.mark.parametrize("name", DECEIVING)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_title_that_pretends(name, layout, place):
    if place == 0 and layout == "no furniture" and name == "May 13":
        pytest.skip("a date before the first title is the page's: nobody can tell")
    rng = random.Random(5)
    papers = [paper(rng, hostile=False) for _ in range(4)]
    papers[place] = Shown(name, papers[place].abstract, 3, "Mar 1", None)
    assert found(LAYOUTS[layout](papers)) == told(papers)


@pytest.mark.parametrize("one_line", [False, True])
def test_authors_dates_and_comments(one_line):
    rng = random.Random(7)
    papers = [paper(rng, hostile=True) for _ in range(40)]
    listing = read(dated(papers, page_date="Apr 17", one_line=one_line))
    seen = [(entry.authors, entry.dated.text, entry.comments) for entry in listing.entries]
    assert seen == [(paper.authors, paper.date, paper.comments) for paper in papers]
    assert (listing.name, listing.dated.text) == ("Daily Papers", "Apr 17")


def test_a_missing_dated_line_loses_no_paper():
    rng = random.Random(8)
    papers = [paper(rng, hostile=False) for _ in range(6)]
    page = dated(papers)
    for at in (1, 4):  # cut this paper's three lines out
        start = page.index(papers[at].abstract[0]) + len(papers[at].abstract[0])
        page = page[:start] + page[page.index("\n\n" + papers[at + 1].title) :]
    assert found(page) == told(papers)
    assert [entry.authors is None for entry in read(page).entries] == [False, True, False, False, True, False]


def test_a_line_is_never_lost():
    """Whatever the text is, every line is a title, an abstract, a dated line, furniture, or set aside."""
    page = "\n".join(["Some prose.", "", "7 authors", "Oct 10, 2023 1", "x" * 3000, "More.", "·", "The end"])
    listing = read(page)
    told = " ".join([entry.title + entry.abstract for entry in listing.entries] + [text for _, text in listing.strays])
    for text in ("Some prose.", "x" * 3000, "More.", "The end"):
        assert text in told


@given(st.text(max_size=2000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_text_is_read_without_an_error(text):
    read(text)
    looks_like(text)


def test_a_foot_is_no_paper():
    rng = random.Random(9)
    papers = [paper(rng, hostile=False) for _ in range(3)]
    page = plain(papers) + "\n\n".join(["Previous", "1 2 3 … 100", "Next", "Company", "TOS", "Privacy", "About"])
    assert found(page) == told(papers)


def test_a_year_is_never_invented():
    rng = random.Random(10)
    papers = [
        Shown(title(rng), (abstract(rng),), 2, "Mar 10", 4),
        Shown(title(rng), (abstract(rng),), 2, "Feb 29", None),
    ]
    first, second = read(dated(papers)).entries
    assert first.dated.on(None) is None
    assert str(first.dated.on(2026)) == "2026-03-10"
    assert second.dated.on(2026) is None  # no such day


def test_what_is_no_listing_is_told_apart():
    rng = random.Random(11)
    assert looks_like(plain([paper(rng, hostile=False)]))
    assert not looks_like("Dear reader,\n\nplease find enclosed the report.\n\nYours")
    assert not looks_like("\n".join(title(rng) for _ in range(20)))
    assert not looks_like("")


def test_the_button_is_taken_off_once():
    text = abstract(random.Random(12))
    page = f"{INVITATION}\nSubscribeSubscribe and Save\n{text}\nA Second Paper\n{text}\n"
    assert [entry.title for entry in read(page).entries] == ["Subscribe and Save", "A Second Paper"]


shared = pytest.mark.skipif("PAPERLAB_SHARED" not in os.environ, reason="PAPERLAB_SHARED does not name the shared data")


def real(name: str) -> tuple[str, list[Shown]]:
    """A saved page, and its papers read by its own fixed layout."""
    text = (Path(os.environ["PAPERLAB_SHARED"]) / "data" / "listings" / f"{name}.txt").read_text(encoding="utf-8")
    if name == "listing_c":
        lines = [line for line in text.split("\n") if line.strip()][2:]
        pairs = zip([lines[0].removeprefix("Subscribe"), *lines[2::2]], lines[1::2], strict=True)
        return text, [Shown(clean.line(title), (clean.line(abstract),)) for title, abstract in pairs]
    blocks = [block for block in text.split("\n\n") if block.strip()][5 if name == "listing_a" else 6 :]
    step = 2 if name == "listing_a" else 3
    papers = []
    for at in range(0, len(blocks), step):
        facts: tuple[int | None, str, int | None] = (None, "", None)
        if step == 3:
            match = re.fullmatch(r"  • (\d+) authors\n·\n(\w+ \d+(?:, \d{4})?)(?: (\d+))?\s*", blocks[at + 2])
            assert match
            facts = (int(match[1]), match[2], int(match[3]) if match[3] else None)
        papers.append(Shown(clean.line(blocks[at]), (clean.line(blocks[at + 1]),), *facts))
    return text, papers


@shared
@pytest.mark.parametrize(("name", "count"), [("listing_a", 58), ("listing_b", 35), ("listing_c", 220)])
def test_real_pages(name, count):
    text, papers = real(name)
    listing = read(text)
    assert len(papers) == len(listing.entries) == count
    assert [(entry.title, entry.abstract) for entry in listing.entries] == told(papers)
    facts = [(entry.authors, entry.dated.text, entry.comments) for entry in listing.entries]
    assert facts == [(paper.authors, paper.date, paper.comments) for paper in papers]
    assert listing.strays == []


@shared
@pytest.mark.parametrize("seed", range(40))
def test_real_pages_in_other_layouts(seed):
    rng = random.Random(seed)
    _, papers = real(rng.choice(("listing_a", "listing_b", "listing_c")))
    chosen = rng.sample(papers, min(len(papers), rng.choice((1, 2, 5, 58, 220))))
    compare([small(rng, paper) for paper in chosen], Style.drawn(rng))
