"""Task arithmetic: add what each model learnt, times one factor, to the model they all began as.

tau_i = theta_i - theta_0,     theta = theta_0 + lambda sum_i w_i tau_i       (section 2; lambda from held-out data)

Ilharco et al., "Editing models with task arithmetic", arXiv 2212.04089, where every w_i is 1. Without held-out data
lambda = 0.4, as in the code of TIES-Merging (2306.01708).
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.merging import added, deltas, weights_of

CARD = Card(family="merging")

UNTUNED = 0.4


def merge(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], *, scale: float | None = None, weights: str = ""
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of the base and of each model -> (name, merged tensor), one tensor at a time.

    scale: the factor lambda; none: what the driver finds on validation data where there is any, else 0.4. weights: w_i,
    one for each model as "0.7,0.3"; empty: 1 for each. Raises ValueError for another number of weights.
    """
    shares = weights_of(weights, len(models))
    factor = UNTUNED if scale is None else scale
    for name in base:
        yield name, added(deltas(base, models, name), shares).mul_(factor).add_(base[name])
