"""Block dropping by a score of each block: what papers on depth pruning compare with.

    cosine       1 - mean cos(x, y), x before and y behind the unit        ShortGPT, arXiv 2403.03853 (Block Influence)
    window       the run of n blocks whose input and output are the most alike by cosine                2403.17887
    norm         mean ||y - x|| / ||y||                                     weight subcloning, 2312.09299
    perplexity   of the model without the unit                              shortened Llama, 2402.02834
    even, random without looking: evenly spread; drawn by the seed

The lowest scores go, all at once; nothing is trained. unit="attention" with cosine is LLM-Drop (2406.15786). Written
after drop_scoring.py of github.com/IST-DASLab/EvoPress at 50888a0, which has the first four for whole blocks.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.depth import Droppable, drop, how_many, of_unit, residual_states
from paperlab.kit.walk import Batch, blocks

CARD = Card(
    family="pruning",
    sources=("abstract", "code"),
    departs=(
        "the papers behind the scores were not read: the formulas are those of EvoPress's baselines",
        "shortened Llama also keeps the first four and last two blocks and retrains; neither is done here unless asked "
        "for by protect_first and protect_last",
    ),
)


Unit = Literal["block", "attention", "feed_forward"]


def submodel(
    model: nn.Module,
    calibration: list[Batch],
    *,
    sparsity: float = 0.25,
    unit: Unit = "block",
    by: Literal["cosine", "window", "norm", "perplexity", "even", "random"] = "cosine",
    tokens: int = 2048,
    protect_first: int = 0,
    protect_last: int = 0,
) -> nn.Module:
    """The model without the share `sparsity` (rounded down) of its blocks, attentions or feed-forwards.

    tokens: of the calibration text that are looked at, at most. protect_first, protect_last: blocks at the ends that
    stay whole. Raises ValueError for a share that leaves nothing to drop, and for "window" of anything but blocks.
    """
    total = len(blocks(model)[1])
    protected = {*range(protect_first), *range(total - protect_last, total)} & set(range(total))
    count = how_many(model, sparsity, protected)
    free = [index for index in range(total) if index not in protected]
    if not count:
        return model
    if by == "even":
        return drop(model, [free[(2 * i + 1) * len(free) // (2 * count)] for i in range(count)], unit)
    if by == "random":
        return drop(model, [free[i] for i in torch.randperm(len(free))[:count]], unit)
    batches = first_tokens(calibration, tokens)
    if by == "window":
        if unit != "block":
            raise ValueError(f"by=window drops neighbouring blocks, not unit={unit}")
        likeness = _window_likeness(model, batches, count)
        starts = [i for i in range(total - count + 1) if not protected & set(range(i, i + count))]
        if not starts:
            raise ValueError(f"no {count} neighbouring blocks are left beside the protected ones; drop fewer")
        start = max(starts, key=lambda i: likeness[i])
        return drop(model, range(start, start + count), unit)
    score = _without_each(model, batches, unit) if by == "perplexity" else _change_of_each(model, batches, unit, by)
    return drop(model, sorted(free, key=lambda index: score[index])[:count], unit)


def first_tokens(calibration: list[Batch], tokens: int) -> list[Batch]:
    """The first batches, and rows of the last, that hold `tokens` tokens; at least one row."""
    rows = torch.cat([batch["input_ids"] for batch in calibration])
    size = len(calibration[0]["input_ids"])
    return [{"input_ids": part} for part in rows[: max(1, tokens // rows.shape[1])].split(size)]


def _change_of_each(model: nn.Module, batches: list[Batch], unit: Unit, by: str) -> list[float]:
    """How much each unit changes the residual stream, a mean over tokens; at least 0."""
    sums = torch.zeros(len(blocks(model)[1]), dtype=torch.float64)
    count = 0
    for rows in residual_states(model, batches):
        count += rows[0][0].shape[0] * rows[0][0].shape[1]
        for index, row in enumerate(rows):
            before, after = of_unit(row, unit)
            if by == "cosine":
                change = 1 - F.cosine_similarity(before, after, dim=-1)
            else:
                change = (after - before).norm(dim=-1) / after.norm(dim=-1)
            sums[index] += change.sum(dtype=torch.float64)
    return (sums / count).tolist()


def _window_likeness(model: nn.Module, batches: list[Batch], count: int) -> list[float]:
    """For each first block of a run of `count`: mean cosine between the run's input and its output."""
    sums: Tensor | None = None
    for rows in residual_states(model, batches):
        states = [rows[0][0], *(after for _, _, after in rows)]
        pairs = zip(states, states[count:], strict=False)
        now = torch.stack([F.cosine_similarity(a, b, dim=-1).sum(dtype=torch.float64) for a, b in pairs])
        sums = now if sums is None else sums + now
    assert sums is not None
    return sums.tolist()


def _without_each(model: nn.Module, batches: list[Batch], unit: Unit) -> list[float]:
    """Mean negative log-likelihood (nats) without each unit: perplexity ranks the same."""
    trial = Droppable(model)
    found = []
    for index in range(len(trial.stack)):
        attention = (index,) if unit != "feed_forward" else ()
        feed_forward = (index,) if unit != "attention" else ()
        found.append(_nll(trial.without(attention, feed_forward), batches))
    trial.without((), ())
    return found


@torch.no_grad()
def _nll(model: nn.Module, batches: list[Batch]) -> float:
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for batch in batches:
        ids = batch["input_ids"]
        logits = model(**batch, use_cache=False).logits[:, :-1].float()
        total += F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").double()
        count += ids[:, 1:].numel()
    return float(total) / count
