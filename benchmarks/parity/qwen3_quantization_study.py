"""Our GPTQ and round-to-nearest against the study's own code; prints rows for benchmarks/parity.md.

    git clone https://github.com/Efficient-ML/Qwen3-Quantization
    PYTHONPATH=src:benchmarks python benchmarks/parity/qwen3_quantization_study.py Qwen3-Quantization/GPTQ-for-Qwen

GPTQ-for-Qwen/gptq.py and quant/quantizer.py run as they are; what they import for GPU kernels and for tables is
stubbed. The study's configuration: one range per channel, zero points, activation order, damping 0.01. The layer and
its inputs are those of benchmarks/parity.py.
"""

import contextlib
import importlib.util
import io
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import parity
from torch import Tensor, nn

from paperlab.kit.gptq import gptq
from paperlab.methods.quantization.round_to_nearest import quantize as round_to_nearest


def load(name: str, file: Path) -> Any:
    """A module from a file, under a name."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(folder: Path, bits: int, *, nearest: bool) -> Tensor:
    """Their rounded weights of the layer."""
    weight, x, _ = parity.layer()
    quantizer = load("their_quantizer", folder / "quant" / "quantizer.py").Quantizer
    stubs: dict[str, Any] = {name: types.ModuleType(name) for name in ("quant", "texttable", "utils")}
    stubs["quant"].Quantizer = quantizer
    stubs["texttable"].Texttable = mock.MagicMock()
    stubs["utils"].torch_snr_error = mock.MagicMock()
    with mock.patch.dict(sys.modules, stubs), mock.patch("torch.cuda.synchronize"):
        module = load("their_gptq", folder / "gptq.py")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight.clone()
        solver = module.GPTQ(layer)
        solver.quantizer.configure(bits, perchannel=True, sym=False, mse=False)
        if nearest:
            solver.quantizer.find_params(weight, weight=True)
            return solver.quantizer.quantize(weight)
        solver.print_loss = lambda name, q_weight, weight_error, timecost: setattr(layer.weight, "data", q_weight)
        solver.add_batch(x, None)
        with contextlib.redirect_stdout(io.StringIO()):
            solver.fasterquant(percdamp=0.01, groupsize=-1, actorder=True, name="layer")
    return layer.weight.data


def main(folder: Path) -> None:
    """At 4, 3 and 2 bits."""
    weight, _, hessian = parity.layer()
    for bits in (4, 3, 2):
        for what, ours, nearest in (
            ("round to nearest", round_to_nearest(weight, bits=bits).dense(), True),
            ("GPTQ, act order", gptq(weight, hessian, bits=bits, act_order=True).dense(), False),
        ):
            least, most = (0.999, 0.005) if nearest else (0.85, 0.02)
            found = theirs(folder, bits, nearest=nearest)
            row = parity.compare(f"{what}, {bits} bits per row", "", ours, found, least=least, most=most)
            print(
                f"| {row.what} | Efficient-ML/Qwen3-Quantization cef1087 | {row.ours:.5f} | {row.theirs:.5f} | "
                f"{100 * row.same:.1f}% | {100 * least:.1f}%, {100 * most:.1f}% | {'yes' if row.agrees else 'NO'} |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
