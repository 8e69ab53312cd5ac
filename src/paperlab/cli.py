"""The command line. Commands are thin: each imports the room that does the work inside its function."""

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from paperlab.core.paper import Paper

SITE = (
    "django",
    "feedparser",
    "defusedxml",
    "filelock",
    "httpx2",
    "markdown_it",
    "nh3",
    "ninja",
    "psycopg",
    "uvicorn",
)  # what only the extra `site` brings
SERVE = ("prometheus_client", "starlette")  # and the extra `serve`
UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer carries its own click, which is private


class Misuse(ValueError):
    """A word on the command line that is not one of those allowed; the message names them."""


def _fail(message: str, code: int) -> typer.Exit:
    """Say what was wrong, in one line on standard error, and leave with `code`."""
    typer.echo(f"paperlab: {' '.join(message.split())}", err=True)
    return typer.Exit(code)


def _is_message(error: Exception) -> bool:
    """Whether an error was raised by paperlab to be read by its user; any other one is a fault and keeps its trace."""
    if isinstance(error, KeyError | IndexError | UnicodeError):
        return False
    if type(error).__module__.partition(".")[0] == "paperlab":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    return type(error) in (ValueError, LookupError, RuntimeError) and frames[-1].filename.startswith(ours)


class _Group(TyperGroup):
    """Turns errors that are meant for the user into one line and an exit code: 2 for theirs, 1 for the machine's."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            at = getattr(error, "ctx", None) or ctx
            said = error.format_message().rstrip(".")  # type: ignore[attr-defined]
            raise _fail(f"{said}; `{at.command_path} --help` shows what there is", 2) from error
        except KeyboardInterrupt:
            raise _fail("interrupted; a run is continued by the same command with --resume", 130) from None
        except BrokenPipeError:
            raise
        except (ValueError, LookupError, RuntimeError) as error:
            if os.environ.get("PAPERLAB_TRACEBACK") or not _is_message(error):
                raise
            raise _fail(str(error), 2) from error
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] == "paperlab":
                raise
            missing = error.name.partition(".")[0]
            extra = "site" if missing in SITE else "serve" if missing in SERVE else "lab"
            said = f"this needs {error.name}, which is not installed: pip install 'paperlab[{extra}]'"
            raise _fail(said, 2) from error
        except OSError as error:
            if os.environ.get("PAPERLAB_TRACEBACK"):
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise _fail(f"{where}{error.strerror or error}", 1) from error


app = typer.Typer(
    cls=_Group,
    name="paperlab",
    help="Daily Papers you can run: follow papers, check their claims here, use their methods on your model.",
    epilog="A word on any command: paperlab COMMAND --help. Data lives in PAPERLAB_HOME.",
    rich_markup_mode=None,  # rich costs more to import than the whole listing
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON array of objects and nothing else.")]
Family = Annotated[str | None, typer.Option(metavar="FAMILY", help="Only this family, e.g. quantization.")]


def _version(asked: bool) -> None:
    if asked:
        import paperlab

        typer.echo(f"paperlab {paperlab.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _one_of(value: str | None, what: str, allowed: tuple[str, ...]) -> str | None:
    """`value` as it is written in `allowed`, ignoring case and "_". Raises Misuse with near names."""
    if value is None:
        return None
    plain = value.strip().lower().replace("_", "-").replace(" ", "-")
    for word in allowed:
        if word.replace("_", "-").replace(" ", "-") == plain:
            return word
    import difflib

    near = difflib.get_close_matches(plain, allowed, n=3, cutoff=0.5) or allowed
    raise Misuse(f"no {what} {value!r}; one of: {', '.join(near)}")


def _paper_row(paper: "Paper") -> dict[str, Any]:
    """What listings tell of a paper; `verdict` is the one word over its claims, `verdicts` each current one."""
    from dataclasses import asdict

    from paperlab.core.standing import count, of_paper, one_word

    counted = count(paper.slug)
    return {
        "slug": paper.slug,
        "title": paper.title,
        "arxiv": paper.arxiv,
        "year": paper.year,
        "kind": paper.kind,
        "family": paper.family,
        "method": paper.method,
        "code": paper.code,
        "runnable": bool(_checked(paper.slug)),
        "verdict": one_word(counted),
        "counts": counted,
        "verdicts": [asdict(row) for row in of_paper(paper.slug)],
    }


def _checked(slug: str) -> list[str]:
    """The method files whose checks test this paper."""
    from paperlab.core.card import methods

    return [method.slug for method in methods().values() if method.card.paper == slug and method.card.checks]


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    from paperlab import cli_text as text

    if as_json:
        return text.write_json(rows)
    from paperlab.core.verdict import summary

    cells = [
        [
            r["slug"],
            str(r["year"]),
            r["family"],
            summary(r["counts"]) or ("not run" if r["runnable"] else "-"),
            r["title"],
        ]
        for r in rows
    ]
    typer.echo(text.table(["slug", "year", "family", "verdict", "title"], cells, fit=text.width()))
    typer.echo(f"{len(rows)} papers; `paperlab show SLUG` tells more", err=True)


@app.command()
def papers(
    family: Family = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only this kind, e.g. method or study.")] = None,
    year: Annotated[int | None, typer.Option(metavar="YEAR", help="Only this year.")] = None,
    runnable: Annotated[bool, typer.Option("--runnable", help="Only papers with a check.")] = False,
    verdict: Annotated[str | None, typer.Option(metavar="WORD", help="Only papers with this verdict.")] = None,
    as_json: Json = False,
) -> None:
    """List the catalogue: papers, and what their checks said here."""
    from paperlab.core.paper import FAMILIES, KINDS
    from paperlab.core.paper import papers as catalogue
    from paperlab.core.standing import MIXED, NOT_RUN
    from paperlab.core.verdict import WORDS

    family, kind = _one_of(family, "family", FAMILIES), _one_of(kind, "kind", KINDS)
    verdict = _one_of(verdict, "verdict", (*WORDS, MIXED, NOT_RUN))
    wanted = {"family": family, "kind": kind, "year": year}
    chosen = [p for p in catalogue().values() if all(v is None or getattr(p, k) == v for k, v in wanted.items())]
    rows = [_paper_row(paper) for paper in chosen]
    if runnable:
        rows = [row for row in rows if row["runnable"]]
    if verdict == NOT_RUN:
        rows = [row for row in rows if row["runnable"] and not row["verdicts"]]
    elif verdict is not None:
        rows = [row for row in rows if verdict in (row["verdict"], *row["counts"])]
    _list(rows, as_json)


@app.command()
def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS", help='Words, "a phrase", a title, a slug, an arXiv id; filters do without.'),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(metavar="FAMILY", help="Only this family; may be repeated.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this arXiv category, e.g. cs.CL or cs.")
    ] = None,
    year: Annotated[str | None, typer.Option(metavar="YEARS", help="2024, 2020-2024, 2020- or -2020.")] = None,
    author: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Part of an author's name.")] = None,
    code: Annotated[bool, typer.Option("--code", help="Only papers with code.")] = False,
    runnable: Annotated[bool, typer.Option("--runnable", help="Only papers with a check.")] = False,
    verdict: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Only papers with this verdict.")] = None,
    sort: Annotated[str, typer.Option(metavar="ORDER", help="relevance, date or trending.")] = "relevance",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="At most so many papers.")] = 20,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say for each paper why it stands where it stands.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find papers by words and by meaning, ours and those fetched."""
    from paperlab.site import finding

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
    results, rows = finding.find(params)
    if as_json:
        from paperlab.cli_text import write_json

        return write_json(rows)
    _tell_found(results, rows, explain)


def _tell_found(results: Any, rows: list[dict[str, Any]], explain: bool) -> None:
    """The papers found, one line each, or with the reasons; what else is to say on standard error."""
    from paperlab import cli_text as text

    if results.suggestion:
        typer.echo(f"looked for: {results.suggestion}", err=True)
    for note in results.notes:
        typer.echo(note, err=True)
    if not rows:
        typer.echo("nothing found; fewer words or filters find more, `paperlab papers` lists all", err=True)
        return
    if not explain:
        cells = [
            [row["id"], str(row["year"] or ""), row["family"], row["verdict"] or "-", row["title"]] for row in rows
        ]
        typer.echo(text.table(["id", "year", "family", "verdict", "title"], cells, fit=text.width()))
    for place, row in enumerate(rows if explain else [], 1):
        typer.echo(text.wrap(row["title"], "    ", first=f"{place:>3} {row['id']}  "))
        typer.echo(f"    {row['score']:.4f}: {row['why']}")
        if row["snippet"]:
            typer.echo(text.wrap(row["snippet"], "    ", first="    "))
    typer.echo(f"{len(rows)} of {results.total:,} papers, {1000 * results.seconds:.0f} ms", err=True)


@app.command("index")
def index_(
    anew: Annotated[
        bool, typer.Option("--anew", help="Build it from nothing; the old one answers until then.")
    ] = False,
    meaning: Annotated[bool, typer.Option(help="Vectors too; the encoder is fetched once, 104 MB.")] = True,
) -> None:
    """Bring the search index up to the store, words and vectors."""
    from paperlab.site import finding

    typer.echo(finding.index(anew=anew, meaning=meaning))


@app.command()
def show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="A paper's slug or arXiv id, or a method's slug.")],
    as_json: Json = False,
) -> None:
    """Tell all about a paper: claims, checks, verdicts, use."""
    from paperlab import cli_show

    about = cli_show.about(slug)
    if as_json:
        from paperlab.cli_text import write_json

        return write_json([about])
    typer.echo(cli_show.page(about))


@app.command()
def methods(family: Family = None, as_json: Json = False) -> None:
    """List the methods, baselines included, with their parameters."""
    from paperlab import cli_text as text
    from paperlab.core.card import methods as cards
    from paperlab.core.signature import parameters, show

    known = cards()
    families = tuple(sorted({method.card.family for method in known.values()}))
    family = _one_of(family, "family with methods", families)
    rows: list[dict[str, Any]] = [
        {
            "slug": method.slug,
            "family": method.card.family,
            "paper": method.card.paper,
            "baseline": method.card.paper is None,
            "verb": method.verb,
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


@app.command()
def pack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a registered name or a hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    bits: Annotated[int, typer.Option(metavar="N", help="Bits per weight: 8, 4, 3 or 2.")] = 8,
    group: Annotated[int, typer.Option(metavar="N", help="Columns to a scale; 0 takes whole rows.")] = 64,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="A minimum per group beside its scale.")] = False,
    keep: Annotated[float, typer.Option(metavar="PART", help="Keep the largest part of each row, 0.5 say.")] = 1.0,
    pattern: Annotated[
        Literal["unstructured", "2:4"], typer.Option(metavar="unstructured|2:4", help="Which weights may be left out.")
    ] = "unstructured",
    outliers: Annotated[float, typer.Option(metavar="PART", help="Keep so many weights exactly, 0.005 say.")] = 0.0,
    rank: Annotated[int, typer.Option(metavar="N", help="Add a low-rank part for what the codes lose.")] = 0,
    codebook: Annotated[
        int, typer.Option(metavar="N", help="A k-means table; so many weights to a code: 1, 2, 4.")
    ] = 0,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="JSON: a layout per name pattern.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="SLUG", help="A paper's quantizer; what it leaves alone stays as it is.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of --method.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A text file or name, for a --method that looks at data.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a model in few bits or sparse, for the CPU engine."""
    from paperlab import cli_engine
    from paperlab.engine import Layout

    if method:
        import tempfile

        with tempfile.TemporaryDirectory() as between:
            layouts = cli_engine.read_recipe(recipe) if recipe else [("*", Layout(16))]
            given = cli_engine.by_method(model, method, settings or [], data, Path(between))
            report = cli_engine.pack(between, out, layouts, given)
    else:
        plain = [("*", Layout(bits, group or "row", not asymmetric, keep, pattern, outliers, rank, codebook))]
        report = cli_engine.pack(model, out, cli_engine.read_recipe(recipe) if recipe else plain)
    if as_json:
        from paperlab.cli_text import write_json

        return write_json([{"out": str(out), **report}])
    size = report["bytes"] / 1e6
    typer.echo(f"{out}: {size:.1f} MB, {report['bits_per_weight']:.3f} bits per weight of {report['weights']:,}")


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder (packed or not), a .gguf file, a registered name, a hub id."),
    ],
    to: Annotated[
        Literal["hf", "compressed-tensors", "gguf"],
        typer.Option(metavar="hf|compressed-tensors|gguf", help="For transformers; for vLLM; for llama.cpp."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The folder, or the .gguf file, to write.")],
    bits: Annotated[int | None, typer.Option(metavar="N", help="Quantize on the way: 8, 4, 3 or 2 bits.")] = None,
    group: Annotated[
        int | None, typer.Option(metavar="N", help="Columns to a scale; 0: whole rows. Without it 64, in GGUF 32.")
    ] = None,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="A minimum per group beside its scale.")] = False,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="JSON: a layout per name pattern.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="SLUG", help="A paper's quantizer; what it leaves alone stays as it is.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of --method.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A text file or name, for a --method that looks at data.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--type", metavar="TYPE", help="Of floats: F32, F16, BF16; for GGUF also Q8_0, Q4_0, Q4_1."),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Round codes again that GGUF has no block for.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a model for other runtimes: transformers, vLLM, llama.cpp."""
    from paperlab import cli_engine
    from paperlab.engine import Layout

    layouts = cli_engine.read_recipe(recipe) if recipe else None
    if bits:
        if recipe or method:
            raise Misuse("--bits quantizes every matrix alike; give it, or --recipe, or --method")
        columns = (32 if to == "gguf" else 64) if group is None else group
        layouts = [("*", Layout(bits, columns or "row", not asymmetric))]
    elif group is not None or asymmetric:
        raise Misuse("--group and --asymmetric say how --bits are grouped; give --bits too")
    more: dict[str, Any] = {"recipe": layouts, "dtype": dtype, "requantize": requantize}
    if method:
        import tempfile

        with tempfile.TemporaryDirectory() as between:
            given = cli_engine.by_method(model, method, settings or [], data, Path(between))
            report = cli_engine.export(between, out, to, given=given, **more)
    else:
        report = cli_engine.export(model, out, to, **more)
    if as_json:
        from paperlab.cli_text import write_json

        return write_json([{"out": str(out), **report}])
    typer.echo(f"{out}: {report['bytes'] / 1e6:.1f} MB, {report['tensors']} tensors")
    for note in report["notes"]:
        typer.echo(f"  {note}")


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file, a registered name, a hub id.")],
    bits: Annotated[int | None, typer.Option(metavar="N", help="Round float weights: 8, 4, 3 or 2 bits.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="As many threads; one per core.")] = None,
    temperature: Annotated[float, typer.Option(metavar="T", min=0, help="0 takes the likeliest word.")] = 0.7,
    top_p: Annotated[float, typer.Option(metavar="P", min=0, max=1, help="Draw from this much probability.")] = 0.9,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed says the same.")] = 0,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="The longest answer.")] = 512,
    cache_bits: Annotated[int, typer.Option(metavar="N", help="Keys and values in 32, 16, 8 or 4 bits.")] = 16,
) -> None:
    """Talk with a language model on the CPU engine; an empty line leaves."""
    from paperlab import cli_engine
    from paperlab.engine import load
    from paperlab.engine.language import LanguageModel

    loaded = load(cli_engine.place(model), bits=bits, threads=threads)
    if not isinstance(loaded, LanguageModel):
        raise Misuse(f"{model} is an encoder of texts; chat takes a language model")
    options = {
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "max_tokens": max_tokens,
        "cache_bits": cache_bits,
    }
    cli_engine.chat(loaded, options)


@app.command()
def run(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The paper or method whose checks to run.")],
    claim: Annotated[str | None, typer.Option(metavar="NAME", help="Only the check of this name.")] = None,
    scale: Annotated[
        Literal["quick", "full"], typer.Option(metavar="quick|full", help="quick: minutes; full: up to half an hour.")
    ] = "quick",
    model: Annotated[
        str | None, typer.Option(metavar="DIR|ID", help="A model folder or Hugging Face id instead of the defaults.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A text file, or a text by name, instead of the default.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter; give it once for each.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many seeds, where the task has seeds.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Run a paper's checks: its method beside its baseline."""
    from paperlab.core.card import find_method
    from paperlab.core.signature import parse

    method = find_method(_method_slug(slug))
    if not method.card.checks:
        raise Misuse(f"{method.slug} is a baseline: it has no checks of its own; `paperlab compare` shows it")
    claims = tuple(check.claim for check in method.card.checks)
    claim = _one_of(claim, f"claim of {method.slug}", claims)
    params = dict(parse(method, setting) for setting in settings or [])

    from paperlab import cli_run

    records = cli_run.run(
        method.slug, claim=claim, scale=scale, model=model, data=data, params=params, seeds=seeds, resume=resume
    )
    cli_run.tell(records, as_json=as_json)


def _method_slug(name: str) -> str:
    """The method file behind a method's slug, a paper's slug or an arXiv id. Raises LookupError saying what to do."""
    from paperlab.core.card import UnknownMethod, find_method

    try:
        return find_method(name).slug
    except UnknownMethod as unknown:
        from paperlab.core.paper import UnknownPaper, find_paper

        try:
            paper = find_paper(name)
        except UnknownPaper:
            raise unknown from None
        behind = _checked(paper.slug)
        if behind:
            return behind[0]
        why = paper.why_not or "its check is planned, not written"
        raise UnknownMethod(f"{paper.slug} cannot be run: {why}; `paperlab papers --runnable` lists what can") from None


@app.command()
def compare(
    what: Annotated[list[str], typer.Argument(metavar="FAMILY|SLUGS", help="A family, or methods by slug.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder for the page, the table and the plots.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare methods: quality against bytes and seconds."""
    from paperlab.core.card import methods as cards

    families = {method.card.family for method in cards().values()}
    names = [name if name.lower().replace("_", "-") in families else _method_slug(name) for name in what]

    from rich.console import Console

    from paperlab import cli_text as text
    from paperlab.lab.report import compare as draw

    # Without a terminal rich assumes 80 columns and folds; a file has room.
    console = Console(stderr=as_json, width=text.width() or 160, highlight=False)
    page = draw(list(dict.fromkeys(names)), out or _reports(), console=console)
    typer.echo(f"drawn in {page}", err=True)
    if as_json:
        text.write_json(text.read_csv(page.with_suffix(".csv")))


@app.command()
def report(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR|FILE", help="Folder, or the HTML file itself.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page over all records, and its plots."""
    from paperlab.cli_text import write_json
    from paperlab.lab.report import report as write

    page = write(out or _reports())
    if as_json:
        return write_json([{"page": str(page)}])
    typer.echo(page)


def _reports() -> Path:
    from paperlab.core.home import home

    return home() / "reports"


@app.command()
def fetch(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="daily, oai[:SET], arxiv:IDS, arxiv:QUERY, feed:ADDRESS."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="From this day, YYYY-MM-DD; else from where it stopped.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="Up to this day; else today.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch papers from outside: `daily` and `oai:cs` by default."""
    from paperlab.site import intake

    _tell_counts(intake.fetch(sources or [], since, until), as_json)


@app.command("serve-model")
def serve_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a .gguf file, a registered name, a hub id.")],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Whom to listen to: 0.0.0.0 is everybody; then set a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Where to listen; 0 takes a free one.")
    ] = 8080,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What requests call it; else its file's.")] = None,
    bits: Annotated[int | None, typer.Option(metavar="N", help="Round float weights: 8, 4, 3 or 2 bits.")] = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most tokens of a text, prompt included; else up to 4096.")
    ] = None,
    slots: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Texts that are written together.")] = 8,
    queue: Annotated[int, typer.Option(metavar="N", min=1, help="Texts that may wait; more get status 429.")] = 128,
    cache_bits: Annotated[int, typer.Option(metavar="N", help="Keys and values in 32, 16, 8 or 4 bits.")] = 16,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="As many threads; one per core.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="PAPERLAB_API_KEY",
            show_envvar=False,
            help="What clients must send; better by PAPERLAB_API_KEY, as others see a command's words.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="A site whose pages may call this server. Repeatable."),
    ] = None,
) -> None:
    """Serve a language model or an encoder to OpenAI's clients, on the CPU engine; ctrl-C stops it."""
    from paperlab import cli_engine

    cli_engine.serve(
        model,
        {"bits": bits, "threads": threads},
        {"name": name, "context": context, "slots": slots, "queue": queue, "cache_bits": cache_bits},
        {"host": host, "port": port, "key": api_key or None, "origins": allow_origin or ()},
    )


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The file, maybe compressed; - is standard input.")],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="listing, jsonl, json, arxiv-api, arxiv-oai or feed; else seen."),
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="DAY", help="When a page was saved: its dates without a year get that year.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import papers from a file: a saved listing, JSON, a feed."""
    from paperlab.site import intake

    _tell_counts(intake.read(file, form, date), as_json)


def _tell_counts(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print what reading did; a source that failed beside others makes the exit status 1."""
    from paperlab.cli_text import write_json
    from paperlab.site.intake import sentence

    if as_json:
        write_json(rows)
    for row in rows if len(rows) != 2 else rows[:1]:
        if not as_json or "error" in row:
            typer.echo(sentence(row), err="error" in row)
    if any("error" in row for row in rows):
        raise typer.Exit(1)


@app.command()
def up(
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Where to listen; 0 takes a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Whom to listen to: 0.0.0.0 is everybody.")
    ] = "127.0.0.1",
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="How many processes serve the site.")] = 1,
    public: Annotated[
        bool, typer.Option("--public", help="For others: first check what that needs, and say what is missing.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="With --public: only check.")] = False,
) -> None:
    """Start the site, its API and the worker; ctrl-C stops them."""
    from paperlab.site.up import up as start

    if check and not public:
        raise Misuse("--check looks at what a public site needs: give --public too")
    if public:
        from paperlab.site import public as fitness

        found = fitness.findings(host)
        for one in found:
            mark = "ok" if one.ok else "--" if one.needed else "? "
            typer.echo(f"{mark}  {one.name}: {one.said}{'; ' + one.advice if one.advice else ''}", err=not check)
        if any(one.needed and not one.ok for one in found):
            raise _fail("not fit for others yet; docs/howto/run_the_site.md says how", 2)
        if check:
            return

    start(host, port, workers, lambda said: typer.echo(said, err=True))


@app.command()
def digest(
    date: Annotated[str | None, typer.Option(metavar="DAY", help="Of this day, YYYY-MM-DD; else yesterday.")] = None,
    to_file: Annotated[
        Path | None, typer.Option("--to-file", metavar="DIR", help="Write the letters there; nothing is sent or noted.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count whom it would go to.")] = False,
    bounce: Annotated[
        bool, typer.Option("--bounce", help="Read a delivery report on standard input: write there no more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send the digests of a day that were not sent yet."""
    from paperlab.cli_text import write_json
    from paperlab.site.digest import command

    if bounce:
        import sys

        rows = command.bounced(sys.stdin.buffer.read(1_000_000))
        if as_json:
            return write_json(rows)
        for one in rows:
            typer.echo(f"{one['address']}: {'written to no more' if one['subscribed'] else 'was not subscribed'}")
        return
    row = command.run(date, to_file, dry_run)
    if as_json:
        return write_json([row])
    typer.echo(command.sentence(row, dry=dry_run))


@app.command()
def verify(as_json: Json = False) -> None:
    """Recompute every verdict from the samples of its record."""
    from paperlab.cli_text import write_json
    from paperlab.core import record, standing, verdict

    standing.refresh(record.records_folder())
    count, problems = verdict.verify()
    if as_json:
        write_json([{"problem": problem} for problem in problems])
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise _fail(f"{len(problems)} problems in {count} records", 1)
    typer.echo(f"{count} records: every verdict follows from its samples", err=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what this machine has, and what to install."""
    from paperlab import cli_text as text
    from paperlab.lab.doctor import findings

    rows = findings()
    if as_json:
        return text.write_json(rows)
    for row in rows:
        mark = {True: "ok", False: "--", None: "  "}[row["ok"]]
        typer.echo(text.wrap(row["value"], " " * 22, first=f"{mark}  {row['name']:<17} "))
        if row["advice"]:
            typer.echo(text.wrap(row["advice"], " " * 24, first=" " * 22 + "> "))


def main() -> None:
    """The `paperlab` program."""
    app(prog_name="paperlab")


if __name__ == "__main__":
    main()
