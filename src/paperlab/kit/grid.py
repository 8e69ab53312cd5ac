"""Uniform integer grids: the range of each group of weights, rounding to it, and how much of its space data fill."""

import math

import torch
from torch import Tensor

from paperlab.kit.quantized import Quantized, grouped, spread

EPSILON = 1e-8  # a group of zeros still needs a scale


def levels(bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest code: -2^(b-1) .. 2^(b-1)-1, or 0 .. 2^b-1."""
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits}: between 1 and 16")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def min_max(weight: Tensor, *, bits: int, group: int | None = None, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Scale and zero point that cover each group's range. weight (out, in) -> two of (out, groups).

    The scale is rounded to float16 first, as it is stored; asymmetric ranges always contain 0, so that the
    zero point is a code. symmetric: 2 max|w| / (2^b - 1), as common tools have it, so that the largest magnitude lies
    half a step beyond code 2^(b-1) - 1 (at one bit it is code 1).
    """
    low, high = levels(bits, symmetric)
    parts = grouped(weight.float(), group)
    if symmetric:
        reach = (high - low) / 2 if bits > 1 else 1
        scale = store(parts.abs().amax(dim=2) / reach)
        return scale, torch.zeros_like(scale)
    bottom, top = parts.amin(dim=2).clamp(max=0), parts.amax(dim=2).clamp(min=0)
    scale = store((top - bottom) / (high - low))
    return scale, (-bottom / scale.float()).round().clamp(low, high)


def store(scale: Tensor) -> Tensor:
    """A scale as it is stored: float16, never zero."""
    return scale.clamp(min=EPSILON).to(torch.float16).clamp(min=torch.finfo(torch.float16).tiny)


def encode(weight: Tensor, scale: Tensor, zero: Tensor, *, bits: int, symmetric: bool = False) -> Tensor:
    """Nearest codes of (out, in) weights: clamp(round(w / scale) + zero)."""
    low, high = levels(bits, symmetric)
    columns = weight.shape[1]
    codes = (weight.float() / spread(scale.float(), columns)).round() + spread(zero.float(), columns)
    return codes.clamp(low, high)


def round_to_grid(weight: Tensor, scale: Tensor, zero: Tensor, *, bits: int, symmetric: bool = False) -> Quantized:
    """Round (out, in) weights to the grid of each group and pack them as `Quantized`."""
    codes = encode(weight, scale, zero, bits=bits, symmetric=symmetric)
    return Quantized(
        codes=codes.to(torch.int16),
        bits=bits,
        scale=scale.to(torch.float16),
        zero=None if symmetric else zero.to(torch.int16),
        zero_bits=bits,
    )


def qsur(x: Tensor, confidence: float = 0.99) -> float:
    """Quantization space utilisation rate of (n, d) data, as its d-th root: above 0, at most sqrt(pi e / 2) = 2.07.

    V_X / V_S: the volume of the ellipsoid that holds `confidence` of a Gaussian with the data's mean and covariance,
    over the hypercube of the quantization range, max - min over the ends of the ellipsoid's axes
    mu +- sqrt(chi2 lambda_i) q_i (Hu et al., OstQuant, arXiv 2501.13987, the section on QSUR). Those ends alone may
    span less than the ellipsoid, hence values above 1. The ratio itself underflows at a model's width; the d-th root
    orders alike.
    """
    from scipy.stats import chi2

    x = x.double()
    width = x.shape[1]
    variances, axes = torch.linalg.eigh(torch.cov(x.T).reshape(width, width))
    variances = variances.clamp(min=1e-12 * float(variances.max().clamp(min=1e-30)))
    radius = float(chi2.ppf(confidence, width))
    reach = axes * (radius * variances).sqrt()  # column i: half of axis i
    corners = torch.cat([x.mean(0)[:, None] + reach, x.mean(0)[:, None] - reach], dim=1)
    log_ellipsoid = 0.5 * width * math.log(math.pi * radius) - math.lgamma(width / 2 + 1) + 0.5 * variances.log().sum()
    return float(torch.exp(log_ellipsoid / width) / (corners.max() - corners.min()))
