"""Tuning steps against the authors' optimizer; prints rows for benchmarks/parity.md.

    PYTHONPATH=src:benchmarks python benchmarks/parity/pv_tuning.py FOLDER

FOLDER: a checkout of github.com/Vahe1994/AQLM, e79a896. Both start from our clustering of the layer of
benchmarks/parity.py (groups of 8, one 8-bit codebook) and descend on tr((W - Q) H (W - Q)^T) for 10 steps; later ones
blow up differences in the last bits.
"""

import sys

import parity
import torch
from torch import Tensor, nn

from paperlab.kit.codebook import cluster
from paperlab.methods.quantization.pv_tuning import State, p_step, v_step

STEPS, RATE, CODE_RATE = 10, 3e-3, 0.1  # the buffer ten times as fast as in training, so that codes do change


def gradient(stored: Tensor) -> Tensor:
    """Of the loss, by Q."""
    weight, _, hessian = parity.layer()
    return 2 * (stored - weight) @ hessian / len(weight)


def theirs(fraction: float) -> Tensor:
    """The weights after STEPS steps of StraightThroughAdamW as finetune.py builds it."""
    from src.aq import QuantizedWeight
    from src.pv_optimizer import StraightThroughAdamW

    weight = parity.layer()[0]
    book = cluster(weight, dim=8, bits=8, seed=0)
    stored = QuantizedWeight(
        reference_weight=weight, in_group_size=8, out_group_size=1, num_codebooks=1, nbits_per_codebook=8, max_iter=1
    )
    stored.codebooks.data.copy_(book.words.view(1, 256, 1, 8))
    stored.scales.data.copy_(book.scale.view(-1, 1, 1, 1))
    stored.codes.data.copy_(book.codes.unsqueeze(-1))
    dense = nn.Parameter(stored().detach().clone())
    optimizer = StraightThroughAdamW(
        {"w": dense},
        {"w": stored},
        update_codebooks_and_scales={"lr": RATE, "betas": (0.9, 0.95), "lamb": True, "debias": True},
        update_codes={"lr": CODE_RATE, "betas": (0.0, 0.95), "lamb": True, "debias": True},
        delta_decay=0,
        max_code_change_per_step=fraction,
        beam_size=5,
        straight_through_buffer_dtype=torch.float32,
    )
    for _ in range(STEPS):
        dense.grad = gradient(dense.detach())
        optimizer.step()
        optimizer.zero_grad()
    print(f"  theirs: {int((stored.codes.squeeze(-1) != book.codes).sum())} of {book.codes.numel()} codes changed")
    return dense.detach()


def ours(fraction: float) -> Tensor:
    """The same by our steps, in the order of `transform`."""
    book = cluster(parity.layer()[0], dim=8, bits=8, seed=0)
    before = book.codes.clone()
    state = State(book, book.weight())
    for count in range(1, STEPS + 1):
        by_weight = gradient(book.weight())
        state.step("buffer", state.buffer, by_weight, count, CODE_RATE, 0.0)
        p_step(state, by_weight, count, RATE)
        v_step(book, state.buffer, code_fraction=fraction)
    print(f"  ours: {int((book.codes != before).sum())} of {before.numel()} codes changed")
    return book.weight()


def main() -> None:
    """PV-Tuning, and straight-through tuning."""
    sys.path.insert(0, sys.argv[1])
    for what, fraction in (("PV-Tuning", 0.01), ("straight-through tuning", 1.0)):
        row = parity.compare(
            f"{what}, {STEPS} steps", "Vahe1994/AQLM e79a896", ours(fraction), theirs(fraction), least=0.995, most=0.01
        )
        print(
            f"| {row.what} | {row.peer} | {row.ours:.5f} | {row.theirs:.5f} | {100 * row.same:.1f}% | "
            f"{100 * row.least:.1f}%, {100 * row.most:.1f}% | {'yes' if row.agrees else 'NO'} |"
        )


if __name__ == "__main__":
    main()
