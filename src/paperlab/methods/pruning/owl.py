"""OWL: blocks with more outlier weights are pruned less, each by SparseGPT.

    score[o, i] = |W[o, i]| * ||x_i||_2        of all layers of a block together
    D_b   = share of a block's scores above `outlier` times their mean
    s_b   = sparsity - 2 lambda (D_b - min D) / (max D - min D) + mean of that term

so that blocks lie within 2 lambda. Yin et al., "Outlier Weighed Layerwise Sparsity", arXiv 2310.05175, as EvoPress
uses it as a baseline: github.com/IST-DASLab/EvoPress at 50888a0, src/owl_pruner.py and its 20 settings.
"""

import random

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.fitness import Fitness
from paperlab.kit.matrix import Sparse
from paperlab.kit.sparse_levels import sparse_levels
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, linears, walk

CARD = Card(
    family="pruning",
    sources=("abstract", "code"),
    configuration="scripts/run_owl_prune.sh of EvoPress",
    departs=(
        "the best of the settings is chosen by KL to the original on calibration text; how EvoPress's authors choose "
        "is not in their code",
        "a block's sparsity is kept between 0 and 0.95; theirs fails outside 0 to 1",
        "what is kept is stored as float16",
    ),
)

MOST = 0.95


def transform(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    sparsity: float = 0.7,
    spreads: str = "0.02,0.05,0.08,0.1,0.2",
    outliers: str = "3,5,7,10",
    tokens: int = 2048,
    damping: float = 0.01,
) -> Compressed:
    """The model with the best of the settings' block sparsities, of mean `sparsity` over blocks.

    spreads, outliers: lambda and the multiple of the mean, each tried with each; with one of both nothing is chosen.
    tokens: of the calibration text that the choice looks at.
    """
    total = count_weights(model)
    multiples, lambdas = _numbers(outliers), _numbers(spreads)
    shares = []
    for _, block, calls in walk(model, calibration):
        inside = linears(block)
        statistics = gather(block, inside, calls, {"input_norm"})
        scores = [layer.weight.detach().float().abs() * statistics[n]("input_norm") for n, layer in inside.items()]
        shares.append(outlier_shares(torch.cat([score.flatten() for score in scores]), multiples))
    plans = [block_sparsities(share, sparsity, spread) for spread in lambdas for share in torch.stack(shares, 1)]
    if len(plans) == 1:
        chosen = _prune(model, calibration, torch.stack(plans), damping)
        best = 0
    else:
        fitness = Fitness(model, calibration)
        chosen = _prune(model, calibration, torch.stack(plans), damping)
        rows = fitness.draw(tokens, random.Random(seed))
        found = [fitness(_show(model, chosen, number), rows) for number in range(len(plans))]
        best = min(range(len(plans)), key=found.__getitem__)
    _show(model, chosen, best)
    stored = {name: made[best] for name, made in chosen.items()}
    return Compressed(model, stored, total, notes={"sparsities": plans[best].tolist(), "setting": best})


def outlier_shares(scores: Tensor, multiples: list[float]) -> Tensor:
    """scores (n,) -> for each multiple the share of scores above so many times their mean."""
    mean = scores.mean()
    return torch.stack([(scores > multiple * mean).double().mean() for multiple in multiples])


def block_sparsities(shares: Tensor, sparsity: float, spread: float) -> Tensor:
    """shares (blocks,) -> a sparsity for each block, `sparsity` on average, all within 2 * spread."""
    width = shares.max() - shares.min()
    less = 2 * spread * (shares - shares.min()) / width if width > 0 else torch.zeros_like(shares)
    return (sparsity - less + less.mean()).clamp(0, MOST)


def _prune(model: nn.Module, calibration: list[Batch], plans: Tensor, damping: float) -> dict[str, list[Sparse]]:
    """Each layer under all plans (plans, blocks), behind layers that are not pruned."""
    made = {}
    for index, (name, block, calls) in enumerate(walk(model, calibration)):
        inside = linears(block)
        statistics = gather(block, inside, calls, {"hessian"})
        for inner, layer in inside.items():
            hessian = statistics[inner]("hessian")
            wanted = plans[:, index].tolist()
            made[f"{name}.{inner}"] = sparse_levels(layer.weight.detach(), hessian, wanted, damping=damping)
    return made


@torch.no_grad()
def _show(model: nn.Module, made: dict[str, list[Sparse]], number: int) -> nn.Module:
    for name, matrices in made.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(matrices[number].dense())
    return model


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise ValueError(f"{text!r}: numbers from 0 with commas, such as '0.02,0.08'")
    return found
