"""What a compression will take, before it starts: whether the model can be run, memory, disk and time."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from paperlab.core.words import megabytes
from paperlab.engine import Layout
from paperlab.engine.packing.layout import ENCODERS
from paperlab.engine.packing.pack import check
from paperlab.kit.walk import block_linears, blocks
from paperlab.lab.compress.levels import LEVELS, Solver
from paperlab.lab.compress.settings import Settings
from paperlab.lab.compress.windows import Windows, tables_of
from paperlab.lab.compress.work import need_disk, need_memory
from paperlab.lab.errors import RunError
from paperlab.lab.machine import memory_left

STORED = 4.4  # bytes for each weight of the linear layers that the stored levels take
UNIFORM = 3.6  # and the uniform ones that are packed to be compared with
CHILDREN = 4  # of a generation
LONGEST = 120.0  # seconds for the sensitivities, which take as many windows as fit into them


@dataclass(frozen=True)
class Preflight:
    """architecture; weights; matrices that get a level; skipped: linear layers that keep their floats, and why; tied:
    whether embedding and head are one matrix. memory, disk: bytes. seconds: by stage. generations: of the search.
    sensitive: windows on which sensitivities are measured."""

    architecture: str
    weights: int
    matrices: int
    skipped: tuple[str, ...]
    tied: bool
    memory: float
    disk: float
    seconds: dict[str, float] = field(default_factory=dict)
    generations: int = 0
    sensitive: int = 0

    def lines(self, settings: Settings, about: str) -> list[str]:
        """What is said before the work starts."""
        from paperlab.core.words import number

        tied = ", embedding and output head are one matrix" if self.tied else ""
        total = sum(self.seconds.values())
        parts = ", ".join(f"{name} {_long(seconds)}" for name, seconds in self.seconds.items())
        again = "; each further size that is tried searches again" if several(settings) else ""
        said = [
            f"model: {self.architecture}, {self.weights / 1e6:,.1f} M weights, {self.matrices} matrices to choose "
            f"a level for{tied}",
            f"text: {about}",
            f"memory: about {self.memory / 1e9:.1f} GB of {memory_left() / 1e9:.1f} GB free; disk: about "
            f"{megabytes(self.disk)} MB",
            f"time: {_long(total)} ({parts}){again}",
        ]
        if settings.target and (most := settings.target.bytes(self.weights)):
            said.insert(
                1,
                f"target: {settings.target.says()}, at most {megabytes(most)} MB "
                f"({number(8 * most / self.weights)} bits per weight)",
            )
        said += [f"warning: {name} keeps its floats" for name in self.skipped]
        return said


def several(settings: Settings) -> bool:
    """Whether a first size that is not what was asked is followed by others."""
    return settings.recipe is None and (settings.target is None or settings.target.kind == "speed")


def _long(seconds: float) -> str:
    return f"about {max(1, round(seconds)):d} s" if seconds < 90 else f"about {round(seconds / 60)} min"


def check_source(folder: Path, out: Path) -> None:
    """Refuse a folder that the engine could not run once it is compressed, or that memory does not hold. Raises
    RunError and EngineError."""
    if folder.is_file():
        raise RunError(
            f"{folder} is a file; compress takes the folder of a model in floats: `paperlab export {folder} --to hf -o "
            "DIR` makes one"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") in ENCODERS:
        raise RunError(f"{folder} is an encoder; compress takes language models, `paperlab pack --method` encoders too")
    there = next(parent for parent in out.absolute().parents if parent.is_dir())
    check(folder, there / f".{out.name}.check", Layout(4))
    need_memory(4.0 * weights_in(folder), "reading this model")


def weights_in(folder: Path) -> int:
    """Number of weights in a folder's safetensors, from their headers; 0 where there are none."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return count


@torch.no_grad()
def preflight(model: nn.Module, windows: Windows, settings: Settings, out: Path) -> Preflight:
    """Measure a forward pass and a layer's solution, and add up what all of it takes. Raises RunError where memory or
    disk do not suffice."""
    layers, tables = block_linears(model), tables_of(model)
    weights = sum(p.numel() for p in model.parameters())
    inside = sum(layer.weight.numel() for layer in layers.values())
    config: Any = model.config
    vocabulary = int(config.vocab_size)
    widest = max(layer.in_features for layer in layers.values())
    logits = 4.0 * windows.search.numel() * vocabulary
    memory = 4.0 * 2 * weights + 1.5 * logits + 6 * 4.0 * widest**2 + 4.0 * windows.calibration.numel() * widest
    if settings.recover:
        memory += 4.0 * 2 * weights + 4.0 * inside
    disk = (STORED + UNIFORM) * inside + 2.5 * weights + len(settings.exports) * 2.0 * weights
    need_memory(memory - 4.0 * weights, "compressing this model")
    need_disk(disk, out, "compressing this model")
    if not torch.isfinite(model(input_ids=windows.search[:1], use_cache=False).logits).all():
        raise RunError("the model's own predictions are not finite (NaN): its weights are damaged, or overflow")
    seconds, generations, sensitive = _times(model, windows, settings, layers)
    skipped = tuple(
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if _holds_matrix(module) and name not in layers and name not in tables and not _is_head(model, module)
    )
    blocks(model)
    return Preflight(
        type(model).__name__,
        weights,
        len(layers) + len(tables),
        skipped,
        bool(getattr(config, "tie_word_embeddings", False)),
        memory,
        disk,
        seconds,
        generations,
        sensitive,
    )


def _holds_matrix(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _is_head(model: nn.Module, module: nn.Module) -> bool:
    ends = [
        getattr(model, name)() for name in ("get_input_embeddings", "get_output_embeddings") if hasattr(model, name)
    ]
    return any(module is end for end in ends)


def _times(
    model: Any, windows: Windows, settings: Settings, layers: dict[str, nn.Linear]
) -> tuple[dict[str, float], int, int]:
    """Seconds by stage, the generations that fit into the time for the search, and `sensitive`."""
    window = windows.search[:1]
    begun = time.monotonic()
    model(input_ids=window, use_cache=False)
    forward = time.monotonic() - begun
    by_shape: dict[tuple[int, int], list[Tensor]] = {}
    for layer in layers.values():
        by_shape.setdefault((layer.in_features, layer.out_features), []).append(layer.weight)
    solving, free = 0.0, settings.recipe is None
    for alike in by_shape.values():
        weight = alike[0].detach()
        x = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(0))
        begun = time.monotonic()
        Solver.of(x.T @ x + torch.eye(weight.shape[1])).codes(weight, LEVELS if free else {"3": LEVELS["3"]})
        solving += (time.monotonic() - begun) * len(alike)
    measure = forward * len(windows.search)
    seconds = {"levels": 2.5 * forward * len(windows.calibration) + solving}
    generations, sensitive = 0, len(windows.search)
    if free:
        each = 0.6 * forward * len(layers)
        sensitive = max(1, min(sensitive, int(LONGEST / each)))
        count = len(blocks(model)[1])
        seconds["sensitivities"] = each * sensitive + 0.5 * forward * count * sensitive + (4 + count // 3) * measure
        generations = max(1, round(settings.search / (measure * CHILDREN))) if settings.search else 0
        seconds["search"] = generations * measure * CHILDREN
    seconds["solving in turn"] = 2.5 * forward * len(windows.calibration) + solving / 3
    if settings.recover:
        recover = settings.recover
        steps = recover.steps or -(-(recover.tokens or 0) // windows.training.shape[1])
        seconds["recovery"] = recover.seconds or steps * 5 * forward
    models = 2 + (len(LEVELS) if free else 0)
    seconds["measuring"] = 0.5 * forward * models * settings.tokens / windows.search.shape[1]
    return seconds, generations, sensitive
