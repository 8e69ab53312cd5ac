"""Label smoothing: train towards a little of every class, so that no logit need grow without bound.

    q'(k) = (1 - e) [k = y] + e / K                                       (section 7, uniform prior u(k) = 1 / K)
    loss  = -sum_k q'(k) log p(k) = (1 - e) H(q, p) + e H(u, p)

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception architecture for computer vision", arXiv
1512.00567. Their e on ImageNet is 0.1.
"""

from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="loss")


def loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """logits (n, classes), labels (n,) int64 -> a scalar, in nats.

    smoothing: share e of the target that all classes have in common, in [0, 1]; 0 is cross-entropy.
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing={smoothing} is a share: give 0 to 1")
    log_p = logits.log_softmax(-1)
    of_label = log_p.gather(-1, labels[:, None]).squeeze(-1)
    return -((1 - smoothing) * of_label + smoothing * log_p.mean(-1)).mean()
