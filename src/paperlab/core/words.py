"""Figures and checks as people read them, the same in the terminal, the report and on the site."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from paperlab.core.card import Card, Check

# Every verdict of the closed list: short word for CSS, a sign that repeats the colour, what it means.
SIGNS = {
    "holds": ("holds", "✓", "the whole interval of the gain is beyond the margin; for equivalence, within it"),
    "holds in direction": ("direction", "↗", "the whole interval is above zero, but it includes the margin"),
    "weaker than claimed": ("weaker", "↘", "the whole interval is above zero, but below the margin"),
    "fails": ("fails", "✗", "the whole interval is below zero; for equivalence, outside the margin"),
    "undecided": (
        "undecided",
        "?",
        "inconclusive: the interval includes zero and the margin, or the gain is too small or too uncertain to decide",
    ),
    "not comparable": (
        "apart",
        "≠",
        "what should be equal is not, or the check cannot tell a good method from a bad one",
    ),
    "not implemented faithfully here": ("unfaithful", "⊘", "our implementation failed a sanity check"),
    "error": ("error", "!", "the run ended in an error"),
    "mixed": ("mixed", "±", "models, runs or claims have different verdicts"),
}


def outdated(changes: Sequence[str]) -> str:
    """What changed since a verdict was made, in a few words: "outdated: kit/gptq.py changed since"; "" for nothing."""
    if not changes:
        return ""
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    since = " since" if changes[0].endswith("changed") and not more else ""
    return f"outdated: {changes[0]}{since}{more}"


def clean(text: object) -> str:
    """Text from a record without control characters: XML forbids them, and a terminal would obey them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", str(text))


def number(value: float) -> str:
    """Four significant digits, no exponent between 0.0001 and a million: 23.41, 0.0312, 18,204, 1.2e+07."""
    if value != value:
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("-", "−") if abs(value) != float("inf") else ("∞" if value > 0 else "−∞")
    digits = max(0, 3 - _exponent(value))
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(value: float, sign: bool = True) -> str:
    """A relative gain as a signed percentage: +3.1 %, −0.04 %, ±0 %."""
    if value != value:
        return "–"
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "−∞"
    hundred = value * 100
    if hundred == 0:
        return "±0 %" if sign else "0 %"
    digits = 0 if abs(hundred) >= 99.95 else 1 if abs(hundred) >= 0.95 else 2 if abs(hundred) >= 0.095 else 3
    return f"{hundred:{'+' if sign else ''},.{digits}f} %".replace("-", "−")


def megabytes(count: float | None) -> str:
    """Bytes in units of a million; a dash where unknown."""
    return "–" if count is None or count != count else f"{number(count / 1e6)}"


def seconds(value: float) -> str:
    """Short and readable: 0.42, 12.3, 184; a dash where none was measured."""
    if value != value:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def span(low: float, high: float, write: Any = number) -> str:
    """An interval: [1.2, 3.4]; empty where there is none."""
    return "" if low != low or high != high else f"[{write(low)}, {write(high)}]"


def columns_that_fit(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    drop: Sequence[str],
    flexible: int,
    gap: int = 2,
) -> list[int]:
    """Which columns of a table to show in `width` characters, by index: all, or all but the first few of `drop`.

    drop: headers in the order in which they go. flexible: index of the column that may be cut or folded down to 16
    characters. gap: characters between columns. What is left may still be too wide.
    """
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    widths[flexible] = min(16, widths[flexible])
    kept = list(range(len(headers)))
    for name in drop:
        if sum(widths[i] for i in kept) + gap * (len(kept) - 1) <= width:
            break
        kept = [i for i in kept if headers[i] != name]
    return kept


def distinguishing(places: Sequence[Sequence[str]]) -> list[str]:
    """Each place by its first part and what is not the same for all: "abstracts-lm · quick". All have as many parts."""
    differing = [i for i, part in enumerate(zip(*places, strict=True)) if i == 0 or len(set(part)) > 1]
    return [" · ".join(place[i] for i in differing if place[i]) for place in places]


def what_was_read(card: Card) -> str:
    """What a method file was written from, as a sentence; "" where its card does not say."""
    if card.abstract_only:
        return (
            "Written from the paper's abstract alone: what differs may be our reading of it, so no verdict here says "
            "that it fails."
        )
    names = {"paper": "the paper", "code": "the authors' code", "abstract": "the abstract"}
    read = " and ".join(names[source] for source in card.sources)
    if not read:
        return ""
    return f"Written from {read}{f'; the setting follows {card.configuration}' if card.configuration else ''}."


def figures(row: Mapping[str, Any]) -> str:
    """The absolute figures of a verdict's row: "perplexity 33.1 against 34.0 (original 31.6)"; "" where it has none."""
    ours, theirs, original = (row[f"{name}_value"] for name in ("method", "baseline", "original"))
    if ours is None and theirs is None:
        return ""
    ours, theirs = ("not finite" if value is None else number(value) for value in (ours, theirs))
    said = f"{row['metric'].replace('_', ' ')} {ours} against {theirs}"
    return f"{said} (original {number(original)})" if original is not None else said


def check_sentence(check: Check, metric: str) -> str:
    """The check in one sentence: which arm, against which, by what, by how much, what is equal."""
    against = str(check.baseline)
    if check.rivals:
        against = f"the strongest of {', '.join(map(str, (check.baseline, *check.rivals)))}"
    if check.expect == "no worse":
        body = f"the {metric} of {check.method} should be no more than {_hundredths(check.margin)} worse than that of "
        body += against
    elif check.expect == "equal":
        body = f"the {metric} of {check.method} should be within ±{_hundredths(check.margin)} of {against}"
    else:
        how = "below" if check.expect == "lower" else "above"
        body = f"the {metric} of {check.method} should be {how} that of {against}"
        body += f" by at least {_hundredths(check.margin)}" if check.margin else ""
    equal = ", ".join(f"{name.replace('_', ' ')} (±{_hundredths(share)})" for name, share in check.equal.items())
    later = f"; judged from {check.least_scale} scale on" if check.least_scale else ""
    return f"{body}{f', at equal {equal}' if equal else ''}{later}."


def _hundredths(share: float) -> str:
    """A margin as it stands in the card: 2 %, 0.5 %."""
    return f"{share * 100:g} %"


def _exponent(value: float) -> int:
    return int(f"{abs(value):.3e}".split("e")[1])
