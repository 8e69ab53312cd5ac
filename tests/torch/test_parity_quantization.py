"""Our quantizers lose as much as other people's did on the same seeded layer, as benchmarks/parity.md recorded.

tests/slow/test_parity_quantization.py runs the other packages themselves; they are too heavy for every test run.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from paperlab.kit.gptq import gptq
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.quantized import Quantized
from paperlab.methods.quantization import hqq, nf4

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = re.compile(r"^\| ([^|]+) \| (\S+ [\d.]\S*) \| [\d.]+ \| ([\d.]+) \| [\d.]+% \| [\d.]+%, ([\d.]+)% \|", re.M)
THEIRS = ROW.findall((BENCHMARKS / "parity.md").read_text(encoding="utf-8"))
OURS: dict[str, Callable[[Tensor, Tensor], Quantized]] = {
    "round to nearest, per row": lambda w, h: round_to_grid(w, *min_max(w, bits=4), bits=4),
    "round to nearest, group 64": lambda w, h: round_to_grid(w, *min_max(w, bits=4, group=64), bits=4),
    "GPTQ, per row": lambda w, h: gptq(w, h),
    "GPTQ, group 64": lambda w, h: gptq(w, h, group=64),
    "GPTQ, per row, asymmetric, same scales": lambda w, h: gptq(w, h),
    "GPTQ, per row, symmetric, same scales": lambda w, h: gptq(w, h, symmetric=True),
    "GPTQ, group 64, act order, same scales": lambda w, h: gptq(w, h, group=64, act_order=True),
    "HQQ, 4 bits, group 64": lambda w, h: hqq.quantize(w, bits=4),
    "HQQ, 3 bits, group 64": lambda w, h: hqq.quantize(w, bits=3),
    "HQQ, 2 bits, group 64": lambda w, h: hqq.quantize(w, bits=2),
    "NF4, group 64": lambda w, h: nf4.quantize(w),
}


def test_every_row_is_checked() -> None:
    assert len(THEIRS) == 15
    assert {what for what, *_ in THEIRS} == set(OURS)


@pytest.mark.parametrize(("what", "peer", "loss", "within"), THEIRS)
def test_as_good_as(what: str, peer: str, loss: str, within: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import parity

    weight, _, hessian = parity.layer()
    error = weight - OURS[what](weight, hessian).dense()
    ours = float((error @ hessian * error).sum() / (weight @ hessian * weight).sum())
    printed = 0.5e-5 / float(loss)  # the table has five decimals
    assert ours == pytest.approx(float(loss), rel=float(within) / 100 + printed)
