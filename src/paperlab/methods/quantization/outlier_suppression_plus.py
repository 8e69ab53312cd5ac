"""Outlier Suppression+: centre each activation channel and scale the worst ones down, folded exactly; then round.

Wei et al., "Outlier Suppression+: Accurate quantization of large language models by equivalent and optimal shifting
and scaling", arXiv 2304.09145. For the layers that read a norm:

    z_j = (max X_j + min X_j) / 2                          shift                                 (section 4.1)
    s_j = max(1, max|X_j - z_j| / t)                       scale: no channel above t is left     (section 4.2)
    X' = (X - z) / s in the norm,   W' = W s,   b' = b + W z in its readers
    t   = argmin ||f(Q(X'), Q(W')) - f(X, W)||^2           f: the attention's output, or the gated units of the MLP
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.activations import per_range, per_token
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.fold import Group, fold, scaling_groups
from paperlab.kit.grid import EPSILON
from paperlab.kit.scope import record_calls
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, Call, linears, walk
from paperlab.kit.weight_activation import round_model, round_weight, span

CARD = Card(
    paper="outlier-suppression-plus",
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    beside=(Arm("original"),),
    method=Arm("outlier-suppression-plus", weight_bits=6, activation_bits=6, symmetric=True),
    checks=(
        Check(
            claim="better-than-smoothquant-at-6-bits",
            says="Near floating point at W6A6 with one static activation range per layer, where SmoothQuant falls.",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm("smoothquant", weight_bits=6, act_bits=6, level="O3", weights="channel"),
            beside=(
                Arm("rtn-activations", weight_bits=6, activation_bits=6, symmetric=True),
                Arm("original"),
            ),
            equal={"layer_bits": 0.02},
            gap="The paper: OPT, BLOOM and BERT on zero-shot tasks, asymmetric at 6 bits. Here both are symmetric, "
            "weights per channel, activations per layer from calibration; products inside attention stay in "
            "floating point. Llama-like norms have no bias: the shift costs new biases, which are counted.",
        ),
        Check(
            claim="better-than-rtn-at-6-bits",
            says="Shifting and scaling repair what plain rounding to W6A6 breaks.",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm("rtn-activations", weight_bits=6, activation_bits=6, symmetric=True),
            equal={"layer_bits": 0.02},
            gap="As against SmoothQuant. Inputs of o_proj and down_proj are rounded, but no norm precedes them: their "
            "outliers stay in both arms.",
        ),
        Check(
            claim="shift-adds-to-scale",
            says="Outlying channels are lopsided: centring them first beats scaling alone.",
            also={"encoder_compress": "embedding_error"},
            margin=0.01,
            baseline=Arm("outlier-suppression-plus", weight_bits=6, activation_bits=6, symmetric=True, shift=False),
            equal={"layer_bits": 0.02},
            gap="The authors shift OPT, BLOOM and BERT, and leave the shift out on LLaMA, whose norms have no bias; "
            "two of the three models here are Llama-like.",
        ),
        Check(
            claim="near-lossless-at-8-bits",
            says="W8A8 performs like floating point.",
            expect="equal",
            method=Arm("outlier-suppression-plus", weight_bits=8, activation_bits=8, symmetric=True),
            baseline=Arm("original"),
            beside=(Arm("outlier-suppression-plus", weight_bits=6, activation_bits=6, symmetric=True),),
            gap="The paper rounds weights per tensor at 8 bits; here per channel, on small models.",
        ),
    ),
    departs=(
        "t is searched among `steps` values in geometric steps from the largest channel down to the median one; the "
        "authors take 100 or more equal steps from the largest value down to a fixed bound",
        "the search looks at 128 calibration tokens of each block; ranges come from all of them",
        "the products inside attention stay in floating point",
    ),
)

TOKENS = 128


@torch.no_grad()
def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    weight_bits: int = 6,
    activation_bits: int = 6,
    shift: bool = True,
    scale: bool = True,
    steps: int = 20,
    per_channel: bool = True,
    dynamic: bool = False,
    symmetric: bool = False,
) -> Compressed:
    """Shift, scale and round; 16 bits leave weights or activations as they are.

    shift, scale: the two halves of the method. steps: thresholds tried. per_channel: a weight range per output
    channel, else per matrix. dynamic: an activation range per token, else one per layer from calibration.
    symmetric: no zero points. Raises ValueError.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1")
    total = count_weights(model)
    rounding = {"per_channel": per_channel, "symmetric": symmetric, "dynamic": dynamic}
    new, thresholds = 0, {}
    groups = scaling_groups(model)
    for index, (_, block, calls) in enumerate(walk(model, calibration)):
        own = [group for group in groups[index] if not isinstance(group.source, nn.Linear)]
        inside = linears(block)
        statistics = gather(block, inside, calls, {"input_min", "input_max"})
        names = {layer: name for name, layer in inside.items()}
        replays = record_calls(block, [group.scope for group in own], calls, TOKENS)
        for group, seen in zip(own, replays, strict=True):
            get = statistics[names[group.readers[0]]]
            low, high = get("input_min"), get("input_max")
            z = ((low + high) / 2).half().float() if shift else torch.zeros_like(low)
            s = torch.ones_like(low)
            if scale:
                s, thresholds[group.name] = search(
                    group, seen, low, high, z, steps=steps, bits=(weight_bits, activation_bits), **rounding
                )
            new += _fold(group, s, z if shift else None, calls)
    layers, added = round_model(
        model, calibration, weight_bits=weight_bits, activation_bits=activation_bits, **rounding
    )
    return Compressed(model, layers, total, {**added, "shifts_and_scales": 16 * new}, {"thresholds": thresholds})


def scale_to(low: Tensor, high: Tensor, threshold: float) -> Tensor:
    """s (in,) that brings each channel's range [low, high] within +-threshold; never below 1."""
    return (torch.maximum(high, -low) / threshold).clamp(min=1, max=6e4).half().float()


@torch.no_grad()
def search(
    group: Group,
    seen: list[Call],
    low: Tensor,
    high: Tensor,
    shift: Tensor,
    *,
    steps: int,
    bits: tuple[int, int],
    per_channel: bool,
    symmetric: bool,
    dynamic: bool,
) -> tuple[Tensor, float]:
    """Scale (in,) and threshold with the least squared error of the group's scope over the calls `seen`."""
    low, high = low - shift, high - shift
    reach = torch.maximum(high, -low).clamp(min=EPSILON)
    wanted = [call.through(group.scope) for call in seen]
    kept = [reader.weight.clone() for reader in group.readers]
    state: dict[str, Any] = {}

    def rounded(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = (args[0] - shift) / state["scale"]
        if bits[1] < 16:
            x = state["round"](x)
        return (x * state["scale"] + shift, *args[1:])

    handles = [reader.register_forward_pre_hook(rounded) for reader in group.readers]
    best: tuple[float, Tensor, float] | None = None
    try:
        for threshold in torch.logspace(
            float(reach.max().log2()), float(reach.median().log2()), steps, base=2
        ).tolist():
            s = scale_to(low, high, threshold)
            bottom, top = span(low / s, high / s, bits=bits[1], symmetric=symmetric)
            state["scale"] = s
            state["round"] = (
                partial(per_token, bits=bits[1], symmetric=symmetric)
                if dynamic
                else partial(per_range, bottom=bottom, top=top, bits=bits[1])
            )
            if bits[0] < 16:
                for reader, weight in zip(group.readers, kept, strict=True):
                    fake = round_weight(weight * s, bits=bits[0], per_channel=per_channel, symmetric=symmetric)
                    reader.weight.copy_(fake.dense() / s)
            loss = sum(
                float((call.through(group.scope) - y).square().sum()) for call, y in zip(seen, wanted, strict=True)
            )
            if best is None or loss < best[0]:
                best = (loss, s, threshold)
    finally:
        for handle in handles:
            handle.remove()
        for reader, weight in zip(group.readers, kept, strict=True):
            reader.weight.copy_(weight)
    assert best is not None
    return best[1], best[2]


def _fold(group: Group, scale: Tensor, shift: Tensor | None, calls: list[Call]) -> int:
    """Fold; biases that did not exist before are rounded to float16, as they are counted."""
    fresh = [reader for reader in group.readers if reader.bias is None]
    new = fold(group, scale, shift, calls)
    for reader in fresh:
        if reader.bias is not None:
            reader.bias.copy_(reader.bias.half())
    extra = getattr(group.source, "folded_bias", None)
    if extra is not None:
        extra.copy_(extra.half())
    return new
