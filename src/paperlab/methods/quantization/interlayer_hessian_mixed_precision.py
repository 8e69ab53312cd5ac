"""Hessian and inter-layer dependencies: rank layers by what rounding them costs, alone and together with others.

    alone_i    = 1/2 * tr(H_i) / n_i * ||Q(W_i) - W_i||^2                        by random probes
    joint_ab   = L(a and b rounded) - L(a rounded) - L(b rounded) + L            what a pair of blocks costs extra
    score_i    = alone_i + share_i * 1/2 * sum_b joint_ab                        share_i: layer i's part of block a's
    bits       = low for the k layers of lowest score, high for the rest         k by bisection: the cheapest setting
                                                                                 whose loss stays within the tolerance

Schaefer et al., Augmenting Hessians with Inter-Layer Dependencies for Mixed-Precision Post-Training Quantization,
arXiv 2306.04879, of which the abstract was read.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from torch import nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.allocation import allocate, round_layers, units
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.curvature import gauss_newton_traces, hessian, traces
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.objective import frozen, loss, mean_loss, outputs, sample, targets
from paperlab.kit.walk import Batch, block_linears

CARD = Card(
    family="quantization",
    paper="interlayer-hessian-mixed-precision",
    sources=("abstract",),
    task="encoder_compress",
    metric="embedding_error",
    expect="lower",
    margin=0.02,
    equal={"layer_bits": 0.02},
    method=Arm("interlayer-hessian-mixed-precision", mean_bits=6.0),
    beside=(Arm("round-to-nearest", bits=6), Arm("original")),
    checks=(
        Check(
            claim="interactions-better-than-hessian-only",
            says="Hessians of single layers are said to order them badly (ResNet50, MobileNetV2, BERT). Is it better "
            "to add what layers do to each other?",
            baseline=Arm("interlayer-hessian-mixed-precision", mean_bits=6.0, interactions=False),
            gap="Our question, for how the two kinds of information are weighed is ours: the full text could not be "
            "read. Paper: accuracy against latency within a tolerance. Here: one size of a BERT of 6 blocks, 6 bits on "
            "average from 4 and 8, weights only, one range per row.",
            role="question",
        ),
        Check(
            claim="interactions-better-than-hessian-only-for-text",
            says="The same order of layers for a language model, at widths that hurt it.",
            task="lm_compress",
            metric="perplexity",
            method=Arm("interlayer-hessian-mixed-precision", mean_bits=3.0, low=2, high=4),
            baseline=Arm("interlayer-hessian-mixed-precision", mean_bits=3.0, low=2, high=4, interactions=False),
            beside=(Arm("round-to-nearest", bits=3), Arm("original")),
            models=("abstracts-lm",),
            gap="Our question: the paper has no language model. At 4 and 8 bits this one loses too little.",
            role="question",
        ),
        Check(
            claim="better-than-random-order",
            says="Does the order of layers tell more than a random one?",
            baseline=Arm("random-allocation", mean_bits=6.0, choices="4,8", unit="layer", group=None),
            gap="Our question. Each seed draws another order, and the text on which the method measures.",
            role="question",
        ),
    ),
    departs=(
        "only the abstract was read: how the paper weighs pairs against traces is not known; here both are rises of "
        "the loss and are added, half a pair's excess to each of its blocks",
        "the trace is of the Gauss-Newton matrix, labels drawn from the model: cheaper, and equal to the Hessian's "
        "where the model fits its data; `curvature='hessian'` measures the Hessian's",
        "pairs of blocks, not of layers, at most `reach` apart; rounding to nearest, weights only; no latency",
        "for an encoder the loss is the distance of its embeddings to the original's, and its tolerance is absolute",
        "`mean_bits` stops the ordering at a size instead of at a tolerance, so that orderings meet at equal size",
    ),
)


def transform(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    tolerance: float = 0.01,
    mean_bits: float | None = None,
    interactions: bool = True,
    low: int = 4,
    high: int = 8,
    group: int | None = None,
    reach: int = 1,
    curvature: Literal["gauss-newton", "hessian"] = "gauss-newton",
    probes: int = 4,
    tokens: int = 512,
) -> Compressed:
    """Linear layers at `low` or `high` bits: as many low ones as the loss's tolerance, or `mean_bits`, allows.

    tolerance: rise of the calibration loss that is accepted, relative to it for a language model (0.01 is 1 %),
    absolute for an encoder. reach: blocks at most this far apart are measured in pairs. curvature: whose trace.
    probes: draws per trace. tokens: measured on the first windows that hold so many. Raises ValueError.
    """
    if not 1 <= low < high <= 16 or tolerance <= 0 or reach < 1:
        raise ValueError(f"low={low}, high={high}, tolerance={tolerance}, reach={reach}: low < high, all above 0")
    if curvature not in ("gauss-newton", "hessian"):
        raise ValueError(f"curvature={curvature!r}: 'gauss-newton' or 'hessian'")
    batches = sample(calibration, tokens)
    trial = _Trial(model, batches, low, high, group)
    alone = _alone(model, batches, trial, curvature, probes, seed)
    scores, excess = dict(alone), dict[str, float]()
    if interactions:
        pieces = units(model, "block")
        excess = _excess(trial, pieces, reach)
        for piece, names in pieces.items():
            whole = sum(abs(alone[name]) for name in names)
            for name in names:
                scores[name] += excess[piece] * (abs(alone[name]) / whole if whole else 1 / len(names))
    if mean_bits is not None:
        sizes = {name: layer.weight.numel() for name, layer in block_linears(model).items()}
        bits = allocate(scores, sizes, choices=(low, high), mean_bits=mean_bits)
    else:
        bits = _bisect(trial, sorted(scores, key=lambda name: scores[name]), tolerance)
    total = count_weights(model)
    layers = round_layers(model, bits, group=group)
    return Compressed(model, layers, total, notes={"bits": bits, "alone": alone, "excess": excess})


class _Trial:
    """Round some layers, measure the loss, put the weights back."""

    def __init__(self, model: nn.Module, batches: list[Batch], low: int, high: int, group: int | None) -> None:
        self.model, self.batches, self.low, self.high, self.group = model, batches, low, high, group
        self.layers = block_linears(model)
        self.wanted = targets(model, batches)
        self.base = self.loss({})

    @torch.no_grad()
    def loss(self, bits: dict[str, int]) -> float:
        kept = {name: self.layers[name].weight.clone() for name in bits}
        round_layers(self.model, bits, group=self.group)
        found = mean_loss(self.model, self.batches, self.wanted)
        for name, weight in kept.items():
            self.layers[name].weight.copy_(weight)
        return found

    def rise(self, names: Iterable[str]) -> float:
        return self.loss(dict.fromkeys(names, self.low)) - self.base


def _alone(
    model: nn.Module, batches: list[Batch], trial: _Trial, curvature: str, probes: int, seed: int
) -> dict[str, float]:
    """Expected rise of the loss from rounding each layer to the low width: mean curvature times squared error."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: layer.weight for name, layer in trial.layers.items()}
    found = dict.fromkeys(weights, 0.0)
    with frozen(model):
        like = [weight.requires_grad_(True) for weight in weights.values()]
        for batch, wanted in zip(batches, trial.wanted, strict=True):
            if curvature == "hessian":
                product = hessian(partial(loss, model, batch, wanted), like)
                measured = traces(product, like, probes=probes, generator=generator)
            else:
                rows = partial(outputs, model, batch)
                measured = gauss_newton_traces(rows, like, labels=wanted is None, probes=probes, generator=generator)
            for name, trace in zip(weights, measured, strict=True):
                found[name] += trace / len(batches)
    for name, weight in weights.items():
        value = weight.detach().float()
        scale, zero = min_max(value, bits=trial.low, group=trial.group)
        error = round_to_grid(value, scale, zero, bits=trial.low).dense() - value
        found[name] *= 0.5 * error.square().sum().item() / weight.numel()
    return found


def _excess(trial: _Trial, pieces: dict[str, list[str]], reach: int) -> dict[str, float]:
    """Half of what each block costs beyond the sum when rounded together with each neighbour."""
    names = list(pieces)
    single = [trial.rise(pieces[name]) for name in names]
    found = dict.fromkeys(names, 0.0)
    for a in range(len(names)):
        for b in range(a + 1, min(a + reach + 1, len(names))):
            joint = trial.rise(pieces[names[a]] + pieces[names[b]]) - single[a] - single[b]
            found[names[a]] += joint / 2
            found[names[b]] += joint / 2
    return found


def _bisect(trial: _Trial, order: list[str], tolerance: float) -> dict[str, int]:
    """Low bits for as long a prefix of `order` (least sensitive first) as bisection finds within the tolerance."""
    allowed = trial.base * (1 + tolerance) if trial.base > 0 else tolerance

    def setting(k: int) -> dict[str, int]:
        return {name: trial.low if i < k else trial.high for i, name in enumerate(order)}

    good, bad = 0, len(order) + 1  # all high is the last resort, whatever its loss
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if trial.loss(setting(middle)) <= allowed else (good, middle)
    return setting(good)
