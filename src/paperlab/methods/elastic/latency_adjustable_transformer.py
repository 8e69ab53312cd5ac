"""Latency-adjustable encoder: after each block, the tokens that got least attention leave, and how many can be dialled.

    ACC_j = mean over heads and over the tokens i that are left of attention(i -> j)
    after each block the share `keep` of the tokens with the highest ACC stays

Fine-tuned once with tokens leaving; afterwards another share may be set without training. Kachuee and Sharifkhani,
"Latency Adjustable Transformer Encoder for Language Understanding", arXiv 2201.03327.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.tuning import Tuned, cross_entropy, fit
from paperlab.kit.walk import blocks

CARD = Card(
    family="elastic",
    paper="latency-adjustable-transformer",
    sources=("abstract",),
    task="cls",
    metric="accuracy",
    method=Arm("latency-adjustable-transformer", keep=0.5),
    equal={"steps": 0.0, "parameters": 0.0},
    gap="The paper removes tokens in every encoder layer of BERT; earlier versions of its abstract have a speed-up of "
    "up to 4.8 and a loss below 0.75 % on average, the latest neither. Here tokens leave after the two upper blocks of "
    "six alone, on questions of 14 tokens; nothing is timed, so that a pass shows that few tokens carry the class, and "
    "no latency.",
    checks=(
        Check(
            claim="upper-blocks-can-lose-tokens",
            says="With half of the tokens gone after each of the upper blocks, chosen by the attention that they get, "
            "accuracy hardly falls (the paper: by less than 0.75 % on average).",
            expect="no worse",
            margin=0.01,
            baseline=Arm("latency-adjustable-transformer", keep=1.0),
            trivial=Arm("latency-adjustable-transformer", keep=0.5, by="random"),
        ),
        Check(
            claim="dialled-without-training",
            says="Trained with half of the tokens leaving after each of two blocks, the classifier is as good where "
            "two fifths stay after each, dialled after training (of 14 tokens 3 then stay, not 4).",
            expect="no worse",
            margin=0.01,
            method=Arm("latency-adjustable-transformer", keep=0.5, dial=0.4),
            baseline=Arm("latency-adjustable-transformer", keep=0.5),
            trivial=Arm("latency-adjustable-transformer", keep=0.5, dial=0.4, by="random"),
        ),
    ),
    departs=(
        "the share that stays is the same after every block; how the paper sets it from the ACC of all layers is not "
        "in its abstract, nor is ACC's exact formula",
        "tokens leave after a block; whether the paper removes them inside, before the feed-forward part, its abstract "
        "does not say",
        "tokens that left are masked, which gives the same states as removing them and saves no time",
        "the classifier's mean is over the tokens that are left; BERT's classifier reads the first token, which always "
        "stays here too",
    ),
)


class Leaving:
    """What a model's hooks share: which tokens of the batch at hand are left, and the attention that they got."""

    def __init__(self, model: nn.Module, keep: float, by: str) -> None:
        self.keep, self.by = keep, by
        self.left: Tensor = torch.ones(1, 1, dtype=torch.bool)
        self.attention: Tensor | None = None
        for module in model.modules():  # where lower blocks were cut off, attention has a configuration of its own
            # "eager" is the only way of computing it that says what attention was paid
            if hasattr(config := getattr(module, "config", None), "_attn_implementation"):
                config._attn_implementation = "eager"  # type: ignore[union-attr]
        stack = blocks(model)[1]
        for number, block in enumerate(stack):
            block.register_forward_pre_hook(self.before if number else self.first, with_kwargs=True)
            for module in block.modules():
                module.register_forward_hook(self.paid)
            block.register_forward_hook(self.last if number == len(stack) - 1 else self.after)

    def first(self, block: nn.Module, args: Any, kwargs: Any) -> Any:
        """All tokens but padding are there."""
        mask, hidden = _mask(args, kwargs), _hidden(args, kwargs)
        self.left = torch.ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask[:, 0, -1] > -1
        return self.before(block, args, kwargs)

    def before(self, block: nn.Module, args: Any, kwargs: Any) -> Any:
        """Nobody attends to a token that left."""
        mask, hidden = _mask(args, kwargs), _hidden(args, kwargs)
        gone = torch.zeros(len(hidden), 1, 1, hidden.shape[1]).masked_fill(
            ~self.left[:, None, None], torch.finfo(hidden.dtype).min
        )
        mask = gone if mask is None else torch.minimum(mask, gone)
        return ((args[0], mask, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "attention_mask": mask})

    def paid(self, module: nn.Module, args: Any, out: Any) -> None:
        """Attention weights (n, heads, time, time), from whichever module hands them back."""
        if isinstance(out, tuple) and len(out) > 1 and isinstance(out[1], Tensor) and out[1].dim() == 4:
            self.attention = out[1].detach()

    def after(self, block: nn.Module, args: Any, out: Any) -> None:
        """The tokens with the least attention leave."""
        if self.keep < 1:
            if self.attention is None:
                raise ValueError(f"{type(block).__name__} does not say what attention was paid, by which tokens leave")
            self.left = stay(self.attention, self.left, self.keep, self.by)

    def last(self, block: nn.Module, args: Any, out: Any) -> Any:
        """As `after`; those that left then hold the mean of the others, which no mean over all of them notices."""
        self.after(block, args, out)
        states = out[0] if isinstance(out, tuple) else out
        weight = self.left[..., None].to(states.dtype)
        mean = (states * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        states = torch.where(self.left[..., None], states, mean)
        return (states, *out[1:]) if isinstance(out, tuple) else states


def _mask(args: Any, kwargs: Any) -> Tensor | None:
    return args[1] if len(args) > 1 else kwargs.get("attention_mask")


def _hidden(args: Any, kwargs: Any) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def stay(attention: Tensor, left: Tensor, keep: float, by: str = "attention") -> Tensor:
    """attention (n, heads, time, time), rows summing to 1; left (n, time) -> who of them stays, (n, time).

    ceil(keep x those left) of each text, the first token always among them. by: as in `recipe`.
    """
    if by == "attention":
        score = (attention.mean(1) * left[..., None]).sum(1)
    elif by == "random":
        score = torch.rand(left.shape, generator=torch.Generator().manual_seed(0))
    else:
        score = -torch.arange(left.shape[1]).expand(left.shape).float()
    score = score.masked_fill(~left, -torch.inf)
    score[:, 0] = torch.inf
    count = (left.sum(1) * keep).ceil().clamp(min=1)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count[:, None]) & left


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    keep: float = 0.5,
    dial: float | None = None,
    by: Literal["attention", "random", "last"] = "attention",
) -> Tuned:
    """The copy, fine-tuned on labels while tokens leave.

    keep: share of the tokens that stay after each block, in (0, 1]; 1 is plain fine-tuning. dial: the share after
    training, if it is another. by: who leaves: those with the least "attention", at "random", or the "last" ones.
    """
    if not 0 < keep <= 1 or (dial is not None and not 0 < dial <= 1):
        raise ValueError(f"keep={keep}, dial={dial}: shares above 0, at most 1")
    leaving = Leaving(model, keep, by)
    steps, trained = fit(model, setting, cross_entropy, rate=rate, seed=seed, asks=("student", "labels"))
    leaving.keep = keep if dial is None else dial
    return Tuned(model, rate, {}, steps, trained)
