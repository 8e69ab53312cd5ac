"""Row slicing: hidden units of the feed-forward networks taken out by a plain rule, the same share in each.

    random       drawn by the seed
    norm         least  ||gate_j||^2 + ||up_j||^2 + ||down_j||^2
    activation   least  mean |h_j| ||down_j||,  h the input of `down` on calibration text
    best-random  of `evaluations` random choices the one whose gate keeps its singular values best (KS distance)
    descent      from a random choice, `evaluations` - 1 swaps of a tenth of it, each kept unless the KS distance grows

The last two are what PruneNet's reward is worth without a policy, at equally many spectra.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.slicing import FeedForward, feed_forwards, kolmogorov_smirnov, say_width
from paperlab.kit.walk import Batch

CARD = Card(family="pruning", sources=("abstract",))


def submodel(
    model: nn.Module,
    calibration: list[Batch],
    *,
    sparsity: float = 0.3,
    by: Literal["random", "norm", "activation", "best-random", "descent"] = "random",
    evaluations: int = 20,
) -> nn.Module:
    """The model without the share `sparsity` of its feed-forward networks' units. evaluations: spectra per network.

    Raises ValueError for a share outside [0, 1) and a model without gated feed-forward networks.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity}: the share of units to remove, at least 0 and below 1")
    networks = feed_forwards(model)
    units = networks[0].gate.out_features
    kept = int((1 - sparsity) * units + 1e-9)
    loudness = _loudness(model, networks, calibration) if by == "activation" else None
    for index, network in enumerate(networks):
        if by in ("best-random", "descent"):
            chosen = _by_spectrum(network.gate.weight.detach().float(), kept, evaluations, descend=by == "descent")
        elif by == "random":
            chosen = torch.randperm(units)[:kept]
        elif loudness is not None:
            chosen = (loudness[index] * network.down.weight.detach().norm(dim=0)).topk(kept).indices
        else:
            parts = (network.gate.weight, network.up.weight, network.down.weight.T)
            chosen = torch.stack([part.detach().float().square().sum(1) for part in parts]).sum(0).topk(kept).indices
        network.keep(chosen.sort().values)
    say_width(model, kept)
    return model


def _loudness(model: nn.Module, networks: list[FeedForward], calibration: list[Batch]) -> list[Tensor]:
    """Mean |h_j| for each network."""
    sums = [torch.zeros(network.gate.out_features) for network in networks]

    def hook(index: int):  # type: ignore[no-untyped-def]
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            sums[index] += args[0].float().abs().flatten(0, -2).sum(0)

        return add

    handles = [network.down.register_forward_pre_hook(hook(i)) for i, network in enumerate(networks)]
    try:
        with torch.no_grad():
            for batch in calibration:
                getattr(model, "base_model", model)(**batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _by_spectrum(weight: Tensor, kept: int, evaluations: int, *, descend: bool) -> Tensor:
    """Indices (kept,) of rows of weight (units, width) whose singular values are near those of all."""
    whole = torch.linalg.svdvals(weight)
    best = torch.randperm(len(weight))[:kept]
    least = kolmogorov_smirnov(whole, torch.linalg.svdvals(weight[best]))
    for _ in range(evaluations - 1):
        if descend:
            outside = torch.ones(len(weight), dtype=torch.bool)
            outside[best] = False
            free = outside.nonzero().flatten()
            count = min(max(1, kept // 10), len(free))
            stay = best[torch.randperm(kept)[count:]]
            tried = torch.cat([stay, free[torch.randperm(len(free))[:count]]])
        else:
            tried = torch.randperm(len(weight))[:kept]
        distance = kolmogorov_smirnov(whole, torch.linalg.svdvals(weight[tried]))
        if distance < least or (descend and distance == least):
            best, least = tried, distance
    return best
