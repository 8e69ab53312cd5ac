"""Distil a teacher into a student that is already there: a pruned copy, a cut one, another model of its tokenizer."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paperlab.assets.texts import load_text
from paperlab.core.card import Arm
from paperlab.core.methods import act_of, find_method
from paperlab.kit.tuning import LOSS_TAKES, Loss
from paperlab.kit.walk import block_linears, blocks
from paperlab.lab.arms import functions_of
from paperlab.lab.compress.preflight import weights_in
from paperlab.lab.compress.windows import windows_of
from paperlab.lab.compress.work import described, key_of, need_disk, need_empty, need_memory, opened
from paperlab.lab.drivers._common import supplied
from paperlab.lab.errors import RunError
from paperlab.lab.recovery import Budget, Recovered, recover

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
SHARE = 0.1  # of the budget that each rate is tried for
PRUNED = 0.2  # share of zeros in a matrix from which it counts as pruned, and its zeros stay


@dataclass(frozen=True)
class Distilled:
    """folder: what was written. recovered: KL to the teacher before and after. rate: the learning rate. tried: KL on
    validation text by rate, where several were. pruned: matrices whose zeros stayed."""

    folder: Path
    recovered: Recovered
    rate: float
    tried: dict[float, float]
    pruned: int

    def says(self) -> str:
        """One sentence."""
        rate = f"; learning rate {self.rate:g}" + (f", the best of {len(self.tried)}" if self.tried else "")
        zeros = f"; the zeros of {self.pruned} pruned matrices stayed" if self.pruned else ""
        return f"{self.recovered.says()}{rate}{zeros}"


def distil(
    teacher: Path,
    student: Path,
    out: Path,
    *,
    method: str = "divergence",
    params: Mapping[str, Any] | None = None,
    data: str = "abstracts",
    budget: Budget,
    rates: Sequence[float] = RATES,
    keep_blocks: int | None = None,
    rows: int = 4,
    accumulate: int = 1,
    seed: int = 0,
    progress: Callable[[str, str, int, int], None] = lambda stage, what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Distilled:
    """Train the student in a folder on the teacher's predictions and write it to `out`, which must not be there.

    method: a loss of the catalogue; params: its parameters. rates: learning rates; of several each is tried for a tenth
    of the budget, and the one whose student comes nearest to the teacher on validation text is taken. keep_blocks: the
    student begins with so many of its blocks, evenly spread. rows: windows of 256 tokens in a batch. accumulate:
    batches in a step. The half of the text that the measuring of models reads is not trained on.

    An interrupted call goes on where it was. Raises RunError for what cannot be done, ModelError and TextError for a
    model or text that cannot be read.
    """
    from paperlab.assets.loading import load_causal_lm, quiet

    if not rates or min(rates) <= 0:
        raise RunError("a learning rate is a positive number, such as 1e-4")
    if not budget:
        raise RunError("distillation needs a budget: a time such as 30m, or 200steps, or 50ktokens")
    loss, asks = loss_of(method, params or {})
    out = out.resolve()
    need_empty(out)
    need_memory(4.0 * (weights_in(teacher) + weights_in(student)), "reading the two models")
    with opened(out) as work, torch.random.fork_rng(devices=[]):
        need_empty(out)  # another run may have ended since
        known, tokenizer, about = load_causal_lm(teacher)
        model, own, about_student = load_causal_lm(student)
        if tokenizer.get_vocab() != own.get_vocab():
            raise RunError(
                f"{student} and {teacher} have different tokenizers: their predictions are of different tokens"
            )
        if keep_blocks is not None:
            cut(model, keep_blocks)
        _same_depth(known, model, asks, method)
        weights = sum(p.numel() for p in model.parameters())
        need_memory(4.0 * 3 * weights, "distilling into this model")  # gradients and two moments, the models are there
        need_disk(4.0 * 5 * weights, out, "distilling into this model")
        text = load_text(data)
        context = min(int(getattr(one.config, "max_position_embeddings", 0) or 256) for one in (known, model))
        windows = windows_of(text, tokenizer, context, seed)
        zeros = pruned(model)
        larger = sum(p.numel() for p in known.parameters())
        say(f"student: {weights / 1e6:,.1f} M weights; teacher: {larger / 1e6:,.1f} M")
        say(
            f"text: {text.id}: {len(windows.training)} windows of {windows.training.shape[1]} tokens to train on, "
            f"{len(windows.validation)} to validate; {len(windows.held_out):,} other documents are left to judge by"
        )
        if zeros:
            say(f"pruned: {len(zeros)} matrices have zeros, which stay")
        asked = (method, dict(params or {}), asdict(budget), keep_blocks, rows, accumulate, seed)
        key = key_of(described(teacher), described(student), text.sha256, *asked)

        def train(one: nn.Module, rate: float, part: Budget, stage: str) -> Recovered:
            for name, mask in zeros.items():
                layer: Any = one.get_submodule(name)
                layer.weight.register_hook(lambda gradient, mask=mask: gradient * mask)
            return recover(
                one, known, windows.training, windows.validation, budget=part, folder=work.folder / f"{stage}-{key}",
                rate=rate, rows=rows, accumulate=accumulate, seed=seed, loss=loss, asks=asks,
                progress=lambda what, done, total: progress(stage, what, done, total),
            )  # fmt: skip

        tried: dict[float, float] = {}
        for rate in rates if len(rates) > 1 else ():
            tried[rate] = train(copy.deepcopy(model), rate, _part(budget), f"learning rate {rate:g}").after
        rate = min(tried, key=lambda rate: (tried[rate], rate)) if tried else rates[0]
        found = train(model, rate, budget, "training")
        made = work.folder / "made"
        with quiet():
            model.save_pretrained(made)
            own.save_pretrained(made)
        done = Distilled(out, found, rate, tried, len(zeros))
        figures = {
            **asdict(found), "method": method, "params": dict(params or {}), "rate": rate, "data": text.id,
            "tried": {f"{one:g}": value for one, value in tried.items()}, "text_sha256": text.sha256,
            "teacher": about["sha256"], "student": about_student["sha256"],
        }  # fmt: skip
        (made / "distillation.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        curve = work.folder / f"training-{key}" / "recovery.svg"
        if curve.is_file():
            curve.replace(made / "distillation.svg")
        if out.is_dir():
            out.rmdir()
        made.replace(out)
        work.clear()
    return done


def loss_of(slug: str, params: Mapping[str, Any]) -> tuple[Loss, tuple[str, ...]]:
    """A loss of the catalogue with its parameters set, and which of `LOSS_TAKES` it asks for. Raises RunError for a
    method that is no loss, UnknownMethod and ParameterError."""
    import paperlab

    method = find_method(slug)
    act = act_of(method)
    if act is None or act.name != "finetune" or method.verbs != ("loss",):
        raise RunError(f"{method.slug} is no loss that a language model is trained with; try {', '.join(losses())}")
    asks = tuple(supplied(functions_of(Arm(method.slug, dict(params)))["loss"]))
    made = paperlab.load(method.slug, **params)

    def loss(**told: Any) -> Any:
        return made(*(told.get(name) for name in LOSS_TAKES))

    return loss, asks


def losses() -> list[str]:
    """Slugs of the losses that a student can be distilled with."""
    from paperlab.core.methods import methods

    known = [one for one in methods().values() if one.verbs == ("loss",)]
    return sorted(one.slug for one in known if (act := act_of(one)) and act.name == "finetune")


def cut(model: Any, count: int) -> None:
    """Keep `count` of the model's blocks, evenly spread, first and last among them, in place. Raises RunError."""
    stem, stack = blocks(model)
    if not 1 <= count <= len(stack):
        raise RunError(f"{count} of {len(stack)} blocks cannot be kept: a number from 1 to {len(stack)}")
    kept = [round(at * (len(stack) - 1) / max(count - 1, 1)) for at in range(count)]
    parent, _, last = stem.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.ModuleList(stack[at] for at in kept))
    for number, block in enumerate(model.get_submodule(stem)):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    model.config.num_hidden_layers = count
    kinds = getattr(model.config, "layer_types", None)
    if kinds is not None:
        model.config.layer_types = [kinds[at] for at in kept]


def pruned(model: nn.Module) -> dict[str, torch.Tensor]:
    """Masks (1 where a weight is there) of the matrices in the blocks that are pruned, by name."""
    masks = {name: layer.weight.detach() != 0 for name, layer in block_linears(model).items()}
    return {name: mask for name, mask in masks.items() if 1 - mask.float().mean() >= PRUNED}


def _part(budget: Budget) -> Budget:
    """A tenth of a budget."""
    return Budget(
        steps=budget.steps and max(1, round(SHARE * budget.steps)),
        tokens=budget.tokens and max(1, round(SHARE * budget.tokens)),
        seconds=budget.seconds and SHARE * budget.seconds,
    )


def _same_depth(teacher: nn.Module, student: nn.Module, asks: Sequence[str], method: str) -> None:
    """Refuse a loss on hidden states where they are not alike. Raises RunError."""
    if "teacher_hidden" not in asks:
        return
    both: list[Any] = [teacher, student]
    shapes = [(len(blocks(one)[1]), int(one.config.hidden_size)) for one in both]
    if shapes[0] != shapes[1]:
        raise RunError(
            f"{method} compares hidden states, and the student has {shapes[1][0]} blocks of width {shapes[1][1]}, the "
            f"teacher {shapes[0][0]} of width {shapes[0][1]}; take a loss on predictions, such as divergence"
        )
