"""Commands that list and search papers and methods, with their verdicts."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from paperlab.cli import complete
from paperlab.cli.shell import Json, checked, one_of
from paperlab.cli.verbosity import note, takes_verbosity

if TYPE_CHECKING:
    from paperlab.core.paper import Paper

NOT_YET = "not yet run"  # what a reader is shown of a check without a record
commands = typer.Typer()
DROP = ("family", "year", "title")  # columns that a narrow terminal does without, in this order
Family = Annotated[
    str | None,
    typer.Option(metavar="FAMILY", autocompletion=complete.families, help="Only this family, e.g. quantization."),
]


def _paper_row(paper: "Paper") -> dict[str, Any]:
    """A paper as listings give it. verdict: the one word that its main claim has on all models; counts: on how many
    which; main: the ids of its records; verdicts: each current one, of all checks."""
    from paperlab.cli.show import facts
    from paperlab.core.published import public
    from paperlab.core.standings import counts, main, of_paper, one_word, outdated_of, summary

    rows = main(paper.slug)
    counted = counts(rows)
    return {
        **facts(paper),
        "runnable": bool(checked(paper.slug)),
        "verdict": one_word(counted),
        "counts": counted,
        "summary": summary(rows),
        "main": [row.id for row in rows],
        "verdicts": [{**public(row), "outdated": list(outdated_of(row.id))} for row in of_paper(paper.slug)],
    }


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    from paperlab.cli import text

    if as_json:
        return text.write_json(rows)
    cells = [
        [
            r["slug"],
            str(r["year"]),
            r["family"],
            _state(r),
            r["title"],
        ]
        for r in rows
    ]
    typer.echo(text.table(["slug", "year", "family", "verdict", "title"], cells, fit=text.width(), drop=DROP))
    note(f"{len(rows)} papers; `paperlab show SLUG` says more of one")


def _state(row: dict[str, Any]) -> str:
    """How a paper's main claim fares in a few words, and whether that is outdated."""
    from paperlab.core.methods import abstract_only

    if not row["main"]:
        return "-" if not row["runnable"] else "abstract only" if abstract_only(row["slug"]) else NOT_YET
    word = str(row["summary"])
    claims = [verdict for verdict in row["verdicts"] if verdict["id"] in row["main"]]
    outdated = sum(bool(verdict["outdated"]) for verdict in claims)
    if not outdated:
        return word
    return f"{word}, outdated" if outdated == len(claims) else f"{word}, {outdated} outdated"


@commands.command()
def papers(
    family: Family = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", autocompletion=complete.kinds, help="Only this kind, e.g. method or study."),
    ] = None,
    year: Annotated[int | None, typer.Option(metavar="YEAR", help="Only this year.")] = None,
    runnable: Annotated[bool, typer.Option("--runnable", help="Only papers with a check.")] = False,
    verdict: Annotated[
        str | None,
        typer.Option(metavar="WORD", autocompletion=complete.verdicts, help="Only papers with this verdict."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the papers, with the verdicts on their claims here."""
    from paperlab.core.paper import FAMILIES, KINDS
    from paperlab.core.paper import papers as catalogue
    from paperlab.core.standings import MIXED, NOT_RUN
    from paperlab.core.verdict import WORDS

    family, kind = one_of(family, "family", FAMILIES), one_of(kind, "kind", KINDS)
    verdict = one_of(verdict, "verdict", (*WORDS, MIXED, NOT_RUN))
    wanted = {"family": family, "kind": kind, "year": year}
    chosen = [p for p in catalogue().values() if all(v is None or getattr(p, k) == v for k, v in wanted.items())]
    rows = [_paper_row(paper) for paper in chosen]
    if runnable:
        rows = [row for row in rows if row["runnable"]]
    if verdict == NOT_RUN:
        rows = [row for row in rows if _state(row) == NOT_YET]
    elif verdict is not None:
        rows = [row for row in rows if verdict in (row["verdict"], *row["counts"])]
    _list(rows, as_json)


@commands.command()
def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS", help='Words, "a phrase", a title, a slug, an arXiv id; optional with filters.'),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="FAMILY", autocompletion=complete.families, help="Only this family; may be repeated."),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this arXiv category, e.g. cs.CL or cs.")
    ] = None,
    year: Annotated[str | None, typer.Option(metavar="YEARS", help="2024, 2020-2024, 2020- or -2020.")] = None,
    author: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Part of an author's name.")] = None,
    code: Annotated[bool, typer.Option("--code", help="Only papers with code.")] = False,
    runnable: Annotated[bool, typer.Option("--runnable", help="Only papers with a check.")] = False,
    verdict: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", autocompletion=complete.verdicts, help="Only papers with this verdict."),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="ORDER", help="relevance, date or trending.")] = "relevance",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="At most this many papers.")] = 20,
    explain: Annotated[bool, typer.Option("--explain", help="Explain the rank of each paper.")] = False,
    as_json: Json = False,
) -> None:
    """Search all stored papers by words and by meaning."""
    from paperlab.site.commands import search as command

    params = {
        "q": [" ".join(words or [])],
        "family": family or [],
        "category": category or [],
        "year": [year or ""],
        "author": author or [],
        "code": ["1" * code],
        "runnable": ["1" * runnable],
        "verdict": verdict or [],
        "sort": [sort],
        "limit": [str(limit)],
    }
    results, rows = command.search(params)
    if as_json:
        from paperlab.cli.text import write_json

        return write_json(rows)
    _print_results(results, rows, explain)


def _print_results(results: Any, rows: list[dict[str, Any]], explain: bool) -> None:
    """Print search results, one line each, or with the reasons for their order; notes go to standard error."""
    from paperlab.cli import text

    if results.suggestion:
        note(f"searched: {results.suggestion}")
    for message in results.notes:
        note(message)
    if not rows:
        note("nothing found; fewer words or filters find more, `paperlab papers` lists all")
        return
    if not explain:
        cells = [
            [row["id"], str(row["year"] or ""), row["family"], row["verdict"] or "-", row["title"]] for row in rows
        ]
        typer.echo(text.table(["id", "year", "family", "verdict", "title"], cells, fit=text.width(), drop=DROP))
    for place, row in enumerate(rows if explain else [], 1):
        typer.echo(text.wrap(row["title"], "    ", first=f"{place:>3} {row['id']}  "))
        typer.echo(f"    {row['score']:.4f}: {row['why']}")
        if row["snippet"]:
            typer.echo(text.wrap(row["snippet"], "    ", first="    "))
    note(f"{len(rows)} of {results.total:,} papers, {1000 * results.seconds:.0f} ms")


@commands.command("index")
@takes_verbosity
def index_(
    anew: Annotated[
        bool, typer.Option("--anew", help="Rebuild it completely; the old one is used until then.")
    ] = False,
    meaning: Annotated[bool, typer.Option(help="Compute vectors too; the encoder (104 MB) is fetched once.")] = True,
) -> None:
    """Update the search index, words and vectors."""
    from paperlab.site.commands import search as command

    typer.echo(command.index(rebuild=anew, meaning=meaning))


@commands.command()
def show(
    slug: Annotated[
        str,
        typer.Argument(
            metavar="SLUG", autocompletion=complete.papers, help="A paper's slug or arXiv id, or a method's slug."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Print all about a paper: claims, checks, verdicts, use."""
    from paperlab.cli import show as page

    about = page.about(slug)
    if as_json:
        from paperlab.cli.text import write_json

        return write_json([about])
    typer.echo(page.page(about))


@commands.command()
def methods(family: Family = None, as_json: Json = False) -> None:
    """List the methods, baselines included, with their parameters."""
    from paperlab.cli import text
    from paperlab.core.methods import methods as cards
    from paperlab.core.methods import parameters
    from paperlab.core.signature import show

    known = cards()
    families = tuple(sorted({method.card.family for method in known.values()}))
    family = one_of(family, "family with methods", families)
    rows: list[dict[str, Any]] = [
        {
            "slug": method.slug,
            "family": method.card.family,
            "paper": method.card.paper,
            "baseline": method.card.paper is None,
            "verb": method.verb,
            "verbs": list(method.verbs),
            "says": method.says,
            "parameters": [
                {"name": p.name, "allowed": p.allowed, "choices": list(p.choices), "default": p.default}
                for p in parameters(method)
            ],
            "checks": [check.claim for check in method.card.checks],
        }
        for method in known.values()
        if family in (None, method.card.family)
    ]
    if as_json:
        return text.write_json(rows)
    for row in rows:
        params = " ".join(f"{p['name']}={show(p['default'])}" for p in row["parameters"])
        typer.echo(text.wrap(row["says"], "    ", first=f"{row['slug']}  ({row['family']}) "))
        if params:
            typer.echo(text.wrap(params, "    "))
