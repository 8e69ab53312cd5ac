"""The page of a compression: what was chosen and why, what it costs, what it gains."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from paperlab.core.charts import Chart, Spot, pareto
from paperlab.core.words import megabytes, number, percent, span
from paperlab.engine.measure import Measured
from paperlab.lab import pages
from paperlab.lab.compress.levels import DROPPED, SAYS
from paperlab.lab.compress.result import Figures

BROKEN = 1000.0  # per cent of rise, from which a model counts as broken


def charts(seen: Figures) -> Iterator[Chart]:
    """The rise of perplexity against bytes and against the time of a generated token."""
    rise = lambda one: 0.0 if one is seen.models[0] else 100 * one.change.value  # noqa: E731
    for cost, of in (("MB", lambda one: one.bytes / 1e6), ("ms per generated token", lambda one: 1e3 / one.generating)):
        at = [(float(of(one)), float(rise(one))) for one in seen.models]
        spots = [
            Spot(
                "original" if i == 0 else one.name.removeprefix("all at "),
                x,
                y,
                100 * float(one.change.low),
                100 * float(one.change.high),
                f"#model-{i}",
                i > 0 and not any(a <= x and b <= y and (a, b) != (x, y) for a, b in at[1:]),
                reference=i == 0,
                broken=y > BROKEN,
            )
            for i, (one, (x, y)) in enumerate(zip(seen.models, at, strict=True))
        ]
        drawn = pareto(spots, cost=cost, quality="rise of perplexity, %", better="lower")
        if drawn:
            yield drawn


def rows(seen: Figures) -> tuple[list[str], list[list[str]]]:
    """The table of all models."""
    headers = ["model", "MB", "bits/weight", "generated tok/s", "change", "perplexity", "KL, nats/token", "flips"]
    plain = lambda share: percent(share, sign=False)  # noqa: E731

    def row(one: Measured) -> list[str]:
        ends = lambda value, write: f"{write(value.value)} {span(value.low, value.high, write)}".strip()  # noqa: E731
        return [
            one.name, megabytes(one.bytes), number(one.bits_per_weight), f"{one.generating:,.0f}",
            ends(one.change, percent), ends(one.perplexity, number), ends(one.kl, number), ends(one.flips, plain),
        ]  # fmt: skip

    return headers, [row(one) for one in seen.models]


def grid(layers: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, list[dict[str, Any] | None]]]]:
    """The chosen levels as a table: a row for each block, a column for each kind of matrix; tables apart."""
    kinds: list[str] = []
    by_block: dict[str, dict[str, dict[str, Any]]] = {}
    for name, one in layers.items():
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        block, kind = ("", name) if place is None else (parts[place], ".".join(parts[place + 1 :]))
        if place is None:
            continue
        if kind not in kinds:
            kinds.append(kind)
        by_block.setdefault(block, {})[kind] = {**one, "name": name, "why": why(one)}
    return kinds, [(block, [found.get(kind) for kind in kinds]) for block, found in by_block.items()]


def why(one: Mapping[str, Any]) -> str:
    """Why a matrix has its level, in a sentence."""
    if one["level"] == DROPPED:
        return f"{SAYS[DROPPED]}: without it the others could have finer levels in the same bytes, which was nearer"
    if one["sensitivity"] is None:
        return f"{SAYS[one['level']]}: as the recipe says"
    return (
        f"{SAYS[one['level']]}; alone at its coarsest measured level it costs KL {number(one['sensitivity'])}, rank "
        f"{one['rank']}; at this level about {number(one['loss'])} for {one['bytes'] / 1e3:,.1f} kB"
    )


def page(said: Mapping[str, Any], seen: Figures, texts: Sequence[Mapping[str, str]], recovery: str | None) -> str:
    """The whole page, self-contained."""
    headers, table = rows(seen)
    kinds, blocks = grid(said["layers"])
    tables = [
        {"name": name, **one, "why": why(one)}
        for name, one in said["layers"].items()
        if not any(part.isdigit() for part in name.split("."))
    ]
    share: dict[str, int] = {}
    for one in said["layers"].values():
        share[one["level"]] = share.get(one["level"], 0) + 1
    inside = recovery[recovery.index("<svg") :] if recovery else None
    return pages.page(
        "compress.html",
        title=f"paperlab compress: {said['model']}",
        said=said,
        remarks=remarks(said, seen),
        headers=headers,
        rows=table,
        plots=[
            {"svg": Markup(chart.inline(f"plot-{i}")), "title": chart.title, "note": chart.note}
            for i, chart in enumerate(charts(seen))
        ],
        kinds=kinds,
        blocks=blocks,
        tables=tables,
        says=SAYS,
        share=[(SAYS[level], count) for level, count in sorted(share.items())],
        samples=texts,
        recovery=Markup(inside) if inside else None,
        seen=seen,
    )


def remarks(said: Mapping[str, Any], seen: Figures) -> list[str]:
    """What the figures do not say by themselves."""
    mine, source = seen.models[1], seen.models[0]
    out = [
        f"perplexity {number(mine.perplexity.value)}, the original's {number(source.perplexity.value)}: "
        f"{percent(mine.change.value)} {span(mine.change.low, mine.change.high, percent)}; KL {number(mine.kl.value)} "
        f"nats a token; another likeliest token at {percent(mine.flips.value, sign=False)} of them",
        f"{mine.generating:,.0f} generated tokens per second, the original {source.generating:,.0f}, measured here",
    ]
    beaten = [
        one.name for one in seen.models[2:] if one.bytes <= mine.bytes and one.perplexity.value <= mine.perplexity.value
    ]
    if beaten:
        out.append(f"{beaten[0]} is as small and no worse: what was chosen is not on the front")
    if said["recovery_says"]:
        out.append(said["recovery_says"])
    return out


def lines(said: Mapping[str, Any]) -> list[str]:
    """The summary of the terminal."""
    seen = Figures.of(said["measured"])
    share: dict[str, int] = {}
    for one in said["layers"].values():
        share[one["level"]] = share.get(one["level"], 0) + 1
    spread = ", ".join(f"{count} at {SAYS[level]}" for level, count in sorted(share.items()))
    return [*remarks(said, seen), f"{len(said['layers'])} matrices: {spread}; rounded {said['rounded']}"]
