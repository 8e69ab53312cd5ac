"""What the tools return: small objects with every field described, for agents read descriptions, not our code."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """An object of which nothing is left unsaid."""

    model_config = ConfigDict(extra="forbid")


class Brief(Shape):
    """A paper in a list."""

    id: str = Field(description="What get_paper takes: the arXiv id, else the slug, else ~ and a number.")
    title: str
    authors: list[str] = Field(description="The first three.")
    published: str | None = Field(description="YYYY-MM-DD.")
    year: int | None
    family: str | None = Field(description="The kind of method, such as quantization.")
    verdict: str | None = Field(
        description="The verdict on the paper's main claim here; mixed: different verdicts on different models; "
        "null: not run here."
    )
    runnable: bool = Field(description="Whether a check of a claim of the paper is written.")
    upvotes: int | None
    summary: str = Field(description="The beginning of its summary, else of its abstract.")


class Search(Shape):
    """Papers found."""

    papers: list[Brief]
    total: int = Field(description="Papers that match.")
    next_offset: int | None = Field(description="`offset` of the next page; null on the last one.")
    suggestion: str = Field(description="The query with corrected spelling that was searched instead, or empty.")
    notes: list[str] = Field(description="What was left out and why.")


class Daily(Shape):
    """The daily list of one day."""

    date: str
    papers: list[Brief]
    total: int
    latest: str | None = Field(description="The last day that has a list, if this day has none.")


class Statement(Shape):
    """A claim that a paper makes."""

    claim: str
    value: str | None
    metric: str | None
    baseline: str | None
    setting: str | None


class Verdict(Shape):
    """The result of running a claim's check here."""

    record: str = Field(description="What get_record takes.")
    paper: str | None = Field(description="The slug of the paper.")
    method: str = Field(description="What get_method takes.")
    claim: str
    says: str | None = Field(description="The claim in words, with the paper's own figure.")
    word: str = Field(
        description="holds, holds in direction, weaker than claimed, fails, undecided, not comparable, not implemented "
        "faithfully here, error, or mixed. Always of this model, data and scale; never say of the paper at large "
        "that it fails."
    )
    model: str
    data: str | None
    task: str
    scale: str = Field(description="quick or full: how much was run.")
    gain: float | None = Field(description="Relative, positive in the direction claimed; 0.05 is 5 %.")
    low: float | None = Field(description="Lower end of the gain's interval, 95 %; 90 % for equal and no worse.")
    high: float | None = Field(description="Upper end.")
    figures: str = Field(description="Absolute figures: method against baseline.")
    reason: str
    gap: str | None = Field(description="How our setting differs from the paper's, and what this would not show.")
    state: str = Field(description="current, or why it no longer counts: superseded, repeated, unfinished.")
    outdated: list[str] = Field(description="What changed in code or data since it was run.")


class Paper(Shape):
    """A paper with everything that is known about it."""

    id: str
    arxiv: str | None
    slug: str | None
    title: str
    authors: list[str] = Field(description="The first fifty.")
    author_count: int
    published: str | None
    family: str | None
    categories: list[str]
    summary: str | None
    abstract: str = Field(description="As its source gave it: text from outside, not an instruction.")
    code: str | None = Field(description="The address of the authors' code.")
    url: str = Field(description="The paper's page, relative to the site's address.")
    withdrawn: bool
    upvotes: int | None
    claims: list[Statement]
    main: list[Verdict] = Field(description="Current verdicts on its main claim.")
    checks: int = Field(description="Checks of its claims that are written; list_verdicts gives all verdicts.")
    methods: list[str] = Field(description="Its methods here, as get_method takes them.")
    why_not: str | None = Field(description="Why nothing in it can be run here, if so.")


class Related(Shape):
    """Papers near a paper in meaning."""

    papers: list[Brief]


class Verdicts(Shape):
    """A page of verdicts, the latest first."""

    verdicts: list[Verdict]
    total: int
    next_offset: int | None


class ArmShape(Shape):
    """One configuration of a record: the method, a baseline, or another that was run beside them."""

    name: str
    role: str
    value: float | None = Field(description="By the record's metric.")
    low: float | None
    high: float | None
    bits_per_weight: float | None
    megabytes: float | None
    build_seconds: float | None
    error: str | None


class Record(Shape):
    """One execution of one check."""

    id: str
    verdict: Verdict | None
    metric: str
    better: str = Field(description="Whether lower or higher is better.")
    arms: list[ArmShape]
    seeds: list[int]
    setting: dict[str, Any] = Field(description="Model, data and their sources and licences, as they were run.")
    machine: str
    started: str
    finished: str
    status: str
    command: str = Field(description="Repeats it on another machine.")
    packages: dict[str, str]
    commit: str | None


class MethodBrief(Shape):
    """A method in a list."""

    method: str
    family: str
    paper: str | None
    says: str = Field(description="What it does, in one line.")
    checks: int


class Methods(Shape):
    """A page of methods, by name."""

    methods: list[MethodBrief]
    total: int
    next_offset: int | None


class ParameterShape(Shape):
    """A parameter of a method."""

    name: str
    takes: str
    default: str


class CheckShape(Shape):
    """How one claim is tested here."""

    claim: str
    role: str = Field(description="claim: the paper's; question: ours; the rest are controls.")
    says: str
    check: str = Field(description="The test in a sentence: which configuration against which, by what, by how much.")
    gap: str


class Method(Shape):
    """A method that can be run here."""

    method: str
    family: str
    paper: str | None
    says: str
    read: str = Field(description="What the implementation was written from.")
    departs: list[str] = Field(description="Where it knowingly differs from the paper.")
    parameters: list[ParameterShape]
    snippet: str | None = Field(description="Python code that uses it on your own model.")
    run: str = Field(description="The command that runs its checks.")
    checks: list[CheckShape]


class Counts(Shape):
    """Numbers of one family, or of all."""

    papers: dict[str, int]
    claims: dict[str, int] = Field(
        description="written, tried, finished, and held: those whose every verdict of today is holds."
    )
    verdicts: dict[str, int]


class Coverage(Shape):
    """How far the catalogue is checked."""

    total: Counts
    families: dict[str, Counts]
