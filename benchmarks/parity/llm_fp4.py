"""LLM-FP4 against its authors' code; prints rows for README.md beside this file.

    PYTHONPATH=src:benchmarks python benchmarks/parity/llm_fp4.py FOLDER

FOLDER: a clone of github.com/nbasyl/LLM-FP4. Same layer as in benchmarks/parity.py, the first 256 inputs. Theirs
searches 100 biases for each format, three times over; ours 12 largest values, once. The loss is of the layer's outputs,
inputs and weights rounded: ||X^ W^^T - X W^T||^2 / ||X W^T||^2.

Their largest value is (2 - 2^-M) 2^(2^E - 1 - b), where M is a tensor of integers: 2^-M comes out 0, and one magnitude
more than 4 bits hold passes the clipping. Here M is a number, so that the formula is the paper's.
"""

import contextlib
import io
import sys
import warnings
from typing import Any

import parity
import torch
from torch import Tensor

from paperlab.kit.floating import encode_fp, levels, round_fp
from paperlab.methods.quantization import llm_fp4

FORMS = {0: (3, 0), 1: (2, 1), 2: (1, 2)}  # by mantissa bits


def largest(self: Any, *bias: Any) -> Tensor:
    """Their get_maxval_from_bias of inputs (0) or weights (1), with numbers."""
    which = bias[-1]
    value = bias[0] if len(bias) > 1 else (self.w_interval if which else self.a_interval)
    mantissa, exponent = (
        (self.w_mantissa_bit, self.w_exponent_bit) if which else (self.a_mantissa_bit, self.a_exponent_bit)
    )
    return (2 - 2.0 ** -int(mantissa)) * 2.0 ** (2 ** int(exponent) - 1 - value)


def layer_of(kind: Any, weight: Tensor, x: Tensor) -> Any:
    """Their layer after calibration on x (1, n, in)."""
    search = {"search_round": 3, "eq_alpha": 0.01, "eq_beta": 1.2, "eq_n": 100}
    honest = type(
        "Honest",
        (kind,),
        {"get_maxval_from_bias": lambda self, *args, **named: largest(self, *args, *named.values())},
    )
    made = honest(
        weight.shape[1], weight.shape[0], bias=False, w_bit=4, a_bit=4, w_exponent_bit=2, a_exponent_bit=2, **search
    )
    made.w_mantissa_bit, made.a_mantissa_bit = (torch.tensor(1.0) for _ in range(2))
    made.weight.data = weight.clone()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.calibration_step1(x)
        made.calibration_step2()
    return made


def main() -> None:
    """Rounding at their parameters, which must agree; then what each search finds."""
    sys.path.insert(0, sys.argv[1])
    from quant_layers import fp_linear as theirs

    weight, x, _ = parity.layer()
    x = x[:256]
    exact = x @ weight.T
    peak = x.abs().amax(0)

    def loss(rounded: Tensor, weights: Tensor) -> float:
        return float((rounded @ weights.T - exact).square().sum() / exact.square().sum())

    for what, kind, shift, clip, names in (
        ("FPQ", theirs.FPPTQSLBatchingQuantLinear_fpq, True, True, list(llm_fp4.FORMATS)),
        ("FPQ baseline", theirs.FPPTQSLBatchingQuantLinear_fpq_baseline, False, True, list(llm_fp4.FORMATS)),
        ("MinMax E2M1", theirs.FPPTQSLBatchingQuantLinear_MinMax, False, False, ["e2m1"]),
    ):
        other = layer_of(kind, weight, x[None])
        with torch.no_grad():
            peer = other.quant_input(x[None])[0], other.quant_weight_bias()[0].detach()
        # our rounding with the parameters that they found
        form, inner = FORMS[int(other.w_mantissa_bit)], FORMS[int(other.a_mantissa_bit)]
        top = (other.get_maxval_from_bias(other.w_interval, 1) if shift else other.get_maxval_from_bias(1)).view(-1, 1)
        if shift:
            reach = float(other.get_maxval_from_bias(other.a_interval, 0))
            inputs = llm_fp4._round_shifted(x, shift=llm_fp4._shifts(peak, reach, inner, True), top=reach, form=inner)
        else:
            inputs = round_fp(x, float(other.get_maxval_from_bias(0)), inner)
        weights = levels(form)[encode_fp(weight, top, form).long()] * top
        same = [
            float((a - b).abs().le(1e-5 * b.abs()).float().mean()) for a, b in ((inputs, peer[0]), (weights, peer[1]))
        ]
        # our own search
        shares = llm_fp4.SHARES if clip else (1.0,)
        label, most, shifts = llm_fp4._search_activations(x, peak, weight, names, shares, shift)
        found = llm_fp4._round_shifted(x, shift=shifts, top=most, form=llm_fp4.FORMATS[label])
        chosen, stored = llm_fp4._search_weights(weight, found, exact, names, shares)
        formats = f"{label}, {chosen} | E{inner[0]}M{inner[1]}, E{form[0]}M{form[1]}".upper()
        losses = f"{loss(found, stored.dense()):.5f} | {loss(*peer):.5f}"
        print(f"| {what} | {same[0]:.1%}, {same[1]:.1%} | {formats} | {losses} |")


if __name__ == "__main__":
    main()
