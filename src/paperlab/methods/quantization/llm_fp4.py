"""LLM-FP4: 4-bit floating point with a searched format, and activation channels shifted by powers of two.

Liu et al., "LLM-FP4: 4-Bit Floating-Point Quantized Transformers", arXiv 2310.16836.

    value = (-1)^s 2^(p - b) (0 or 1 + m / 2^M)       E exponent bits, M mantissa bits, E + M = 3    (section 3)
    c     = (2 - 2^-M) 2^(2^E - 1 - b)                largest value; b is real: c is the scale
    format E3M0, E2M1 or E1M2 and c per layer (weights: c per output channel), searched for the least
    ||X W^T - X^ W^^T||^2                                                                           (section 4.1)
    activation channel j: b_j = b + k_j, k_j whole, 0 .. 2^E - 1, folded into the weights:
    X^ W^T = (X 2^k)^ (W 2^-k)^T                      pre-shifted exponent bias                      (section 4.2)
"""

from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.activations import round_input
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.grid import EPSILON, store
from paperlab.kit.quantized import Quantized
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, linears, walk

CARD = Card(
    paper="llm-fp4",
    family="quantization",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.05,
    equal={"layer_bits": 0.02},
    also={"encoder_compress": "embedding_error"},
    method=Arm("llm-fp4"),
    checks=(
        Check(
            claim="better-than-int4",
            says="W4A4 in FP4 keeps LLaMA-13B within 5.8 points of full precision on zero-shot tasks, 12.7 above "
            "the best before; integers collapse.",
            baseline=Arm("rtn-activations", weight_bits=4, activation_bits=4, clip=True),
            beside=(Arm("rtn-activations", weight_bits=4, activation_bits=4), Arm("original")),
            gap="The paper scores zero-shot tasks on LLaMA 7B and 13B and BERT; here perplexity of small models. The "
            "baseline is INT4 with searched ranges, weights per channel and activations per tensor as in FP4; "
            "min-max INT4, the paper's first baseline, stands beside. Embeddings and products inside attention, "
            "which the paper rounds too, stay. SmolLM2's weights at hand were rounded to 4 bits before.",
        ),
        Check(
            claim="pre-shift-helps",
            says="Shifting activation channels by powers of two is what makes 4-bit activations work.",
            baseline=Arm("llm-fp4", pre_shift=False),
            beside=(Arm("original"),),
            gap="Same formats and searches without the shifts: the paper's own ablation, on small models.",
        ),
    ),
    departs=(
        "the largest value is searched among 8 shares of the observed maximum (1.2 to 0.4), not the bias among 100",
        "one round, activations first and then weights behind rounded activations; the authors alternate three times",
        "the search looks at 128 calibration tokens of each layer; the maxima come from all of them",
        "only linear layers of the blocks are rounded: no embeddings, no products of query and key or of attention and "
        "value",
        "no bias correction",
    ),
)

Format = tuple[int, int]  # exponent and mantissa bits
FORMATS: dict[str, Format] = {"e2m1": (2, 1), "e1m2": (1, 2), "e3m0": (3, 0)}
SHARES = (1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
TOKENS = 128
FormatName = Literal["search", "e2m1", "e1m2", "e3m0"]


@torch.no_grad()
def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    activations: bool = True,
    pre_shift: bool = True,
    weight_format: FormatName = "search",
    activation_format: FormatName = "search",
) -> Compressed:
    """W4A4 in FP4, or W4A16 with activations=False. Weights: one largest value per output channel.

    pre_shift: exponent bias per activation channel. Formats: one of three, or searched for each layer.
    Raises ValueError for an unknown format.
    """
    total = count_weights(model)
    layers: dict[str, Quantized] = {}
    added: dict[str, int] = {}
    chosen: dict[str, object] = {}
    for stem, block, calls in walk(model, calibration):
        inside = linears(block)
        statistics = gather(block, inside, calls, {"inputs", "input_absmax"})
        for name, layer in inside.items():
            full = f"{stem}.{name}"
            weight = layer.weight.detach().float()
            tokens = statistics[name]("inputs")
            x = tokens[:: max(1, len(tokens) // TOKENS)]
            target, rounded, formats = x @ weight.T, x, ""
            if activations:
                peak = statistics[name]("input_absmax")
                label, top, shift = _search_activations(x, peak, weight, _choices(activation_format), pre_shift)
                rounded = round_fp(x * shift, top, FORMATS[label])
                weight = weight / shift
                round_input(layer, partial(_round_shifted, shift=shift, top=top, form=FORMATS[label]))
                exponents = FORMATS[label][0] if pre_shift else 0
                added[f"{full}.input"] = 16 + 2 + exponents * len(shift)  # largest value, format, shifts
                formats = f", inputs {label}"
            label, layers[full] = _search_weights(weight, rounded, target, _choices(weight_format))
            layer.weight.copy_(layers[full].dense())
            chosen[full] = f"weights {label}{formats}"
    return Compressed(model, layers, total, added, notes={"formats": chosen})


def _choices(name: str) -> list[str]:
    if name != "search" and name not in FORMATS:
        raise ValueError(f"format {name!r}: 'search' or one of {', '.join(FORMATS)}")
    return list(FORMATS) if name == "search" else [name]


def _largest(form: Format) -> float:
    """Largest value at bias 0: the unit in which `_parts` works."""
    exponent, mantissa = form
    return (2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1)


def _parts(x: Tensor, top: Tensor | float, form: Format) -> tuple[Tensor, Tensor]:
    """|x| as n * 2^(e - M): (n, e), n whole, e >= 1; e = 1 also holds the subnormal values."""
    unit = (x.abs() * (_largest(form) / top)).clamp(max=_largest(form))
    e = (torch.frexp(unit).exponent - 1).clamp(min=1)
    return torch.ldexp(unit, form[1] - e).round_(), e


def round_fp(x: Tensor, top: Tensor | float, form: Format) -> Tensor:
    """Nearest values of the 4-bit format (E, M) whose largest value is `top`; top broadcasts over x."""
    n, e = _parts(x, top, form)
    return torch.ldexp(n, e - form[1]).mul_(top / _largest(form)).copysign_(x)


def levels(form: Format) -> Tensor:
    """The 15 values of the format, ascending, largest 1."""
    exponent, mantissa = form
    index = torch.arange(2 ** (exponent + mantissa))
    e = (index >> mantissa).clamp(min=1)
    positive = torch.ldexp((index - ((e - 1) << mantissa)).float(), e - mantissa) / _largest(form)
    return torch.cat([-positive[1:].flip(0), positive])


def encode_fp(x: Tensor, top: Tensor, form: Format) -> Tensor:
    """Index into `levels` of the value nearest to x / top."""
    n, e = _parts(x, top, form)
    magnitude = (e - 1) * 2 ** form[1] + n
    return (magnitude.copysign(x) + 2 ** sum(form) - 1).to(torch.int16)


def _shifts(peak: Tensor, top: float, form: Format, pre_shift: bool) -> Tensor:
    """2^k_j per channel: how far channel j, at most peak_j, may be raised towards `top`; k_j in 0 .. 2^E - 1."""
    if not pre_shift:
        return torch.ones_like(peak)
    k = (top / peak.clamp(min=EPSILON)).log2().round().clamp(0, 2 ** form[0] - 1)
    return torch.exp2(k)


def _round_shifted(x: Tensor, *, shift: Tensor, top: float, form: Format) -> Tensor:
    return round_fp(x * shift.to(x), top, form)


def _search_activations(
    x: Tensor, peak: Tensor, weight: Tensor, choices: list[str], pre_shift: bool
) -> tuple[str, float, Tensor]:
    """Format, largest value and 2^k of one layer's inputs x (n, in), by the error of the layer's output."""
    found: list[tuple[float, str, float, Tensor]] = []
    for label in choices:
        for share in SHARES:
            top = float(store(peak.max() * share))
            shift = _shifts(peak, top, FORMATS[label], pre_shift)
            error = (round_fp(x * shift, top, FORMATS[label]) / shift - x) @ weight.T
            found.append((float(error.square().sum()), label, top, shift))
    _, label, top, shift = min(found, key=lambda candidate: candidate[0])
    return label, top, shift


def _search_weights(weight: Tensor, x: Tensor, target: Tensor, choices: list[str]) -> tuple[str, Quantized]:
    """Format of the layer and largest value of each row, by the error x W^^T - target (n, out)."""
    results: list[tuple[float, str, Tensor]] = []
    for label in choices:
        best, chosen = None, None
        for share in SHARES:
            top = store(weight.abs().amax(dim=1, keepdim=True) * share)
            loss = (x @ round_fp(weight, top.float(), FORMATS[label]).T - target).square().sum(0)[:, None]
            if best is None:
                best, chosen = loss, top
            better = loss < best
            best, chosen = torch.where(better, loss, best), torch.where(better, top, cast(Tensor, chosen))
        results.append((float(cast(Tensor, best).sum()), label, cast(Tensor, chosen)))
    _, label, top = min(results, key=lambda result: result[0])
    codes = encode_fp(weight, top.float(), FORMATS[label])
    book = levels(FORMATS[label])[None, :, None]
    return label, Quantized(codes[..., None], 4, top, codebook=book, codebook_bits=0, extra={"format": 2})
