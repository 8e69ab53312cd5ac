"""Cards: what a method file states about itself, as literals, so that listing methods imports none of them."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

Scalar = str | int | float | bool | None
Source = Literal["paper", "code", "abstract"]
Role = Literal["claim", "question", "positive control", "negative control", "a/a control"]

WITHIN = ("equal", "no worse")  # what a check may expect besides a direction: its margin is how far off is allowed
SOURCES: tuple[Source, ...] = ("paper", "code", "abstract")


class CardError(ValueError):
    """A method file whose card is missing, not a literal, incomplete, or contradicts another."""


@dataclass(frozen=True, init=False)
class Arm:
    """A method with its parameters: one side of a comparison. Arm("gptq", bits=4) is Arm("gptq", {"bits": 4}).

    after: the arm whose result this one starts from: Arm("gptq", bits=4, after=Arm("wanda", sparsity=0.5)) quantizes
    the pruned model.
    """

    method: str
    params: dict[str, Scalar]
    after: "Arm | None"

    def __init__(
        self, method: str, params: dict[str, Scalar] | None = None, after: "Arm | None" = None, **named: Scalar
    ) -> None:
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "params", {**(params or {}), **named})
        object.__setattr__(self, "after", after)

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value}" for name, value in self.params.items())
        name = f"{self.method}({inside})" if inside else self.method
        return f"{name} after {self.after}" if self.after else name

    @property
    def chain(self) -> "tuple[Arm, ...]":
        """The arms in the order in which they are applied, this one last."""
        return (*(self.after.chain if self.after else ()), self)


@dataclass(frozen=True)
class Gate:
    """What must be true of the implementation before its check says anything about the paper.

    says: in words, e.g. "with no steps it is its starting point". method, baseline: arms that are run for it.
    expect: "equal" (their figures differ by at most `tolerance`, relative) or "better" (the method's is not worse).
    """

    says: str
    method: Arm
    baseline: Arm
    expect: Literal["equal", "better"] = "equal"
    tolerance: float = 0.0


# What a check must have, from itself or from its card.
_REQUIRED = ("task", "metric", "expect", "margin", "method", "baseline", "gap")
# Fields that came later: left out of the hash where they say nothing, so that older records keep the hash of their
# check.
_LATER = ("data", "trivial", "ablation", "gates", "rivals", "least_scale")


@dataclass(frozen=True)
class Check:
    """How one claim of a paper is tested here; committed before it is run.

    claim: short name, unique within the card. says: the claim and the paper's own figure, in our words.
    task, metric: where and by what it is judged; `also` maps further tasks to their metric.
    expect: the direction in which `method` should differ from `baseline`; "equal" asks for equivalence,
    "no worse" for non-inferiority (lossless, robust): both only mean something beside a `trivial` arm that fails.
    margin: relative. For lower/higher the least gain that counts; else the largest difference, or loss, allowed.
    equal: totals that must agree between the two arms, with the relative tolerance.
    beside: further arms, scored and shown but not part of the verdict. trivial: the plainest baseline; a method that
    is worse than it is shown as "likely ours". ablation: the method without its key idea.
    gates: what must be true of the implementation before there is a verdict.
    gap: the paper's setting next to ours, and what a pass here would not show.
    models: the task's default models, unless named here. data: the task's default data set, unless named here.
    role: "claim" is the paper's, "question" ours; the rest are controls (see `standings.control_ok`).
    least_scale: the smallest scale at which there is a verdict, where less training cannot show what is claimed (`gap`
    says why). Smaller ones give figures, and "undecided".
    rivals: other variants of the baseline: a claim that something is better is judged against the strongest of them.
    Those of plain baselines come from the family's table (`core.baselines`), and no card writes them.

    Whatever several checks of a card share stands once, in the card.
    """

    claim: str
    says: str = ""
    task: str = None  # type: ignore[assignment]  # this and the next: the card's, where a check does not say
    metric: str = None  # type: ignore[assignment]
    expect: Literal["lower", "higher", "equal", "no worse"] = None  # type: ignore[assignment]
    margin: float = None  # type: ignore[assignment]
    method: Arm = None  # type: ignore[assignment]
    baseline: Arm = None  # type: ignore[assignment]
    gap: str = None  # type: ignore[assignment]
    beside: tuple[Arm, ...] = ()
    equal: dict[str, float] = field(default_factory=dict)
    also: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    role: Role = "claim"
    data: str = ""
    trivial: Arm | None = None
    ablation: Arm | None = None
    gates: tuple[Gate, ...] = ()
    rivals: tuple[Arm, ...] = ()
    least_scale: Literal["", "full", "gpu"] = ""

    def completed(self, card: "Card") -> "Check":
        """The check with what its card says for all of them. Raises CardError naming what is missing."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in SHARED:
            shared = getattr(card, name)
            if shared is not None and (given[name] is None or given[name] in ((), {}, "")):
                given[name] = shared
        missing = [name for name in _REQUIRED if given[name] is None]
        if missing:
            raise CardError(f"check {self.claim!r} has no {', '.join(missing)}, and neither has its card")
        return Check(**given)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Method, baseline, then whatever else is run: rivals, those beside, trivial, ablation and the gates', each
        once."""
        more = [arm for arm in (self.trivial, self.ablation) if arm is not None]
        more += [arm for gate in self.gates for arm in (gate.method, gate.baseline)]
        arms = [self.method, self.baseline, *self.rivals]
        arms += _new(list(self.beside), arms) if self.rivals else self.beside
        return (*arms, *_new(more, arms))

    @property
    def tasks(self) -> dict[str, str]:
        """Each task on which the check runs, with the metric that decides there."""
        return {self.task: self.metric, **self.also}

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits over everything the check says: an edited check is another check."""
        return hashlib.sha256(json.dumps(plain(self), sort_keys=True).encode()).hexdigest()[:12]


def _new(arms: list[Arm], known: list[Arm]) -> list[Arm]:
    """Those of `arms` that are not in `known`, each once, in order."""
    found: list[Arm] = []
    for arm in arms:
        if arm not in known and arm not in found:
            found.append(arm)
    return found


def plain(check: Check) -> dict[str, Any]:
    """The check as JSON holds it, without what says nothing: later fields at their default, an empty `after`."""
    row = asdict(check)
    for name in _LATER:
        if not row[name]:
            del row[name]

    def tidy(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tidy(inside) for key, inside in value.items() if not (key == "after" and inside is None)}
        return [tidy(inside) for inside in value] if isinstance(value, list | tuple) else value

    return tidy(row)


@dataclass(frozen=True)
class Card:
    """The literal at the top of a method file.

    family: the folder it lives in. paper: the catalogue's slug, or None for a baseline.
    sources: what was read to write the file: "paper", "code" (the authors'), or only the "abstract", which is shown
    and makes no "fails" verdict. configuration: the released script, command or file whose setting is followed, as the
    authors' repository names it. verbs: the file's verbs, where more than one function or class bears a verb's name.
    departs: every way in which the file differs from the paper's algorithm.
    The rest: what all checks share unless they say otherwise (see `Check`).
    """

    family: str
    paper: str | None = None
    checks: tuple[Check, ...] = ()
    departs: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    configuration: str = ""
    verbs: tuple[str, ...] = ()
    task: str | None = None
    metric: str | None = None
    expect: Literal["lower", "higher", "equal", "no worse"] | None = None
    margin: float | None = None
    method: Arm | None = None
    baseline: Arm | None = None
    gap: str | None = None
    beside: tuple[Arm, ...] = ()
    equal: dict[str, float] = field(default_factory=dict)
    also: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    data: str = ""
    trivial: Arm | None = None
    ablation: Arm | None = None
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "checks", tuple(check.completed(self) for check in self.checks))
        claims = [check.claim for check in self.checks]
        if twice := {claim for claim in claims if claims.count(claim) > 1}:
            raise CardError(f"two checks are called {', '.join(sorted(twice))}")
        if unknown := set(self.sources) - set(SOURCES):
            raise CardError(f"sources are {', '.join(SOURCES)}, not {', '.join(sorted(unknown))}")

    @property
    def abstract_only(self) -> bool:
        """Whether nothing but the abstract was read."""
        return self.sources == ("abstract",)


SHARED = tuple(f.name for f in fields(Check) if f.name in Card.__dataclass_fields__)


def check_from(row: dict[str, Any]) -> Check:
    """A Check from its JSON form; its hash is the same as the card's."""
    given = dict(row)
    for name in ("method", "baseline", "trivial", "ablation"):
        if given.get(name):
            given[name] = arm_from(given[name])
    given["rivals"] = tuple(arm_from(arm) for arm in given.get("rivals", ()))
    given["beside"] = tuple(arm_from(arm) for arm in given["beside"])
    given["models"] = tuple(given["models"])
    given["gates"] = tuple(
        Gate(**{**gate, "method": arm_from(gate["method"]), "baseline": arm_from(gate["baseline"])})
        for gate in given.get("gates", ())
    )
    return Check(**{"data": "", **given})


def arm_from(row: dict[str, Any]) -> Arm:
    """An Arm from its JSON form; older records spell slugs with "_"."""
    return Arm(row["method"].replace("_", "-"), row["params"], arm_from(row["after"]) if row.get("after") else None)


def literal_words() -> dict[str, type]:
    """The names that a card is written with."""
    return {"Card": Card, "Check": Check, "Arm": Arm, "Gate": Gate}
