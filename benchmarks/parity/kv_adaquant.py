"""The rounded cache against the two quantizers that its authors use; prints rows for benchmarks/parity.md.

    pip install --no-deps optimum-quanto==0.2.7 hqq==0.2.8.post1     in an environment with torch
    PYTHONPATH=src:benchmarks python benchmarks/parity/kv_adaquant.py

github.com/mohsenhariri/kvq (ad3e08a) rounds with quanto's MaxOptimizer on axis 0, spectral-kv (e9ed423) with hqq's
Quantizer, both in groups of 64. The "cache" is the layer of benchmarks/parity.py: 192 tokens of 256 channels.
"""

from importlib.metadata import version

import parity
import torch
from torch import Tensor

from paperlab.methods.quantization.kv_adaquant import round_groups


def quanto(x: Tensor, bits: int) -> Tensor:
    """As kvq's `_quantize` and `_dequantize`."""
    from optimum.quanto import MaxOptimizer, qint2, qint4, quantize_weight

    kind = {2: qint2, 4: qint4}[bits]
    scale, shift = MaxOptimizer()(x, kind, 0, 64)
    return quantize_weight(x, kind, 0, scale, shift=shift, group_size=64, optimized=False).dequantize()


def hqq(x: Tensor, bits: int) -> Tensor:
    """As spectral-kv's `_quantize` and `_dequantize`, on axis 1 as its evaluation asks, without HQQ's search."""
    from hqq.core.quantize import Quantizer

    packed, meta = Quantizer.quantize(
        x,
        axis=1,
        nbits=bits,
        group_size=64,
        optimize=False,
        device="cpu",
        compute_dtype=torch.float32,
        bitpack=False,
    )
    return Quantizer.dequantize(packed, {**meta, "compute_dtype": torch.float32})


def main() -> None:
    """Each quantizer at 2 and 4 bits."""
    cache = parity.layer()[0]
    for bits in (4, 2):
        for package, peer in (("optimum-quanto", quanto), ("hqq", hqq)):
            row = parity.compare(
                f"key/value cache, {bits} bits, group 64",
                f"{package} {version(package)}",
                round_groups(cache, bits=bits, group=64),
                peer(cache, bits),
                least=0.995,
                most=0.005,
            )
            print(
                f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {100 * row.same:.1f}% | "
                f"{100 * row.least:.1f}%, {100 * row.most:.1f}% | {'yes' if row.agrees else 'NO'} |"
            )


if __name__ == "__main__":
    main()
