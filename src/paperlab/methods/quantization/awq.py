"""AWQ: scale up the weight channels that meet strong activations before rounding, as much as serves the output.

    s = s_x^alpha,  s_x = mean|x| per input channel,  alpha from a grid of 20 in [0, 1)        (eq. 4-5)
    argmin_alpha || f(Q(W diag(s)) diag(s)^-1; X) - f(W; X) ||^2      f: the attention, the MLP or the layer

1 / s is folded into the norm or layer before. Then each group's range is clipped where the layer's squared error falls.

Lin et al., AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration, arXiv 2306.00978,
section 3.2; s is divided by sqrt(max s * min s), and the clip's 10 steps of 5 % are searched, as in the authors' code.
"""

from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.fold import Group, fold, scaling_groups, watched
from paperlab.kit.grid import levels, min_max, round_to_grid
from paperlab.kit.layouts import QUERIES_AND_KEYS
from paperlab.kit.quantized import Quantized, grouped, spread
from paperlab.kit.scope import record_calls
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, Call, block_linears, linears, walk

CARD = Card(
    family="quantization",
    departs=(
        "the search looks at `tokens` calibration tokens, in whole batches, to stay within minutes on a CPU",
        "value to output is also scaled where query heads share a value head (one scale for the heads that share it)",
        "clipping compares squared errors through the inputs' second moments, which is exact, not through a sample",
        "in encoders that norm after the residual, the residual multiplies back by s: one stored vector per norm",
    ),
)

CLIP_STEPS, CLIP_LEAST = 10, 0.5  # ranges tried: 1, 0.95, … 0.55 of the largest magnitude


def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    bits: int = 4,
    group: int | None = 64,
    symmetric: bool = False,
    steps: int = 20,
    clip: bool = True,
    tokens: int = 256,
) -> Compressed:
    """Scale, clip and round the blocks' linear layers to `bits` bits, in groups of `group` columns.

    steps: alphas tried for each set of layers. tokens: at least so many calibration tokens enter the search.
    """
    if steps < 1 or tokens < 1:
        raise ValueError(f"steps={steps}, tokens={tokens}: at least 1 of each")
    count, added = count_weights(model), 0
    grid: Any = {"bits": bits, "group": group, "symmetric": symmetric}
    alphas: dict[str, float] = {}
    layers: dict[str, Quantized] = {}
    groups = scaling_groups(model)
    for index, (stem, block, calls) in enumerate(walk(model, calibration)):
        inside = linears(block)
        seen_in = watched(inside, groups[index])
        statistics = gather(block, seen_in, calls, {"input_absmean"} | ({"hessian"} if clip else set()))
        names = {layer: name for name, layer in seen_in.items()}
        replays = record_calls(block, [own.scope for own in groups[index]], calls, tokens)
        folded: dict[nn.Linear, Tensor] = {}
        chosen = []
        # all searches see the original block, as in the authors' code
        for own, seen in zip(groups[index], replays, strict=True):
            x_mean = own.to_source(statistics[names[own.seen]]("input_absmean"), "mean")
            scale, alphas[own.name] = search(own, x_mean, seen, steps=steps, **grid)
            chosen.append((own, scale))
        for own, scale in chosen:
            added += fold(own, scale, calls=calls)
            folded |= dict.fromkeys(own.readers, own.to_readers(scale))
        for name, layer in inside.items():
            limit: Tensor | None = None
            if clip and not name.endswith(QUERIES_AND_KEYS):  # their product is too sensitive (the authors' code)
                scale = folded.get(layer, torch.ones(layer.in_features))
                limit = clip_search(layer.weight.detach(), statistics[name]("hessian") / scale / scale[:, None], **grid)
            layers[f"{stem}.{name}"] = _round(layer.weight.detach(), limit, **grid)
    for name, layer in block_linears(model).items():
        with torch.no_grad():
            layer.weight.copy_(layers[name].dense())
    return Compressed(model, layers, count, added={"residual_scale": 16 * added}, notes={"alphas": alphas})


@torch.no_grad()
def search(
    own: Group, x_mean: Tensor, seen: list[Call], *, steps: int, bits: int, group: int | None, symmetric: bool
) -> tuple[Tensor, float]:
    """Scale (own.width,) and alpha with the least squared error of the scope's output over the calls `seen`."""
    kept = [reader.weight.clone() for reader in own.readers]
    wanted = [call.through(own.scope) for call in seen]
    best: tuple[float, float, Tensor] | None = None
    for step in range(steps):
        scale = x_mean.pow(step / steps).clamp(min=1e-4)
        scale = (scale / (scale.max() * scale.min()).sqrt()).half().float()  # a residual scale is stored so
        s = own.to_readers(scale)
        for reader, weight in zip(own.readers, kept, strict=True):
            reader.weight.copy_(fake(weight * s, bits=bits, group=group, symmetric=symmetric).div_(s))
        loss = sum(float((call.through(own.scope) - y).square().sum()) for call, y in zip(seen, wanted, strict=True))
        if best is None or loss < best[0]:
            best = (loss, step / steps, scale)
    for reader, weight in zip(own.readers, kept, strict=True):
        reader.weight.copy_(weight)
    assert best is not None
    if not torch.isfinite(torch.tensor(best[0])):
        raise ValueError(f"{own.name}: the block's output is not finite on the calibration data")
    return best[2], best[1]


def fake(weight: Tensor, *, bits: int, group: int | None, symmetric: bool) -> Tensor:
    """(out, in) weights after rounding to their min-max grid, (out, in) float32; `weight` is overwritten."""
    low, high = levels(bits, symmetric)
    scale, zero = min_max(weight, bits=bits, group=group, symmetric=symmetric)
    step, zero = scale.float()[..., None], zero.float()[..., None]
    parts = grouped(weight, group).div_(step).round_()
    return torch.clamp(parts, low - zero, high - zero, out=parts).mul_(step).view_as(weight)


def clip_search(weight: Tensor, hessian: Tensor, *, bits: int, group: int | None, symmetric: bool) -> Tensor:
    """Largest magnitude to keep in each group, (out, groups): the one with the least error e H_g e^T.

    hessian: (in, in) second moments of the inputs; H_g is its diagonal block, so groups are searched apart.
    """
    parts = grouped(weight, group)
    groups, size = parts.shape[1:]
    index = torch.arange(groups)
    moments = hessian.view(groups, size, groups, size)[index, :, index]  # (groups, size, size)
    top = parts.abs().amax(2)
    least, best = torch.full_like(top, torch.inf), top
    for step in range(CLIP_STEPS):
        limit = top * (1 - (1 - CLIP_LEAST) * step / CLIP_STEPS)
        clipped = parts.clamp(-limit[..., None], limit[..., None]).view_as(weight)
        error = (fake(clipped, bits=bits, group=group, symmetric=symmetric).view_as(parts) - parts).transpose(0, 1)
        loss = (torch.bmm(error, moments) * error).sum(2).T
        best, least = torch.where(loss < least, limit, best), torch.minimum(loss, least)
    return best


def _round(weight: Tensor, limit: Tensor | None, *, bits: int, group: int | None, symmetric: bool) -> Quantized:
    if limit is not None:
        reach = spread(limit, weight.shape[1])
        weight = weight.clamp(-reach, reach)
    scale, zero = min_max(weight, bits=bits, group=group, symmetric=symmetric)
    return round_to_grid(weight, scale, zero, bits=bits, symmetric=symmetric)
