"""GPTQ or SparseGPT over the 135M model's layers: ours and other people's, interleaved in one process.

    python benchmarks/gptq_speed.py [--solver sparsegpt] [--blocks 3] [--rounds 3]

Writes gptq_speed.md or sparsegpt_speed.md.

Needs the packages that peers.py names. All blocks of SmolLM2-135M have the same shapes, and the work does not depend
on the values, so a few blocks of seeded weights and Hessians stand for the 30: q 576x576, k and v 192x576, o 576x576,
gate and up 1536x576, down 576x1536. The statistics are given; only solving and rounding are timed. The peers that can
stack layers of equal shape are also given the chance.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from torch import Tensor

from paperlab.kit.gptq import gptq
from paperlab.methods.pruning.sparsegpt import keep

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
BLOCKS = 30
GRID = {"bits": 4, "group": 64, "symmetric": False}
HALF = {"sparsity": 0.5}


def block(seed: int) -> list[tuple[Tensor, Tensor]]:
    """(weight, hessian) of a block's seven layers."""
    draw = torch.Generator().manual_seed(seed)
    out = []
    for rows, columns in SHAPES:
        x = torch.randn(2 * columns, columns, generator=draw)
        out.append((torch.randn(rows, columns, generator=draw) * 0.05, x.T @ x / columns))
    return out


def one_by_one(call: Callable[..., object], **settings: object) -> Callable[[list[tuple[Tensor, Tensor]]], None]:
    """Solve the layers of a block in turn."""

    def run(layers: list[tuple[Tensor, Tensor]]) -> None:
        for weight, hessian in layers:
            call(weight, hessian, **settings)

    return run


def stacked(layers: list[tuple[Tensor, Tensor]]) -> None:
    """llm-compressor's batches: layers of equal shape in one call."""
    for shape in dict.fromkeys(SHAPES):
        alike = [layer for layer, own in zip(layers, SHAPES, strict=True) if own == shape]
        peers.stacked_llmcompressor(torch.stack([w for w, _ in alike]), torch.stack([h for _, h in alike]), **GRID)


def solvers_of_gptq() -> dict[str, Callable[[list[tuple[Tensor, Tensor]]], None]]:
    """Name -> what quantizes a block's layers."""
    return {
        "paperlab": one_by_one(gptq, **GRID),
        peers.at("llmcompressor"): one_by_one(peers.gptq_llmcompressor, **GRID),
        f"{peers.at('llmcompressor')}, equal shapes stacked": stacked,
        peers.at("gptqmodel"): one_by_one(peers.gptq_gptqmodel, **GRID),
        peers.at("neural-compressor"): one_by_one(peers.gptq_neural_compressor, **GRID),
    }


def agreement(layers: list[tuple[Tensor, Tensor]], sparsity: float) -> str:
    """How far our SparseGPT and llm-compressor's keep the same weights, and the ratio of their layers' errors."""
    same, errors = [], []
    for weight, hessian in layers:
        ours = keep(weight, hessian, sparsity=sparsity).dense().float()
        theirs = peers.sparsegpt_llmcompressor(weight, hessian, sparsity=sparsity)
        same.append(((ours != 0) == (theirs != 0)).float().mean().item())
        first, second = (((d := weight - w) @ hessian * d).sum().item() for w in (ours, theirs))
        errors.append(first / second)
    return (
        f"Both keep or drop the same weight in {min(same):.2%} to {max(same):.2%} of a layer; "
        f"our error is {min(errors):.4f} to {max(errors):.4f} of theirs."
    )


def main() -> None:
    """Time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", choices=["gptq", "sparsegpt"], default="gptq")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.solver == "gptq":
        arms = solvers_of_gptq()
        grid, said = f"{GRID['bits']} bits, groups of {GRID['group']}", ""
    else:
        arms = {
            "paperlab": one_by_one(keep, **HALF),
            peers.at("llmcompressor"): one_by_one(peers.sparsegpt_llmcompressor, **HALF),
        }
        grid, said = "half of the weights go", peers.quiet(lambda: agreement(block(0), **HALF)) + "\n"
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    blocks = [block(seed) for seed in range(given.blocks)]
    for run in arms.values():  # warm up: imports, and the threads' first touch
        peers.quiet(lambda run=run: run(blocks[0]))
    for _ in range(given.rounds):
        for name, run in arms.items():
            start = time.perf_counter()
            for layers in blocks:
                peers.quiet(lambda run=run, layers=layers: run(layers))
            seconds[name].append((time.perf_counter() - start) * BLOCKS / given.blocks)
    ours = seconds["paperlab"]
    lines = [
        f"| {name} | {statistics.median(times):.1f} | "
        f"{statistics.median(t / o for t, o in zip(times, ours, strict=True)):.2f} |"
        for name, times in seconds.items()
    ]
    machine = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, torch {torch.__version__}"
    title = {"gptq": "GPTQ", "sparsegpt": "SparseGPT"}[given.solver]
    text = f"""# {title} over SmolLM2-135M's layers, CPU

Written by `benchmarks/gptq_speed.py --solver {given.solver}`: {grid}; {given.blocks} of {BLOCKS} blocks, scaled up;
{given.rounds} rounds, arms interleaved; median seconds, and the median of the ratios within a round (above 1:
slower than ours). {machine}.
{said}
| what | seconds for 30 blocks | times ours |
|---|---:|---:|
""" + "\n".join(lines)
    Path(__file__).with_name(f"{given.solver}_speed.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
