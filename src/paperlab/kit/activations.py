"""Rounding of activations at run time: what happens to the input of a linear layer in a W4A4 model."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paperlab.kit.grid import EPSILON, levels


def per_token(x: Tensor, *, bits: int, symmetric: bool = True) -> Tensor:
    """Round (…, width) activations with one dynamic range per token; returns the rounded values."""
    low, high = levels(bits, symmetric)
    if symmetric:
        scale = _scale(x, high)
        return (x / scale).round().clamp(low, high) * scale
    bottom, top = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    return per_range(x, bottom, top, bits=bits)


def per_head(x: Tensor, *, bits: int, size: int) -> Tensor:
    """Round keys or values (b, t, heads * size), with one asymmetric dynamic range per token and head."""
    return per_token(x.view(*x.shape[:-1], -1, size), bits=bits, symmetric=False).view_as(x)


def per_token_through(x: Tensor, *, bits: int, symmetric: bool = True) -> Tensor:
    """As `per_token`, but the gradient passes the rounding as if it were not there.

    The range takes part in the gradient: a row is rewarded for a smaller one.
    """
    low, high = levels(bits, symmetric)
    if symmetric:
        scale = _scale(x, high)
        return straight_through(lambda codes: codes.round().clamp(low, high), x / scale) * scale
    bottom, top = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = ((top - bottom) / (2**bits - 1)).clamp(min=EPSILON)
    zero = (-bottom / scale).detach().round()
    return straight_through(lambda codes: (codes.round() + zero).clamp(0, 2**bits - 1) - zero, x / scale) * scale


def _scale(x: Tensor, high: int) -> Tensor:
    return (x.abs().amax(-1, keepdim=True) / high).clamp(min=EPSILON)


def straight_through(rounding: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """rounding(x) with the identity's gradient (Bengio, Leonard and Courville, arXiv 1308.3432)."""
    return x + (rounding(x) - x).detach()


def per_range(x: Tensor, bottom: Tensor | float, top: Tensor | float, *, bits: int) -> Tensor:
    """Round to 2^bits levels over [bottom, top], a static range (scalars, or one per channel); values clip."""
    bottom, top = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (bottom, top))
    scale = ((top - bottom) / (2**bits - 1)).clamp(min=EPSILON)
    zero = (-bottom / scale).round()
    return ((x / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero) * scale


def round_input(layer: nn.Module, rounding: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """From now on `layer` sees rounding(x) in place of its first input x. Survives deepcopy; the handle ends it."""
    return layer.register_forward_pre_hook(lambda _, args: (rounding(args[0]), *args[1:]))
