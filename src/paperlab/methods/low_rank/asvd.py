"""ASVD: factor the weights after scaling each input by its usual size, so that loud inputs are kept more exactly.

    s_j = (mean |x_j|)^alpha,   W diag(s) = U S V^T,   W_r = U_r S_r V_r^T diag(s)^-1

Yuan et al., ASVD: Activation-aware Singular Value Decomposition for Compressing Large Language Models,
arXiv 2312.05821; github.com/hahnyuan/ASVD4LLM at 8630427.
"""

from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.factoring import project, rank_for
from paperlab.kit.matrix import Factors

CARD = Card(
    family="low-rank",
    sources=("abstract", "code"),
    configuration="asvd.py --act_aware --alpha 0.5 --scaling_method abs_mean",
    departs=(
        "every layer keeps the same share of its numbers; theirs searches a share for each layer by its effect on "
        "perplexity",
        "inputs are those behind the factored blocks before; theirs those of the original model",
        "the leading components are exact to 0.1 % of their energy; theirs come from one pass of a randomised SVD",
        "the option to scale by Fisher information is left out",
    ),
)


def factor(
    weight: Tensor, input_absmean: Tensor, *, ratio: float = 0.5, rank: int | None = None, alpha: float = 0.5
) -> Factors:
    """weight (out, in), input_absmean (in,) -> factors of rank r in float16.

    ratio: share of a layer's numbers that its factors hold, which sets its rank. rank: the same for all layers instead.
    alpha: how much inputs' sizes count, 0 (plain SVD) to 1.
    """
    scale = input_absmean.float() ** alpha + 1e-6
    return project(weight, weight * scale, rank_for(weight, ratio, rank))
