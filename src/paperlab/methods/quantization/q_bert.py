"""Q-BERT: more bits where the loss is sharp, one range for each group of output neurons.

    lambda_i = top eigenvalue of the Hessian of block i, by power iteration, on several batches
    Omega_i  = |mean(lambda_i)| + std(lambda_i)          high: 3 bits, low: 2 bits             (section 3.2, eq. 5)
    range    = min .. max of each group of consecutive output neurons (rows) of a matrix       (section 3.3, fig. 4)
    then a short training with the rounded weights in the forward pass, gradients straight through (section 3.1)

Shen et al., Q-BERT: Hessian Based Ultra Low Precision Quantization of BERT, arXiv 1909.05840.
"""

import math
import statistics
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.allocation import allocate, units, weights_in
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.curvature import hessian, top_eigenvalue
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.objective import loss, sample, targets
from paperlab.kit.quantized import Quantized
from paperlab.kit.walk import Batch, block_linears

CARD = Card(
    family="quantization",
    paper="q-bert",
    task="encoder_compress",
    metric="embedding_error",
    expect="lower",
    margin=0.05,
    equal={"layer_bits": 0.02},
    method=Arm("q-bert", mean_bits=2.0),
    baseline=Arm("q-bert", mean_bits=2.0, groups=1),
    checks=(
        Check(
            claim="groups-better-than-layerwise",
            says="One range per group of neurons instead of per matrix is what makes few bits work: on SST-2 92.7 % "
            "with 128 groups against 85.7 % with one, at 4-bit weights.",
            beside=(Arm("round-to-nearest", bits=2), Arm("original")),
            gap="Paper: BERT-base fine-tuned on labelled tasks for epochs. Here: 2-bit weights of a 6-block sentence "
            "encoder, 16 steps of distillation to its own embeddings, activations and embeddings not rounded. The "
            "ranges add under 1 % of size. A pass would not show task accuracy.",
        ),
        Check(
            claim="hessian-mix-better-than-random-mix",
            says="Omega tells which layers may drop to 2 bits: with the 2/3-bit mix BERT stays within 2.3 % of the "
            "original.",
            margin=0.0,
            method=Arm("q-bert"),
            baseline=Arm("q-bert", order="random"),
            beside=(Arm("q-bert", order="reversed"),),
            gap="Paper: 12 blocks, spectra of the task's loss on a tenth of the training data per batch, the order "
            "chosen by Omega against the same order reversed. Here: 6 blocks, half of them at 3 bits (20 possible "
            "mixes), the Gauss-Newton matrix of a distillation loss, one random mix. A pass would not show the 2.3 %.",
        ),
        Check(
            claim="groups-better-than-layerwise-for-text",
            says="The same group-wise ranges, carried over to a causal language model.",
            task="lm_compress",
            metric="perplexity",
            models=("abstracts-lm",),
            beside=(Arm("q-bert"), Arm("q-bert", order="random"), Arm("round-to-nearest", bits=2)),
            gap="The paper has no language model. Here a 6-block one, trained for 16 steps with its own loss on text "
            "of the held-out text's kind: all arms of this method adapt to it alike, so they may even pass the "
            "original, and round-to-nearest beside them is not trained.",
        ),
    ),
    departs=(
        "for an encoder the loss is the distance to the original's embeddings, since its task has no labels here; at "
        "the original weights its Hessian is the Gauss-Newton matrix. A language model has its real loss",
        "power iteration on few batches of few tokens and at most 8 products, for the linear layers of a block",
        "16 steps of training instead of epochs, with constant steps",
        "groups per matrix: the greatest common divisor of `groups` and the rows, so a group is whole rows and no "
        "group is cut short; with groups = number of heads each head's query, key and value has its own range",
        "weights only: the paper also rounds embeddings and activations to 8 bits",
    ),
)


def transform(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    mean_bits: float = 2.5,
    low: int = 2,
    high: int = 3,
    order: Literal["hessian", "random", "reversed"] = "hessian",
    groups: int = 128,
    steps: int = 16,
    rate: float = 1e-4,
    batches: int = 3,
    tokens: int = 128,
) -> Compressed:
    """Blocks at `low` or `high` bits, at most `mean_bits` on average, then `steps` of training at that precision.

    order: who gets the high width; "random" and "reversed" are the controls, trained alike. groups: ranges per
    matrix, 1 for layer-wise. rate: Adam's. batches, tokens: how often a curvature is measured, and on how much.
    Raises ValueError.
    """
    if not 1 <= low < high <= 16 or groups < 1 or batches < 2:
        raise ValueError(f"low={low}, high={high}, groups={groups}, batches={batches}: 1 <= low < high, >= 1, >= 2")
    pieces = units(model, "block")
    sharpness: dict[str, list[float]] = {}
    if order == "random" or mean_bits in (low, high):
        draw = torch.Generator().manual_seed(seed)
        omega = dict(zip(pieces, torch.rand(len(pieces), generator=draw).tolist(), strict=True))
    else:
        sharpness = _sharpness(model, pieces, calibration, batches, tokens, seed)
        omega = {p: abs(statistics.fmean(values)) + statistics.pstdev(values) for p, values in sharpness.items()}
    scores = {piece: -value if order == "reversed" else value for piece, value in omega.items()}
    chosen = allocate(scores, weights_in(model, pieces), choices=(low, high), mean_bits=mean_bits)
    bits = {name: chosen[piece] for piece, names in pieces.items() for name in names}

    total = count_weights(model)
    losses = _train(model, bits, groups, calibration, steps, rate)
    layers: dict[str, Quantized] = {}
    with torch.no_grad():
        for name, layer in block_linears(model).items():
            layers[name] = round_rows(layer.weight, bits=bits[name], groups=groups)
            layer.weight.copy_(layers[name].dense())
    notes = {"bits": chosen, "top eigenvalues": sharpness, "losses": losses}
    return Compressed(model, layers, total, notes=notes)


def round_rows(weight: Tensor, *, bits: int, groups: int) -> Quantized:
    """Round (out, in) weights with one asymmetric range for each of gcd(groups, out) runs of rows."""
    rows, columns = weight.shape
    runs = weight.detach().float().reshape(math.gcd(groups, rows), -1)
    scale, zero = min_max(runs, bits=bits)
    done = round_to_grid(runs, scale, zero, bits=bits)
    done.codes = done.codes.reshape(rows, columns)
    return done


def _sharpness(
    model: nn.Module, pieces: dict[str, list[str]], calibration: list[Batch], batches: int, tokens: int, seed: int
) -> dict[str, list[float]]:
    """The top Hessian eigenvalue of each block on each of `batches` different batches."""
    generator = torch.Generator().manual_seed(seed)
    layers = block_linears(model)
    found: dict[str, list[float]] = {piece: [] for piece in pieces}
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for batch in [part for whole in calibration[:batches] for part in sample([whole], tokens)]:
            wanted = targets(model, [batch])[0]
            for piece, names in pieces.items():
                model.requires_grad_(False)  # the graph need only reach this block
                weights = [layers[name].weight.requires_grad_(True) for name in names]
                product = hessian(lambda batch=batch, wanted=wanted: loss(model, batch, wanted), weights)  # type: ignore[misc]
                found[piece].append(top_eigenvalue(product, weights, steps=8, tolerance=0.05, generator=generator))
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return found


class _Rounded(nn.Module):
    """The rounded weight forwards, the identity backwards."""

    def __init__(self, bits: int, groups: int) -> None:
        super().__init__()
        self.bits, self.groups = bits, groups

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (round_rows(weight, bits=self.bits, groups=self.groups).dense() - weight).detach()


def _train(
    model: nn.Module, bits: dict[str, int], groups: int, calibration: list[Batch], steps: int, rate: float
) -> list[float]:
    """Adam on the linear layers' weights, rounded in each forward pass; the loss before each step."""
    layers = block_linears(model)
    wanted = targets(model, calibration)  # of the model before any rounding
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    weights = [layers[name].weight.requires_grad_(True) for name in bits]
    for name, width in bits.items():
        parametrize.register_parametrization(layers[name], "weight", _Rounded(width, groups))
    optimizer = torch.optim.Adam(weights, lr=rate)
    losses = []
    try:
        for step in range(steps):
            at = step % len(calibration)
            optimizer.zero_grad()
            value = loss(model, calibration[at], wanted[at])
            value.backward()
            optimizer.step()
            losses.append(value.item())
    finally:
        for name in bits:
            parametrize.remove_parametrizations(layers[name], "weight", leave_parametrized=False)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return losses
