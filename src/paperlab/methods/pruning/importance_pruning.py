"""Importance pruning: heads and feed-forward units that the loss feels least are removed, at several fixed thresholds.

    I_h = mean over examples of |sum over tokens and coordinates of A_h dL/dA_h|     A_h: what the head or unit gives

that is |dL/dm| of a mask m at 1, for heads divided by the norm of their layer's (Michel, Levy and Neubig, "Are sixteen
heads really better than one?", arXiv 1905.10650); a unit of a feed-forward layer likewise. The network is fine-tuned
first, pruned at each threshold, and each pruned one is retrained. A plain baseline.
"""

import copy
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.elastic import Front, Member, Sizes, SubNetwork, active, cut, layout_of, sizes_of
from paperlab.kit.tuning import Tuned, cross_entropy, fit, logits_of
from paperlab.kit.walk import blocks

CARD = Card(family="pruning")

SHARES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1)  # thresholds: parameters that stay
BATCHES = 10  # on which importance is measured


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    retrain: float = 0.6,
    gradual: bool = False,
    reverse: bool = False,
) -> Tuned:
    """The copy, fine-tuned, and the front of the networks pruned from it.

    The setting's steps are the compute of all, in steps of the whole network; `validation_steps`, if it has it, is
    what validating the whole network takes of them. retrain: share of what is trained that goes to the pruned
    networks, for each as many steps; in [0, 1). gradual: each starts from the next larger one, not from the whole.
    reverse: the most important go, which is what a control needs.
    """
    if not 0 <= retrain < 1:
        raise ValueError(f"retrain={retrain}: a share of the training, 0 to below 1")
    sizes = sizes_of(model)
    once = float(getattr(setting, "validation_steps", 0.0))
    fixed = BATCHES + once * (1 + sum(SHARES))
    left = max(1.0, setting.steps - fixed)
    first = max(1, round((1 - retrain) * left))
    steps = int(retrain * left / sum(SHARES))
    asks = ("student", "labels")
    _, trained = fit(model, setting, cross_entropy, rate=rate, seed=seed, asks=asks, steps=first)
    members = [Member(1.0, setting.validate(model), copy.deepcopy(model))]
    heads, units = importance(model, setting, seed)
    if reverse:
        heads, units = -heads, -units
    compute = first + BATCHES + once
    for share in SHARES:
        network = kept(sizes, heads, units, share)
        small, real = cut(model, network), sizes.share(network)
        if gradual and steps:
            with active(model, network):  # where it stands, so that the next one starts from it
                fit(model, setting, cross_entropy, rate=rate, seed=seed, asks=asks, steps=steps)
            small = cut(model, network)
        elif steps:
            fit(small, setting, cross_entropy, rate=rate, seed=seed, asks=asks, steps=steps)
        members.append(Member(real, setting.validate(small), small))
        compute += real * (steps + once)
    return Tuned(Front(members, compute, len(members)), rate, {}, first + steps * len(SHARES), trained)


def importance(model: nn.Module, setting: Any, seed: int) -> tuple[Tensor, Tensor]:
    """(blocks, heads) and (blocks, units): how much the loss of an example would change, to first order, without one.

    On the first training batches of the seed, without dropout; heads of a layer are divided by their norm.
    """
    sizes, stack = sizes_of(model), blocks(model)[1]
    seen: dict[tuple[str, int], Tensor] = {}
    handles = []
    for number, block in enumerate(stack):
        layout = layout_of(block)
        for kind, name in (("heads", layout.joins), ("units", layout.down)):

            def keep(_: nn.Module, args: tuple[Tensor, ...], place: tuple[str, int] = (kind, number)) -> None:
                seen[place] = args[0]

            handles.append(block.get_submodule(name).register_forward_pre_hook(keep))
    totals = {"heads": torch.zeros(len(stack), sizes.heads), "units": torch.zeros(len(stack), sizes.units)}
    model.eval()
    try:
        for inputs, labels in islice(setting.batches(seed), BATCHES):
            loss = F.cross_entropy(logits_of(model, inputs).float().flatten(0, -2), labels.flatten(), reduction="sum")
            gradients = torch.autograd.grad(loss, list(seen.values()))
            for (kind, number), gradient in zip(seen, gradients, strict=True):
                felt = (seen[kind, number] * gradient).detach().sum(1)  # (examples, width)
                felt = felt.unflatten(1, (totals[kind].shape[1], -1)).sum(2)
                totals[kind][number] += felt.abs().mean(0) / BATCHES
    finally:
        for handle in handles:
            handle.remove()
    heads = totals["heads"]
    return heads / heads.norm(dim=1, keepdim=True).clamp(min=1e-20), totals["units"]


def kept(sizes: Sizes, heads: Tensor, units: Tensor, share: float) -> SubNetwork:
    """The largest sub-network of at most `share` of the parameters that keeps the same part of all heads and of all
    units, those of most importance; of equal ones the first."""
    orders = [one.flatten().argsort(descending=True, stable=True) for one in (heads, units)]
    least, most = 0, 1000  # thousandths that stay, by bisection: more of them never have fewer parameters
    found = [torch.zeros_like(one, dtype=torch.bool) for one in (heads, units)]
    while least <= most:
        middle = (least + most) // 2
        masks = []
        for one, order in zip((heads, units), orders, strict=True):
            mask = torch.zeros(one.numel(), dtype=torch.bool)
            mask[order[: one.numel() * middle // 1000]] = True
            masks.append(mask.view_as(one))
        if sizes.share(SubNetwork(*masks)) <= share:
            found, least = masks, middle + 1
        else:
            most = middle - 1
    return SubNetwork(*found)
