"""LoRC's factors against the decomposition that peft starts LoftQ from; prints a row for benchmarks/parity.md.

    pip install --no-deps peft accelerate      in an environment with torch and transformers
    PYTHONPATH=src:benchmarks python benchmarks/parity/zeroquant_v2_lorc.py

No code of LoRC was found. peft splits an error matrix as the paper does, U sqrt(S) and sqrt(S) V^T,
by an exact singular value decomposition. Same layer as in benchmarks/parity.py, rounded to 3 bits per row, rank 8.
"""

from importlib.metadata import version

import parity
from torch import Tensor

from paperlab.kit.gptq import gptq
from paperlab.methods.quantization import gptq_lorc, zeroquant_v2_lorc
from paperlab.methods.quantization.round_to_nearest import quantize as round_to_nearest


def peft(weight: Tensor, stored: Tensor, rank: int) -> Tensor:
    """The stored weights with peft's rank-`rank` factors of their error added."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    found = _low_rank_decomposition(weight - stored, reduced_rank=rank)
    return stored + found["L"] @ found["R"]


def main() -> None:
    """For rounding and for GPTQ, our factors in float16 and in 8 bits, theirs in float32."""
    weight, _, hessian = parity.layer()
    near, solved = round_to_nearest(weight, bits=3).dense(), gptq(weight, hessian, bits=3).dense()
    for bits, least in ((16, 0.999), (8, 0.5)):
        ours = zeroquant_v2_lorc.quantize(weight, bits=3, rank=8, factor_bits=bits)
        over_gptq = gptq_lorc.quantize(weight, hessian, bits=3, rank=8, factor_bits=bits)
        for what, made, plain in (("round to nearest", ours, near), ("GPTQ", over_gptq, solved)):
            row = parity.compare(
                f"LoRC over {what}, 3 bits per row, rank 8 in {bits} bits",
                f"peft ({version('peft')})",
                made.dense(),
                peft(weight, plain, 8),
                least=least,
                most=0.01,
            )
            print(
                f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {100 * row.same:.1f}% | "
                f"{100 * least:.1f}%, {100 * row.most:.1f}% | {'yes' if row.agrees else 'NO'} |"
            )


if __name__ == "__main__":
    main()
