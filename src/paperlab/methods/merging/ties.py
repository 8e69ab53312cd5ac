"""TIES: before adding up what models learnt, drop small changes and those against the majority's sign.

    tau_i = theta_i - theta_0
    trim     keep the k % of tau_i that are largest in magnitude, over all tensors of the model together
    elect    gamma = sign(sum_i tau_i)                              of the trimmed ones, for each parameter
    merge    tau = mean of those tau_i that are not 0 and have the sign gamma
    theta = theta_0 + lambda tau                                                            (algorithm 1)

Yadav, Tam, Choshen, Raffel and Bansal, "TIES-Merging", arXiv 2306.01708; written from the authors' code
(`src/ties_minimal.ipynb`), which takes k = 20 and lambda = 1.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.merging import agreed, deltas, weights_of

CARD = Card(
    family="merging",
    sources=("code",),
    departs=(
        "where the trimmed changes cancel exactly, the elected sign is +; the authors take the sign that most "
        "parameters of the whole model have",
        "int(k n) values of a model are kept, and all that equal the smallest of them; the authors keep one more",
    ),
)

UNTUNED = 1.0


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    density: float = 0.2,
    scale: float | None = None,
    weights: str = "",
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of the base and of each model -> (name, merged tensor), one tensor at a time.

    density: share of each model's changes that is kept, in (0, 1]. scale: the factor lambda; none: what the driver
    finds on validation data where there is any, else 1. weights: one for each model as "0.7,0.3", which count in the
    election and in the mean; empty: 1 for each, as in the paper. Raises ValueError for values out of range.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density} is a share: give more than 0, at most 1")
    shares = weights_of(weights, len(models))
    least = [smallest_kept(base, model, density) for model in models]
    factor = UNTUNED if scale is None else scale
    for name in base:
        trimmed = (d.mul_(d.abs() >= m) for d, m in zip(deltas(base, models, name), least, strict=True))
        yield name, agreed(trimmed, shares).mul_(factor).add_(base[name])


def smallest_kept(base: Mapping[str, Tensor], model: Mapping[str, Tensor], density: float) -> float:
    """The magnitude of the change that is the int(density n)-th largest of a model's n, at least the largest.

    Exact, and reads one tensor at a time: magnitudes are counted by the upper half of their bits, then those that
    share the wanted upper half by the lower one. Floats that are not negative are ordered like their bits.
    """

    def counted(upper: int | None) -> Tensor:
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for name in base:
            if base[name].is_floating_point():
                for change in next(deltas(base, [model], name)).cpu().view(-1).split(1 << 18):  # fits into the cache
                    bits = change.abs_().view(torch.int32)
                    part = bits >> 16 if upper is None else bits[bits >> 16 == upper] & 0xFFFF
                    counts += torch.bincount(part, minlength=1 << 16)
        return counts

    def place(counts: Tensor, rank: int) -> tuple[int, int]:
        """Where the rank-th largest lies, and its rank there."""
        above = counts.flip(0).cumsum(0)
        index = int((above >= rank).nonzero()[0])
        return len(counts) - 1 - index, rank - (int(above[index - 1]) if index else 0)

    uppers = counted(None)
    upper, rank = place(uppers, max(int(density * int(uppers.sum())), 1))
    lower, _ = place(counted(upper), rank)
    return torch.tensor(upper << 16 | lower, dtype=torch.int32).view(torch.float32).item()
