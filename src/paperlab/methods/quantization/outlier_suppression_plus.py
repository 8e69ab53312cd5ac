"""Outlier Suppression+: centre each activation channel and scale the worst ones down, folded exactly; then round.

Wei et al., "Outlier Suppression+: Accurate quantization of large language models by equivalent and optimal shifting
and scaling", arXiv 2304.09145; github.com/ModelTC/Outlier_Suppression_Plus at 3ba97ae. For layers that read a norm,
and down_proj of Llama models, whose input up_proj scales:

    z_j = (max X_j + min X_j) / 2                          shift; none in Llama models, whose norms have no bias
    s_j = max(1, max|X_j - z_j| / t)                       scale: no channel above t is left
    X' = (X - z) / s in the norm,   W' = W s,   b' = b + W z in its readers
    t   = argmin ||f(Q(X'), Q(W')) - f(X, W)||^2           f: attention before o_proj, gated units, else the reader
"""

import math

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.fold import Group, fold, norm_groups, scaling_groups, watched
from paperlab.kit.grid import EPSILON
from paperlab.kit.quantized import Quantized
from paperlab.kit.scope import record_calls, without_projection
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, Call, linears, walk
from paperlab.kit.weight_activation import Rounding, round_layers, span

CARD = Card(
    paper="outlier-suppression-plus", family="quantization",
    sources=("abstract", "code"),
    configuration="exp/opt/int6.yaml, exp/opt/int8.yaml, exp/llama/int6_token.yaml, exp/llama/int4_token.yaml",
    task="encoder_compress", metric="embedding_error", expect="lower", margin=0.02,
    method=Arm("outlier-suppression-plus", average=True), beside=(Arm("original"),),
    gap="Theirs: BERT on GLUE, products inside attention rounded too; the setting followed is the released OPT one. "
    "The abstract's 4-bit BERT (15.5 %) and their 4-bit OPT in groups of 1,024 inputs are not tested.",
    checks=(
        Check(
            claim="bert-6-bits-better-than-smoothquant",
            says="With one static range for a layer's inputs, BERT and OPT in 6 bits stay nearer to floating point.",
            baseline=Arm("smoothquant", alpha=None, weight_bits=6, act_bits=6, weights="channel", symmetric=False,
                         average=True), trivial=Arm("rtn-activations", weight_bits=6, activation_bits=6, average=True),
            beside=(Arm("smoothquant", alpha=0.5, weight_bits=6, act_bits=6, weights="channel", symmetric=False,
                        average=True), Arm("original")),
            gates=(Gate("no worse than plain rounding, which it is without shift and scale",
                        Arm("outlier-suppression-plus", average=True),
                        Arm("rtn-activations", weight_bits=6, activation_bits=6, average=True), "better"),),
            equal={"layer_bits": 0.02},
        ),
        Check(
            claim="llama-4-bits-better-than-smoothquant", task="lm_compress", metric="perplexity",
            says="LLaMA with weights and inputs in 4 bits, one range per token: up to 9.41 % above other methods.",
            method=Arm("outlier-suppression-plus", weight_bits=4, activation_bits=4, dynamic=True, shift=False),
            baseline=Arm("smoothquant", alpha=None, weight_bits=4, act_bits=4, level="O1", weights="channel",
                         symmetric=False), models=("abstracts-lm",),
            trivial=Arm("rtn-activations", weight_bits=4, activation_bits=4, dynamic=True), equal={"layer_bits": 0.02},
            gap="Theirs: LLaMA of 7 billion parameters and more; int4_token_disable.yaml leaves down_proj unrounded. "
            "Part of a gain is the third migration, before down_proj, which SmoothQuant has not. This model's outliers "
            "are mild: plain rounding costs a tenth. SmolLM2, which 4 bits break (73 times the perplexity when "
            "plainly rounded), is asked at 6.",
        ),
        Check(
            claim="llama-6-bits-better-than-smoothquant", task="lm_compress", metric="perplexity", role="question",
            says="Is LLaMA with weights and inputs in 6 bits, one range per token, better, too?",
            method=Arm("outlier-suppression-plus", dynamic=True, shift=False), models=("smollm2-135m",),
            baseline=Arm("smoothquant", alpha=None, weight_bits=6, act_bits=6, level="O1", weights="channel",
                         symmetric=False),
            trivial=Arm("rtn-activations", weight_bits=6, activation_bits=6, dynamic=True), equal={"layer_bits": 0.02},
            gap="We know no figure of the paper for it. As at 4 bits: down_proj, third migration. SmolLM2's weights "
            "were rounded once to 4 bits in groups of 32, another grid than this.",
        ),
        Check(
            claim="shift-adds-to-scale", baseline=Arm("outlier-suppression-plus", average=True, shift=False),
            says="Outlying channels are lopsided: centring them first beats scaling alone (not done on LLaMA).",
        ),
        Check(
            claim="near-lossless-at-6-bits", metric="reciprocal_rank", expect="no worse", margin=0.05,
            says="With one static range for a layer's inputs, 6 bits perform nearly like floating point.",
            baseline=Arm("original"), trivial=Arm("rtn-activations", weight_bits=6, activation_bits=6, average=True),
            gap="Theirs: accuracy on GLUE. Here: does a title find its summary; losses below a twentieth do not show.",
        ),
        Check(
            claim="near-lossless-at-8-bits", metric="reciprocal_rank", expect="no worse", margin=0.05,
            says="With one static range per tensor, weights too, 8 bits perform like floating point on BERT and OPT.",
            method=Arm("outlier-suppression-plus", weight_bits=8, activation_bits=8, per_channel=False,
                       symmetric=True, average=True), baseline=Arm("original"),
            trivial=Arm("rtn-activations", weight_bits=8, activation_bits=8, per_channel=False, symmetric=True,
                        average=True),
            gap="Theirs: accuracy on GLUE. Here: does a title find its summary; losses below a twentieth do not show.",
        ),
    ),
    departs=(
        "t takes geometric steps down to 0.1, then as many around the best; theirs 100 equal ones or more, OPT's to 1",
        "errors are of the first calibration batch, as in their code, but 512 to 1,024 tokens",
        "channel ranges are of all batches, theirs of the first; average: over 8 batches of as many tokens at quick, "
        "theirs 8 batches of 16 texts of up to 512 tokens",
        "symmetric codes: theirs -127 to 127 and weights max / 127, here -128 as well and weights max / 127.5",
        "a block's thresholds are searched before any of it is rounded, behind blocks that are",
        "the products inside attention stay in floating point, as in the released LLaMA setting, not in OPT's",
    ),
)  # fmt: skip

FLOOR, FEW = 0.1, 4  # the least threshold tried; batches that are looked at where they fix no range


@torch.no_grad()
def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    weight_bits: int = 6,
    activation_bits: int = 6,
    shift: bool = True,
    scale: bool = True,
    steps: int = 12,
    per_channel: bool = True,
    dynamic: bool = False,
    symmetric: bool = False,
    average: bool = False,
) -> Compressed:
    """Shift, scale and round; 16 bits leave weights or activations as they are.

    shift, scale: the method's halves. steps: half of the thresholds tried. per_channel: a weight range per output
    channel, else per matrix. dynamic: a range per token, else one per layer; average: the mean over batches.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1")
    rounding = Rounding(weight_bits, activation_bits, per_channel, dynamic, symmetric, average=average)
    norm_groups(model)  # refuses models whose inputs it could shift and scale but in part
    total, groups = count_weights(model), scaling_groups(model)
    layers: dict[str, Quantized] = {}
    added, thresholds = {"shifts_and_scales": 0}, {}
    for index, (stem, block, calls) in enumerate(walk(model, calibration if rounding.static else calibration[:FEW])):
        own = [g for g in groups[index] if not (isinstance(g.source, nn.Linear) and g.shiftable)]
        inside = linears(block)
        statistics = gather(block, watched(inside, own), calls, {"input_min", "input_max"})
        for group, seen in zip(own, record_calls(block, [group.scope for group in own], calls, 1), strict=True):
            get = next(statistics[name] for name, layer in watched(inside, own).items() if layer is group.seen)
            low, high = get("input_min"), get("input_max")
            z = ((low + high) / 2).half().float() if shift and group.shiftable else None
            s = torch.ones_like(low)
            if scale:
                s, thresholds[group.name] = search(group, seen, low, high, z, steps=steps, rounding=rounding)
            added["shifts_and_scales"] += 16 * _fold(group, s, z, calls)
        made, ranges = round_layers(inside, block, calls, rounding, stem)
        layers |= made
        added |= ranges
    return Compressed(model, layers, total, added, {"thresholds": thresholds})


def scale_to(low: Tensor, high: Tensor, threshold: float) -> Tensor:
    """s (in,) that brings each channel's range [low, high] within +-threshold; never below 1."""
    return (torch.maximum(high, -low) / threshold).clamp(min=1, max=6e4).half().float()


@torch.no_grad()
def search(
    group: Group, seen: list[Call], low: Tensor, high: Tensor, shift: Tensor | None, *, steps: int, rounding: Rounding
) -> tuple[Tensor, float]:
    """Scale (in,) and threshold with the least squared error over the calls `seen`; low, high (in,): the ranges."""
    z = torch.zeros_like(low) if shift is None else shift
    low, high = low - z, high - z
    reach = max(float(torch.maximum(high, -low).max()), EPSILON)
    kept = [reader.weight.clone() for reader in group.readers]
    s, t = torch.ones_like(low), reach

    def rounded(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = (args[0] - z) / s
        if rounding.activation_bits < 16:
            ends = span(x.new_tensor(-t), x.new_tensor(t), bits=rounding.activation_bits, symmetric=rounding.symmetric)
            x = rounding.inputs(*ends)(x)
        return (x * s + z, *args[1:])

    best = (math.inf, s, t)
    with without_projection(group.scope):
        wanted = [call.through(group.scope) for call in seen]
        handles = [reader.register_forward_pre_hook(rounded) for reader in group.readers]
        top, step = reach, (min(FLOOR, reach) / reach) ** (1 / max(steps - 1, 1))
        for _ in range(2):
            for t in (top * step**i for i in range(steps)):
                s = scale_to(low, high, t)
                for reader, weight in zip(group.readers, kept, strict=True) if rounding.weight_bits < 16 else ():
                    reader.weight.copy_(rounding.weight(weight * s).dense() / s)
                errors = (call.through(group.scope) - y for call, y in zip(seen, wanted, strict=True))
                if (loss := sum(float(error.square().sum()) for error in errors)) < best[0]:
                    best = (loss, s, t)
            top, step = min(best[2] / step, reach), step ** (2 / steps)
    for reader, weight, handle in zip(group.readers, kept, handles, strict=True):
        reader.weight.copy_(weight)
        handle.remove()
    return best[1:]


def _fold(group: Group, scale: Tensor, shift: Tensor | None, calls: list[Call]) -> int:
    """Fold; biases that did not exist before are rounded to float16, as they are counted."""
    fresh = [reader for reader in group.readers if reader.bias is None]
    new = fold(group, scale, shift, calls)
    for bias in (getattr(group.source, "folded_bias", None), *(reader.bias for reader in fresh)):
        if bias is not None:
            bias.copy_(bias.half())
    return new
