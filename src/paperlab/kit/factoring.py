"""Factor a matrix so that what it makes of its usual inputs changes least.

    minimise  || (M - L R) S ||_F   over all L R of rank r,   S S^T = the inputs' second moments, or another weighting

Eckart and Young: U_r Sigma_r V_r^T S^-1, from the SVD of M S. That is U_r U_r^T M, so S is never inverted, and inputs
that never vary (a singular S) do no harm.
"""

from torch import Tensor

from paperlab.kit.low_rank import leading
from paperlab.kit.matrix import Factors


def project(matrix: Tensor, scaled: Tensor, rank: int) -> Factors:
    """The best approximation of matrix (out, in) of rank `rank`, in float16, judged by scaled = matrix @ S, (out, n).

    Each component is as large in the one factor as in the other. Raises ValueError for a rank beyond the shapes.
    """
    left = leading(scaled, rank)[0]
    right = left.T @ matrix.float()
    size = right.norm(dim=1).clamp_min(1e-12).sqrt()
    return Factors((left * size).half(), (right / size[:, None]).half(), 16)


def rank_for(weight: Tensor, ratio: float, rank: int | None = None) -> int:
    """`rank`, or the largest whose factors hold the share `ratio` of the numbers of weight (out, in), at least 1.

    Raises ValueError unless 0 < ratio <= 1.
    """
    if rank is not None:
        return rank
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio={ratio}: the share of a layer's numbers that its factors hold, above 0 and at most 1")
    rows, columns = weight.shape
    return max(1, int(ratio * rows * columns / (rows + columns)))
