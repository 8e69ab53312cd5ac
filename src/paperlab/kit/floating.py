"""Small floating-point formats of E exponent and M mantissa bits, without infinities: values, rounding, codes.

    value = (-1)^s 2^(p - b) (0 or 1 + m / 2^M)        p in 0 .. 2^E - 1; p = 0 holds the subnormal values

b is real: the scale. A format is placed by its largest value instead.
"""

import torch
from torch import Tensor

Format = tuple[int, int]  # exponent and mantissa bits


def largest(form: Format) -> float:
    """Largest value at bias 0: the unit in which `_parts` works."""
    exponent, mantissa = form
    return (2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1)


def _parts(x: Tensor, top: Tensor | float, form: Format) -> tuple[Tensor, Tensor]:
    """|x| as n * 2^(e - M): (n, e), n whole, e >= 1; e = 1 also holds the subnormal values."""
    unit = (x.abs() * (largest(form) / top)).clamp(max=largest(form))
    e = (torch.frexp(unit).exponent - 1).clamp(min=1)
    return torch.ldexp(unit, form[1] - e).round_(), e


def round_fp(x: Tensor, top: Tensor | float, form: Format) -> Tensor:
    """Nearest values of the 4-bit format (E, M) whose largest value is `top`; top broadcasts over x."""
    n, e = _parts(x, top, form)
    return torch.ldexp(n, e - form[1]).mul_(top / largest(form)).copysign_(x)


def levels(form: Format) -> Tensor:
    """The 15 values of the format, ascending, largest 1."""
    exponent, mantissa = form
    index = torch.arange(2 ** (exponent + mantissa))
    e = (index >> mantissa).clamp(min=1)
    positive = torch.ldexp((index - ((e - 1) << mantissa)).float(), e - mantissa) / largest(form)
    return torch.cat([-positive[1:].flip(0), positive])


def encode_fp(x: Tensor, top: Tensor, form: Format) -> Tensor:
    """Index into `levels` of the value nearest to x / top."""
    n, e = _parts(x, top, form)
    magnitude = (e - 1) * 2 ** form[1] + n
    return (magnitude.copysign(x) + 2 ** sum(form) - 1).to(torch.int16)
