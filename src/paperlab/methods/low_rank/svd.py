"""SVD: two thin matrices in a weight's place, nearest to it in the sum of squares; the plain baseline of the family.

    W = U S V^T,   W_r = (U_r sqrt(S_r)) (sqrt(S_r) V_r^T)      (Eckart and Young 1936)

Needs no data: all inputs count alike.
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.factoring import project, rank_for
from paperlab.kit.matrix import Factors

CARD = Card(family="low-rank")


def factor(weight: Tensor, *, ratio: float = 0.5, rank: int | None = None) -> Factors:
    """weight (out, in) -> factors of rank r in float16.

    ratio: share of a layer's numbers that its factors hold, which sets its rank. rank: the same for all layers instead.
    """
    return project(weight, weight, rank_for(weight, ratio, rank))
