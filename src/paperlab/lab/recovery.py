"""Recover what compression cost, by distillation from the original: resumable, bounded, and never worse than before.

What is trained of a compressed model is what its file stores in floats: the scales and minima of each group and the
norms, while codes and masks stay (the end-to-end phase of EfficientQAT, arXiv 2407.11062, trains scales so). A model in
floats is trained whole. The loss is KL(teacher || student) on the logits. The student that is kept is the one that was
best on validation windows; where none was better than the start, that is the start.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from paperlab.core.files import write_atomically
from paperlab.engine import Codes
from paperlab.kit.objective import kl
from paperlab.kit.tuning import Loss, Training, has_bf16
from paperlab.lab.errors import RunError

RATE = 1e-3  # of changes relative to a scale or a norm
CHECKS = 12  # validations in a training
PATIENCE = 8  # validations without a better one, after which it ends: a falling rate often helps late
EVERY = 60.0  # seconds between two checkpoints

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Budget:
    """How long to train: one of steps, tokens and seconds is given."""

    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __bool__(self) -> bool:
        return bool(self.steps or self.tokens or self.seconds)


@dataclass
class Recovered:
    """before, after: KL to the teacher on the validation windows, nats a token; after is the best, at step `best`.

    curve: (step, loss of training, KL on validation) at each validation. stopped: why it ended.
    """

    before: float
    after: float
    best: int = 0
    steps: int = 0
    planned: int = 0
    stopped: str = ""
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def says(self) -> str:
        """One sentence."""
        if self.best == 0:
            return (
                f"recovery did not help: KL on validation text {self.before:.4f} before, and never less in "
                f"{self.steps} steps; the model is as it was ({self.stopped})"
            )
        return (
            f"recovery: KL on validation text {self.before:.4f} -> {self.after:.4f} at step {self.best} of "
            f"{self.steps} ({self.stopped})"
        )


class Stored(nn.Module):
    """A linear layer whose weights are codes; what is trained are relative changes of its scales and minima, and of
    its thin matrices where it has them.

    W = s (1 + a) (codes - 2^(b-1)), or s (1 + a) codes + m + |s| c with minima; a, c (out, groups) start at 0;
    + (L + l dL) (R + r dR) with thin matrices, whose root mean squares are l and r.
    """

    def __init__(self, codes: Codes, bias: Tensor | None) -> None:
        super().__init__()
        columns = codes.shape[1]
        self.bits, self.mask_np, self.columns = codes.bits, codes.mask, columns
        self.group = codes.group or columns // codes.scales.shape[1]
        self.plain = codes.group
        whole = codes.codes.astype(np.int16) - (0 if codes.mins is not None else 1 << (codes.bits - 1))
        if codes.mask is not None:
            whole = whole * codes.mask
        self.codes: Tensor
        self.register_buffer("codes", torch.from_numpy(whole.astype(np.int16)), persistent=False)
        self.scales = torch.from_numpy(codes.scales.astype(np.float32))
        self.mins = None if codes.mins is None else torch.from_numpy(codes.mins.astype(np.float32))
        self.change = nn.Parameter(torch.zeros_like(self.scales))
        self.shift = None if self.mins is None else nn.Parameter(torch.zeros_like(self.scales))
        self.thin = None if codes.low_rank is None else tuple(torch.from_numpy(part).float() for part in codes.low_rank)
        self.turns = nn.ParameterList([torch.zeros_like(part) for part in self.thin or ()])
        self.bias = bias
        self.raw = codes.codes

    def grids(self) -> tuple[Tensor, Tensor | None]:
        """Scales and minima as they are now, (out, groups)."""
        scales = self.scales * (1 + self.change)
        return scales, None if self.mins is None or self.shift is None else self.mins + self.shift * self.scales.abs()

    @property
    def weight(self) -> Tensor:
        """(out, in) float32."""
        scales, mins = self.grids()
        spread = lambda part: part.repeat_interleave(self.group, 1)[:, : self.columns]  # noqa: E731
        weight = self.codes * spread(scales)
        weight = weight if mins is None else weight + spread(mins)
        return weight if self.thin is None else torch.addmm(weight, *self.factors())

    def factors(self) -> list[Tensor]:
        """The thin matrices as they are now, (out, rank) and (rank, in); none where there are none."""
        pairs = zip(self.thin or (), self.turns, strict=True)
        return [part + part.square().mean().sqrt() * turn for part, turn in pairs]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return F.linear(x, self.weight, self.bias)

    def stored(self) -> Codes:
        """The codes with scales, minima and thin matrices as they are now, in float16."""
        scales, mins = (None if part is None else part.detach().numpy().astype(np.float16) for part in self.grids())
        assert scales is not None
        thin = [part.detach().half().float().numpy() for part in self.factors()]
        low_rank = (thin[0], thin[1]) if thin else None
        return Codes(self.bits, self.raw, scales, mins, mask=self.mask_np, low_rank=low_rank, group=self.plain)


def put_in(model: nn.Module, codes: Mapping[str, Codes]) -> dict[str, Stored]:
    """Replace linear layers by their codes, and train nothing but these and the norms. Returns them by name."""
    model.requires_grad_(False)
    put: dict[str, Stored] = {}
    for name, one in codes.items():
        parent, _, last = name.rpartition(".")
        holder = model.get_submodule(parent)
        old: Any = getattr(holder, last)
        put[name] = Stored(one, None if old.bias is None else old.bias.detach())
        setattr(holder, last, put[name])
    for parameter in norms(model).values():
        parameter.requires_grad = True
    return put


def norms(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the norms by name: vectors of modules that are named so."""
    return {
        f"{name}.{inner}": parameter
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for inner, parameter in module.named_parameters(recurse=False)
    }


@dataclass
class _Setting:
    """What `Training` needs: windows of text in an order drawn by the seed, again and again."""

    model: nn.Module
    teacher: nn.Module | None
    windows: Tensor
    rows: int
    steps: int = 0
    rates: tuple[float, ...] = ()

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.windows), generator=draw)
            for at in range(0, len(order) - self.rows + 1, self.rows):
                ids = self.windows[order[at : at + self.rows]]
                yield {"input_ids": ids[:, :-1]}, ids[:, 1:]

    def validate(self, model: nn.Module) -> float:
        raise NotImplementedError  # `recover` validates by itself


@torch.no_grad()
def divergence(student: nn.Module, teacher: nn.Module, windows: Tensor) -> float:
    """KL(teacher || student) in nats a token, mean over windows (n, t)."""
    student.eval()
    total = 0.0
    for row in windows:
        mine, truth = (one(input_ids=row[None]).logits.float().flatten(0, 1) for one in (student, teacher))
        total += float(kl(mine, truth))
    return total / len(windows)


def recover(
    student: nn.Module,
    teacher: nn.Module,
    training: Tensor,
    validation: Tensor,
    *,
    budget: Budget,
    folder: Path,
    rate: float = RATE,
    rows: int = 1,
    accumulate: int = 1,
    seed: int = 0,
    halves: bool | None = None,
    loss: Loss = kl,
    asks: Sequence[str] = ("student", "teacher"),
    progress: Report = lambda name, done, total: None,
) -> Recovered:
    """Train, in place, those parameters of `student` that ask for it; the student is left as it was when it was best.

    training, validation: token windows (n, t). budget: of seconds is turned into steps by the time of the first one, so
    that the rate can fall to its end; a training that then takes a quarter longer is cut. folder: where checkpoints lie
    (safetensors and JSON); a call with the same arguments goes on from the last, and for a budget of steps or tokens
    ends with the same bits as an unbroken one. halves: products in bf16; None: where the processor has them. loss,
    asks: what is minimised, and which of `kit.tuning.LOSS_TAKES` it asks for.

    A loss that is not finite ends the training with the best student so far. Raises RunError for an empty budget, and
    for a student without parameters to train.
    """
    rows = min(rows, len(training))
    if not budget:
        raise RunError("recovery needs a budget: steps, tokens or seconds")
    setting = _Setting(student, teacher, training, rows)
    teacher.eval().requires_grad_(False)
    run = _Run(folder, student)
    loop = Training(
        student,
        setting,
        loss,
        rate=rate,
        seed=seed,
        asks=asks,
        accumulate=accumulate,
        halves=has_bf16() if halves is None else halves,
    )
    if not loop.parameters:
        raise RunError("nothing of this model can be trained: it has no norms, and no codes with scales")
    found, spent, losses = run.taken_up(loop)
    if found is None:
        now = divergence(student, teacher, validation)
        planned = budget.steps or -(-(budget.tokens or 0) // (rows * accumulate * training.shape[1]))
        found, spent, losses = Recovered(now, now, planned=planned), 0.0, []
        run.keep_best()
        if budget.seconds is not None:
            found.planned = _steps_in(budget.seconds, loop, student, teacher, validation)
        run.keep(loop, found, spent, losses)
    if found.stopped:
        run.put_best()
        return found
    every = max(1, found.planned // CHECKS)
    began, kept = time.monotonic(), time.monotonic()
    student.train()
    while not found.stopped:
        now_spent = spent + time.monotonic() - began
        try:
            losses.append(loop.step(loop.done / found.planned))
        except FloatingPointError as error:
            found.stopped = f"stopped: {error}"
            break
        found.steps = loop.done
        last = loop.done >= found.planned
        late = budget.seconds is not None and now_spent > 1.25 * budget.seconds
        if loop.done % every == 0 or last or late:
            value = divergence(student, teacher, validation)
            student.train()
            if not math.isfinite(value):
                found.stopped = f"stopped: the validation loss is {value} at step {loop.done}"
                break
            found.curve.append((loop.done, sum(losses) / len(losses), value))
            losses.clear()
            if value < found.after:
                found.after, found.best = value, loop.done
                run.keep_best()
            since = [step for step, _, _ in found.curve if step > found.best]
            if len(since) >= PATIENCE:
                found.stopped = f"stopped early: {PATIENCE} validations without a better one"
            run.draw(found)
        if last or late:
            found.stopped = found.stopped or ("the budget is spent" if last else "the time is up")
        progress(f"KL {found.curve[-1][2]:.4f}" if found.curve else "", loop.done, found.planned)
        if time.monotonic() - kept > EVERY or loop.done % every == 0:
            run.keep(loop, found, spent + time.monotonic() - began, losses)
            kept = time.monotonic()
    found.seconds = round(spent + time.monotonic() - began, 1)
    run.keep(loop, found, found.seconds, losses)
    run.draw(found)
    run.put_best()
    student.eval()
    return found


def _steps_in(seconds: float, loop: Training, student: nn.Module, teacher: nn.Module, validation: Tensor) -> int:
    """How many steps a time holds, by the clock of a forward pass of both models: a step takes some four of them."""
    begun = time.monotonic()
    divergence(student, teacher, validation[:1])
    both = time.monotonic() - begun
    tokens = loop.accumulate * loop.setting.rows  # type: ignore[attr-defined]
    return max(CHECKS, int(0.9 * (seconds - both * CHECKS * len(validation)) / max(2.2 * both * tokens, 1e-6)))


class _Run:
    """The files of a training: its state, the best student, the plot."""

    def __init__(self, folder: Path, student: nn.Module) -> None:
        self.folder, self.student = folder, student
        folder.mkdir(parents=True, exist_ok=True)

    def taken_up(self, loop: Training) -> tuple[Recovered | None, float, list[float]]:
        """Where a training was left, put into `loop`, the seconds that it took so far, and its losses since the last
        validation; None for a fresh one."""
        with suppress(OSError, ValueError, KeyError, SafetensorError):
            # One file holds state and figures, so that they always belong together.
            state = load_file(self.folder / "state.safetensors")
            said = json.loads(bytes(state.pop("figures").numpy()).decode())
            best = load_file(self.folder / "best.safetensors")
            if set(best) != set(self._trained()):
                return None, 0.0, []
            loop.take_up(state)
            found = Recovered(**said["found"])
            found.curve = [tuple(point) for point in found.curve]  # type: ignore[misc]
            return found, float(said["spent"]), [float(loss) for loss in said["losses"]]
        return None, 0.0, []

    def keep(self, loop: Training, found: Recovered, spent: float, losses: list[float]) -> None:
        """Write the state whole."""
        figures = json.dumps({"found": asdict(found), "spent": spent, "losses": losses}).encode()
        state = {name: tensor.contiguous() for name, tensor in loop.state().items()}
        state["figures"] = torch.frombuffer(bytearray(figures), dtype=torch.uint8)
        write_atomically(self.folder / "state.safetensors", save(state))

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.student.named_parameters() if p.requires_grad}

    def keep_best(self) -> None:
        """Write what is trained, as it is now."""
        tensors = {name: p.detach().contiguous() for name, p in self._trained().items()}
        write_atomically(self.folder / "best.safetensors", save(tensors))

    @torch.no_grad()
    def put_best(self) -> None:
        """Put the best student's parameters into the model."""
        best = load_file(self.folder / "best.safetensors")
        for name, parameter in self._trained().items():
            parameter.copy_(best[name])

    def draw(self, found: Recovered) -> None:
        """Write the plot again: `recovery.svg`, which a browser can be told to reload."""
        write_atomically(self.folder / "recovery.svg", curve(found).encode())


def curve(found: Recovered) -> str:
    """Loss of training and of validation by step, as an SVG file."""
    wide, high, left, top = 560, 260, 60, 28
    points = [(0, math.nan, found.before), *found.curve]
    values = [v for _, a, b in points for v in (a, b) if math.isfinite(v)]
    low, most = min(values), max(values)
    room, last = (most - low) or 1.0, max(found.planned, 1)
    x = lambda step: left + (wide - left - 14) * step / last  # noqa: E731
    y = lambda value: top + (high - top - 40) * (1 - (value - low) / room)  # noqa: E731

    def line(which: int, colour: str) -> str:
        at = " ".join(f"{x(p[0]):.1f},{y(p[which]):.1f}" for p in points if math.isfinite(p[which]))
        return f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2"/>'

    words = f"{found.steps} of {found.planned} steps; best validation {found.after:.4f} at step {found.best}"
    ticks = "".join(
        f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        f'<line x1="{left}" x2="{wide - 14}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
        for value in (low, low + room / 2, low + room)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" role="img"><title>{escape(words)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="14">KL to the original, nats a token</text>'
        f"{ticks}{line(1, '#999')}{line(2, '#0b5cad')}"
        f'<circle cx="{x(found.best):.1f}" cy="{y(found.after):.1f}" r="4" fill="#0b5cad"/>'
        f'<text x="{left}" y="{high - 24}">0</text><text x="{wide - 14}" y="{high - 24}" text-anchor="end">'
        f'{last} steps</text><text x="8" y="{high - 6}">blue: validation, grey: training; {escape(words)}</text>'
        "</svg>\n"
    )
