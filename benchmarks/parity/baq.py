"""BAQ against the authors' code; prints rows for benchmarks/parity.md.

    git clone https://github.com/CSU-ModelCompression/BAQ
    PYTHONPATH=src:benchmarks python benchmarks/parity/baq.py BAQ

gptq_baq.py runs as it is, on the CPU: the pass that measures, then the one that rounds, with the settings of
`opt_baq.py MODEL c4 --wbits 2` (or 3). The layer and its Hessian are those of benchmarks/parity.py, for both passes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import parity
import peers
import torch
from torch import Tensor, nn

from paperlab.methods.quantization import baq


def authors(folder: Path, weight: Tensor, hessian: Tensor, bits: int) -> tuple[Tensor, float]:
    """Their rounded weights (out, in) and their mean bits."""
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        import gptq_baq
        import quant_baq

    kept: dict[str, dict[str, Any]] = {
        "R_aver_container": {"value": 0.0},
        "ele_sum_container": {"value": 0.0},
        "R_record_container": {"value": torch.zeros(1, 6)},
        "Gain_vec_container": {"value": []},
    }
    losses: dict[str, Any] = {"value": []}
    place: dict[str, Any] = {"layer_idx": 0, "col_idx": 0, "R_ref": bits}

    def prepared() -> Any:
        layer = nn.Linear(*reversed(weight.shape), bias=False)
        layer.weight.data = weight.clone()
        solver = gptq_baq.GPTQ(layer)
        solver.H = hessian.clone()
        solver.quantizer = quant_baq.Quantizer()
        solver.quantizer.configure(bits, perchannel=True, sym=False, mse=False, trits=False)
        return solver

    with mock.patch.object(torch.cuda, "synchronize"), torch.no_grad():
        prepared().fasterquant_calib(loss_vec_container=losses, **kept, **place)
        ratio = torch.tensor(kept["Gain_vec_container"]["value"]).view(1, 1)
        kept["R_aver_container"]["value"] = kept["ele_sum_container"]["value"] = 0.0
        solver = prepared()
        solver.fasterquant(Ratio_geo_ari=ratio, loss_vec_tensor=losses["value"], **kept, **place)
    return solver.layer.weight.data, kept["R_aver_container"]["value"]


def rows(folder: Path) -> Iterator[str]:
    """Lines of the table, then what the matrices' mean bits are."""
    weight, _, hessian = parity.layer()
    said = []
    for bits in (2, 3):
        ours = baq.quantize(weight, hessian, mean_bits=float(bits))
        theirs, mean = peers.quiet(lambda bits=bits: authors(folder, weight, hessian, bits))
        row = parity.compare(f"BAQ, {bits} bits", "CSU-ModelCompression/BAQ 4f2e027", ours.dense(), theirs,
                             least=0.85, most=0.02)  # fmt: skip
        yield (
            f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {row.same:.1%} "
            f"| {row.least:.1%}, {row.most:.1%} | {'yes' if row.agrees else 'NO'} |"
        )
        assert isinstance(ours.bits, Tensor)
        said.append(f"{float(ours.bits.mean()):.4f} against {mean:.4f}")
    yield f"Mean bits, ours against theirs: {', '.join(said)}."


if __name__ == "__main__":
    for line in rows(Path(sys.argv[1])):
        print(line, flush=True)
