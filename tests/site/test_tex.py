"""TeX in text from outside: on the pages, in letters, in the search, in BibTeX that others read."""

import random
import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Any
from xml.etree import ElementTree

import pytest
from api_papers import item, take
from page_check import Page


@pytest.fixture(autouse=True)
def _django(tables: None) -> None:
    """The modules of the site import settings."""


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (r"L\'evy Processes and Poincar\'e Maps", "Lévy Processes and Poincaré Maps"),
        (r"Andr\'e Erd\H{o}s", "André Erdős"),
        (r"Ji\v{r}\'{\i} Nov\'ak, M\"{o}bius, \o sterby, {\O}re", "Jiří Novák, Möbius, østerby, Øre"),
        (r"\L{}ukasz, Stra\ss e", "Łukasz, Straße"),
        (r"{\'E}. \c{C}elik, \c c, \.I, \u{a}, \=a, \d{o}, \k{e}", "É. Çelik, ç, İ, ă, ā, ọ, ę"),
        (r"5$\times$ faster, up to 2.3\times, 64.0 \pm 2", "5× faster, up to 2.3×, 64.0 ± 2"),
        ("``so'' called --- a range of 1--5 -- and `--flag`", "“so” called — a range of 1–5 – and `--flag`"),
        (r"\textbf{C}ode \href{https://a.org/x\_y}{here}\footnote{Soon.}", "Code here (https://a.org/x_y) (Soon.)"),
        (r"100\%, Fig.~3 \& R\#1", "100%, Fig. 3 & R#1"),
        (r"Code: \url{https://a.org/~me/a--b}", "Code: https://a.org/~me/a--b"),
        (r"{\it so \textbf{it}} goes, {BERT}-like {1, 2} \{3\}", "so it goes, BERT-like {1, 2} {3}"),
        (r"$\mathcal{O}(n^2)$, $x_{t+1} \in \mathbb{R}^d$", "O(n²), xₜ₊₁ ∈ ℝᵈ"),
        (r"$\sqrt{d_k}$, $\frac{a}{b}$, $\log n$, $\hat{x}$", "√(dₖ), a/b, log n, x̂"),
        (r"We propose \method{}, by \ours: \mathcal{O}(n) and \alpha", "We propose method, by ours: O(n) and α"),
        ("costs $5 and $10, US$5 or A$6, 100% of x & y_z #1", "costs $5 and $10, US$5 or A$6, 100% of x & y_z #1"),
        (r"don\'t, the model\'s, \b{eta}-VAE, \r{ho} = 1", "don't, the model's, β-VAE, ρ = 1"),
        (r'a double newline "\n\n" and C:\new', r'a double newline "\n\n" and C:new'),
        (r"\begin{equation} a = b \end{equation}", "a = b"),
        (r"an unclosed \textbf{brace", "an unclosed brace"),
        ("{{ 7*7 }} {% load x %} ${7*7} {name}", "{{ 7*7 }} {% load x %} ${7*7} {name}"),
    ],
)  # fmt: skip
def test_it_reads_as_it_was_meant(written: str, said: str) -> None:
    from paperlab.site.tex import plain

    assert plain(written) == said


@pytest.mark.parametrize(
    ("source", "elements"),
    [
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", {"mtable", "mtr", "mtd"}),
        (r"\arg\min_\theta \mathbb{E}[x]", {"msub", "mi"}),
        (r"\operatorname*{argmax}_x", {"msub"}),
        (r"\text{softmax}\left(\frac{QK^T}{\sqrt d}\right)", {"msqrt", "mfrac", "msup"}),
        (r"\begin{cases} a & b \\ c & d \end{cases}", {"mtable"}),
        (r"\mathds{1}, \mathbbm{1}, \bm{x}, 10\%, \widetilde{O}(n)", {"mover"}),
        (r"\method + \ours_{x}", {"msub"}),
    ],
)
def test_formulas_are_read_whole(source: str, elements: set[str]) -> None:
    from paperlab.site.maths import html

    made = ElementTree.fromstring(html(source))
    assert elements <= {element.tag for element in made.iter()}
    assert "\\" not in "".join(made.itertext())
    assert "&" not in "".join(made.itertext())


SIGNS = ["\\[", "$", "$ ", "$a", "\\(", "$$", "{", "}", "\\textbf{", '\\"{', "``", "`", "\\", "~", "_{", "{\\it ",
         "\\url{x}", "\\begin{align}", "\\foo{", "\\foo{a}{", "\\href{", "\\[ {\\]", "\\cite", "\\v ", "--", "https://",
         "\\sqrt{"]  # fmt: skip


@pytest.mark.parametrize("sign", SIGNS)
def test_a_hundred_thousand_of_a_sign_take_no_time(sign: str) -> None:
    from paperlab.site import tex
    from paperlab.site.pages.text import rich
    from paperlab.site.people.markdown import html

    text = sign * 100_000
    for write in (tex.plain, rich, tex.bibtex, html):
        tex.pieces.cache_clear()
        begun = time.thread_time()
        write(text)
        assert time.thread_time() - begun < 2, write  # 0.05 s of a quiet processor; minutes where it is quadratic
    assert len(tex.plain(text)) <= len(text)


def test_no_text_breaks_out_or_crashes() -> None:
    from paperlab.site import tex
    from paperlab.site.pages.text import paragraphs, rich

    parts = [*SIGNS, "$", "}", "\\]", "\\)", "\\end{align}", "a", " ", "<script>alert(1)</script>", "&lt;b&gt;", '"',
             "é", "\\href{javascript:alert(1)}{x}", "\\emph{", "\\frac{a}{b}", "\\left(", "^", "_", "\\it", "\x00",
             "\ue0001\ue001"]  # fmt: skip
    draw = random.Random(7)
    for _ in range(3_000):
        text = "".join(draw.choices(parts, k=draw.randint(1, 12)))
        page = Page(f"{rich(text)}{paragraphs(text)}")
        assert page.wrong == [], text
        assert all(link.startswith("https://") for link in page.links)
        assert "<script" not in rich(text)
        depth = 0
        for kind, _, start, end in tex.pieces(text):
            depth += (kind in ("open", "link")) - (kind in ("close", "unlink"))
            assert depth >= 0
            assert 0 <= start <= end <= len(text)
        assert depth == 0, text
        said = tex.bibtex(text)
        assert said.count("{") == said.count("}"), text


def test_deep_formulas_end_no_process() -> None:
    """The reader is compiled and recurses; a thread's stack may be small."""
    from paperlab.site import maths

    opening = ["{", r"\left(", r"\sqrt", r"\sqrt{", "x^{", r"\begin{matrix}", r"\hat", r"\text{", r"\frac",
               r"\frac{a}{", "a_{b", r"\binom", r"\sqrt[", r"\bf ", r"\mathbf ", r"\underset ", "'", r"\not", "^", "_",
               r"\hat{a"]  # fmt: skip
    wrong: list[str] = []

    def work() -> None:
        for one in opening:
            for other in opening:
                for closed in ("", "x", "}", r"\right)"):
                    pair = one + other
                    count = maths.LIMIT // (len(pair) + len(closed))
                    maths.html((pair * count + closed * count)[: maths.LIMIT])
        wrong.append("through")

    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert wrong == ["through"]


def get(path: str) -> str:
    from django.test import Client

    answer = Client(headers={"host": "localhost"}).get(path, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_pages_and_search_know_the_letters(store: None) -> None:
    from paperlab.site.search.query import Query, read
    from paperlab.site.search.rank import search

    take([
        item(1, title=r"L\'evy Processes and M\"{o}bius Maps, 5$\times$ Faster", authors=[r"Andr\'e Erd\H{o}s"],
             abstract=r"A bound, $\mathcal{O}(n\log n)$, by \textbf{care}: \href{https://a.org/b}{here}; ``there''."),
        item(2, title="Other Things", authors=["Jane Doe"], abstract="Nothing of the kind."),
    ], "jsonl")  # fmt: skip
    for path in ("/", "/papers", "/papers/2401.00001", "/search?q=levy", "/feeds/new.atom"):
        said = get(path)
        assert "Lévy Processes and Möbius Maps" in said, path
        assert "André Erdős" in said, path
        assert r"\'e" not in said.replace("&#x27;", "'").replace("&quot;", '"'), path
    page = get("/papers/2401.00001")
    assert "<math" in page
    assert '<a href="https://a.org/b" rel="noreferrer nofollow">here</a>' in page
    assert "<strong>care</strong>" in page
    assert "“there”" in page
    for words in ("Lévy", "Levy", "möbius", "L\\'evy", "author:André", "author:Erdos", 'author:"Andr\\\'e Erdős"'):
        assert [hit.why.exact or "words" for hit in search(read({"q": [words]})).hits] == ["words"], words
    shown = search(Query(text="bound")).hits[0]
    assert "O(n log n)" in "".join(part for part, _ in shown.snippet)


def test_letters_hold_no_tex(store: None) -> None:
    from paperlab.site.digest.choose import Issue
    from paperlab.site.store.item import Sighting

    day = date(2024, 5, 2)
    take(
        [
            item(
                1,
                title=r"On $\alpha$ and Poincar\'e",
                abstract=r"Of $\sqrt{n}$ \emph{things}.",
                sightings=[Sighting(day, 3)],
            )
        ]
    )
    section = Issue(day, "day", "https://papers.example.org").sections([])[0]
    assert "On α and Poincaré" in section.items[0].text
    assert "Of √n things." in section.items[0].html
    assert "<math" not in section.items[0].html


def test_comments_hold_formulas(store: None) -> None:
    from paperlab.site.people.markdown import html

    said = html(
        "The bound $\\mathcal{O}(n_1^2)$, `$x$`, \\(a*b*c\\) **so** for $5 and $10\n\n$$\\sum_i x_i$$\n\n"
        "<script>x</script>"
    )
    assert said.count("<math") == 3
    assert "<code>$x$</code>" in said
    assert "<strong>so</strong> for $5 and $10" in said
    assert '<math display="block"' in said
    assert "<script" not in said
    assert "<em>" not in said
    assert Page(said).wrong == []
    assert "<math" not in html("\ue0000\ue001 costs $5")


def entry(**facts: Any) -> Any:
    """A paper's entry, as another library reads it."""
    from pybtex.database.input.bibtex import Parser

    from paperlab.site.pages.bibtex import bibtex
    from paperlab.site.store.models import Paper

    both = bibtex(Paper(arxiv="2401.00001", year=2024, **facts)) + "@misc{last,\n  title = {Still there}\n}\n"
    entries = Parser().parse_string(both).entries
    assert entries["last"].fields["title"] == "Still there"
    assert len(entries) == 2
    return next(iter(entries.values()))


@pytest.mark.parametrize(
    ("title", "written"),
    [
        ("R&D with $k$-NN: 100% Recall & More", r"R\&D with $k$-NN: 100\% Recall \& More"),
        (r"Beyond 100\% of #1 & x_1", r"Beyond 100\% of \#1 \& x\_1"),
        ("An Unbalanced { Brace", r"An Unbalanced \textbraceleft{} Brace"),
        ("Set notation } and more", r"Set notation \textbraceright{} and more"),
        ("}{", r"\textbraceright{}\textbraceleft{}"),
        ("50% of {A, B} & B_c ~5^2", r"50\% of \{A, B\} \& B\_c \textasciitilde{}5\textasciicircum{}2"),
        (r"L\'evy and \emph{more} of $a_{b}$", r"Lévy and \emph{more} of $a_{b}$"),
        (r"A \ C:\dir", r"A C:\texttt{dir}"),
    ],
)
def test_bibtex_is_read_by_others(title: str, written: str) -> None:
    assert entry(title=title, authors=["Ada Lovelace"]).fields["title"] == written


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("Ada Lovelace", "Lovelace", "Ada"),
        ("ATLAS and CMS Collaborations", "{ATLAS and CMS Collaborations}", ""),
        ("Gemma Team", "{Gemma Team}", ""),
        ("Meta AI Research, FAIR", "{Meta AI Research, FAIR}", ""),
        ("DeepSeek-AI", "{DeepSeek-AI}", ""),
        (r"Paul Erd\H{o}s", "Erdős", "Paul"),
        (r"Ji\v{r}\'{\i} Nov\'ak", "Novák", "Jiří"),
        ("John Smith, Jr.", "Smith", "John"),
        ("R&D Group {x", r"{R\&D Group \textbraceleft{}x}", ""),
    ],
)
def test_names_are_read_by_others(name: str, last: str, first: str) -> None:
    persons = entry(title="T", authors=[name, "Jane Doe"]).persons["author"]
    assert len(persons) == 2
    assert (" ".join(persons[0].last_names), " ".join(persons[0].first_names)) == (last, first)


def test_an_entry_says_when_where_and_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made = entry(title="T", authors=["Ann Bell"] * 150, published=date(2024, 3, 5), categories=["cs.CL"])
    assert str(made.persons["author"][-1]) == "others"
    assert made.fields["month"] == "March"
    assert (made.fields["eprint"], made.fields["primaryClass"]) == ("2401.00001", "cs.CL")
    assert made.key == "bell2024paper"
    ours = entry(title="SpeechT5", authors=["Junyi Ao"], slug="speecht5")
    assert (ours.type, ours.fields["booktitle"], ours.fields["year"]) == ("inproceedings", "ACL 2022", "2022")
    printed = entry(title="T", authors=["Ann Bell"], slug="ask2mask")
    assert (printed.type, printed.fields["journal"]) == ("article", "IEEE J-STSP 2022")


@pytest.fixture(scope="session")
def catalogue() -> Callable[[], Any]:
    from paperlab.core.paper import papers

    return papers


def test_every_bundled_paper_is_an_entry(catalogue: Callable[[], Any], store: None) -> None:
    from pybtex.database.input.bibtex import Parser

    from paperlab.site.pages.bibtex import bibtex
    from paperlab.site.store import bundled
    from paperlab.site.store.models import Paper

    bundled.load()
    rows = {row.slug: row for row in Paper.objects.all()}
    for slug, paper in catalogue().items():
        made = next(iter(Parser().parse_string(bibtex(rows[slug])).entries.values()))
        assert len(made.persons.get("author", [])) == min(100, len(paper.authors)), slug
        assert bool(paper.venue) == (made.type != "misc"), slug
        assert ("month" in made.fields) == bool(paper.month and not paper.venue), slug
