"""Schemas of the answers, for the OpenAPI document. Answers are plain dicts; a test compares them with these."""

from typing import Any

from ninja import Schema
from pydantic import ConfigDict, Field


class Open(Schema):
    """An object that may hold more than is told here."""

    model_config = ConfigDict(extra="allow")


class Author(Schema):
    """An author, named as on the paper."""

    name: str
    hidden: bool = False


class Facts(Open):
    """What paperlab knows beside the known shape. verdict: the word that its main claim has here on all models, or
    "mixed"; verdicts: on how many models it has which. revision: rises with every change of the store."""

    key: int
    revision: int
    arxiv: str | None
    version: int | None
    slug: str | None
    family: str | None
    kind: str | None
    method: str | None
    summary: str | None
    year: int | None
    venue: str | None
    updatedAt: str | None
    withdrawn: bool
    categories: list[str]
    authorCount: int | None
    comments: int | None
    code: str | None
    links: list[dict[str, Any]]
    runnable: bool
    verdict: str | None
    verdicts: dict[str, int]


class Paper(Open):
    """A paper. id: arXiv id, else slug, else "~" and a number. summary: the abstract. Facts that no source told are
    null or left out."""

    id: str = Field(examples=["2403.02775"])
    authors: list[Author]
    publishedAt: str | None = Field(examples=["2024-03-05T00:00:00.000Z"])
    title: str
    summary: str
    upvotes: int | None
    paperlab: Facts


class Listed(Open):
    """A place of a list: the paper, and its title, abstract, date and comments again, as the known API has them."""

    paper: Paper
    publishedAt: str | None
    title: str
    summary: str
    numComments: int | None


class Papers(Schema):
    """A page of the store. next_cursor: null on the last page, except with order=changed, where it says from where
    to ask again later."""

    papers: list[Paper]
    next_cursor: str | None = Field(examples=["p2024-03-05.17"])


class SearchAnswer(Schema):
    """An answer of search. total: papers that match; facets: how many by value; suggestion: the words, spelling
    mended; notes: what was left out and why."""

    hits: list[Listed]
    total: int
    facets: dict[str, dict[str, int]]
    suggestion: str
    notes: list[str]


class Verdict(Open):
    """What a record says about a claim, here. gain, low, high: relative, positive in the direction claimed. state:
    current, or why it no longer counts. adjusted_p, survives: after Holm over the claims of the paper."""

    id: str
    method: str
    paper: str | None
    claim: str
    role: str
    task: str
    model: str
    data: str | None
    scale: str
    status: str
    started: str
    word: str
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str
    state: str
    adjusted_p: float | None
    survives: bool | None
    says: str | None
    gap: str | None


class Verdicts(Schema):
    """Verdicts, oldest first."""

    verdicts: list[Verdict]
    next_cursor: str | None


class Record(Open):
    """One execution of one check: arms, samples (null unless asked for), packages, machine, command;
    and its verdict."""

    id: str
    method: str
    paper: str | None
    task: str
    metric: str
    model: str
    scale: str
    seeds: list[int]
    status: str
    started: str
    finished: str
    machine: str
    command: str
    arms: list[dict[str, Any]]
    verdict: Verdict | None


class Records(Schema):
    """Records without their samples, oldest first."""

    records: list[Record]


class Count(Schema):
    """Numbers of one family, or of all."""

    papers: dict[str, int]
    claims: dict[str, int]
    verdicts: dict[str, int]


class Coverage(Schema):
    """How far the catalogue is checked. claims: written, tried, finished, held (every current verdict is "holds")."""

    families: dict[str, Count]
    total: Count
    unreadable: list[str]


class Wrong(Schema):
    """What is wrong with one parameter."""

    parameter: str
    detail: str


class ProblemAnswer(Open):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["limit: expected a number from 1 to 100"])
    errors: list[Wrong] = Field([])
