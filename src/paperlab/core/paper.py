"""Papers: the catalogue's rows, and how to find one by its name."""

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache

from paperlab.core.home import BUNDLED

CATALOGUE = BUNDLED / "catalogue.jsonl"

KINDS = ("method", "study", "survey", "dataset", "benchmark", "model", "toolkit", "theory")

FAMILIES = ("alignment", "application", "architecture", "asr", "attention", "code", "codec", "data", "decoding",
            "distillation", "elastic", "embedding", "inference-systems", "interpretability", "loss", "low-rank",
            "merging", "moe", "multimodal", "optimisation", "pruning", "quantization", "speculative",
            "speech-representation", "speech-understanding", "theory", "tokenization", "tts", "vision")  # fmt: skip


class UnknownPaper(LookupError):
    """No paper of that slug or arXiv id; the message suggests the nearest ones."""


@dataclass(frozen=True)
class Claim:
    """One headline of a paper, in our words, with the paper's own figure where it gives one."""

    claim: str
    metric: str | None
    value: str | None
    baseline: str | None
    setting: str


@dataclass(frozen=True)
class Plan:
    """The smallest honest experiment that would test the direction of the paper's main claim.

    effort: S, M or L. needs: models and data beyond what every task brings along.
    """

    task: str
    experiment: str
    metric: str
    expect: str
    effort: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """A row of the catalogue. Either `plan` is given, or `why_not` says why there is nothing to run.

    authors: as the paper names them, in order; empty where they could not be looked up. month: of the first version,
    1-12, in `year`. venue: where it was published, with the year ("ACL 2022"); None for a preprint or where unknown.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    arxiv: str
    year: int
    month: int | None
    venue: str | None
    code: str | None
    kind: str
    family: str
    method: str
    summary: str
    claims: tuple[Claim, ...]
    plan: Plan | None
    why_not: str | None


def _paper(row: dict[str, object]) -> Paper:
    claims = tuple(Claim(**claim) for claim in row.pop("claims"))  # type: ignore[attr-defined]
    plan = row.pop("plan")
    if isinstance(plan, dict):
        plan = Plan(**{**plan, "needs": tuple(plan["needs"])})
    authors = tuple(row.pop("authors"))  # type: ignore[arg-type,var-annotated]
    return Paper(**row, authors=authors, claims=claims, plan=plan)  # type: ignore[arg-type]


@cache
def papers() -> dict[str, Paper]:
    """The bundled catalogue by slug, sorted. Raises ValueError with the line of a row that cannot be read."""
    found: dict[str, Paper] = {}
    for number, line in enumerate(CATALOGUE.read_text(encoding="utf-8").splitlines(), 1):
        try:
            paper = _paper(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{CATALOGUE}:{number}: not a catalogue row: {error}") from error
        found[paper.slug] = paper
    return dict(sorted(found.items()))


_ARXIV = re.compile(r"(?:^|[/:\s]|arxiv\.)(\d{4}\.\d{4,5})(?:v\d+)?(?:\.pdf)?/?(?: *\[[a-z][a-z.-]*\].*)?$")


def arxiv_id(text: str) -> str | None:
    """The bare id in "2403.02775", "arXiv:2403.02775v2 [cs.CL]", a DOI or an address; None where there is none."""
    match = _ARXIV.search(text.strip().lower())
    return match[1] if match else None


def find_paper(name: str) -> Paper:
    """The paper with this slug ("_" and "-" are the same) or arXiv id. Raises UnknownPaper with near names."""
    known = papers()
    wanted = arxiv_id(name)
    if wanted is not None:
        same = [paper for paper in known.values() if paper.arxiv == wanted]
        if same:
            return same[0]
        raise UnknownPaper(f"no paper with arXiv id {wanted} in the catalogue; `paperlab search WORDS` finds by topic")
    slug = name.strip().replace("_", "-").lower()
    if slug in known:
        return known[slug]
    near = [other for other in known if slug in other] if len(slug) > 2 else []
    near += [other for other in difflib.get_close_matches(slug, known, n=3, cutoff=0.6) if other not in near]
    near = near[:3]
    hint = f"; did you mean {', '.join(near)}?" if near else "; `paperlab papers` lists them, `paperlab search` finds"
    raise UnknownPaper(f"no paper {name!r}{hint}")
