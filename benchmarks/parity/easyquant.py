"""EasyQuant's ranges against torch's own Adam and autograd; prints rows for benchmarks/parity.md.

    PYTHONPATH=src:benchmarks python benchmarks/parity/easyquant.py

No code of the authors was found. The peer takes nothing of ours: the outliers by numpy, the descent by
torch.optim.Adam on the scales with rounding taken as a constant (section 4.1), on all weights instead of a histogram.
Same layer as in benchmarks/parity.py.
"""

import numpy as np
import parity
import torch
from torch import Tensor

from paperlab.methods.quantization import easyquant


def peer(weight: Tensor, bits: int, steps: int, rate: float = 0.01) -> Tensor:
    """EasyQuant by torch.optim.Adam; the start is that of tools, 2 max / (2^b - 1)."""
    w = weight.double().numpy()
    outlier = torch.from_numpy(np.abs(w - w.mean()) >= 3 * w.std(ddof=1))
    normal = weight.masked_fill(outlier, 0.0)
    start = 2 * normal.abs().amax(1, keepdim=True) / (2**bits - 1)
    u = torch.ones_like(start, requires_grad=True)
    adam = torch.optim.Adam([u], lr=rate)

    def codes() -> Tensor:
        return (normal / (u * start)).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).detach()

    for _ in range(steps):
        adam.zero_grad()
        (codes() * u * start - normal).square().sum().backward()
        adam.step()
    return torch.where(outlier, weight, (codes() * u * start).detach())


def main() -> None:
    """At 4 and 3 bits, before and after the steps."""
    weight, _, _ = parity.layer()
    for bits, steps in ((4, 0), (4, 100), (3, 0), (3, 100)):
        row = parity.compare(
            f"EasyQuant, {bits} bits per row, {steps} steps",
            f"torch.optim ({torch.__version__.partition('+')[0]})",
            easyquant.quantize(weight, bits=bits, steps=steps).dense(),
            peer(weight, bits, steps),
            least=0.75 if steps else 0.99,
            most=0.02,
        )
        print(
            f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {100 * row.same:.1f}% | "
            f"{100 * row.least:.1f}%, {100 * row.most:.1f}% | {'yes' if row.agrees else 'NO'} |"
        )


if __name__ == "__main__":
    main()
