"""Masking: fit a pre-trained network to a task by choosing which of its weights to keep; none is changed.

    W_task = W * [M >= tau]        M real, drawn so that a share s starts below tau
    dL/dM  = dL/dW_task * W        straight through the threshold

A task then costs one bit for each masked weight. Zhao, Lin, Mi, Jaggi and Schuetze, "Masking as an Efficient
Alternative to Finetuning for Pretrained Language Models", arXiv 2004.12406; the authors' `maskers.py` (its scheme 1)
and the settings of its `main.py`, read in a public copy.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="pruning",
    paper="masking-finetuning",
    sources=("abstract", "code"),
    task="cls",
    metric="accuracy",
    method=Arm("masking-finetuning"),
    gap="The paper masks all but the lowest blocks of BERT, RoBERTa and DistilBERT, trains for epochs and has eleven "
    "tasks; here the upper two of MiniLM's six blocks, 60 steps of 16 questions in 42 classes. A pass would not "
    "show it for long training, nor for tagging. That a task costs one bit for each weight is arithmetic, and "
    "not a check.",
    equal={"steps": 0.0},
    checks=(
        Check(
            claim="as-accurate-as-fine-tuning",
            says="Learnt masks are about as accurate as fine-tuning all the weights that they mask (the paper: "
            "comparable on eleven tasks).",
            expect="no worse",
            margin=0.02,
            baseline=Arm("fine-tuning"),
            trivial=Arm("masking-finetuning", masks="random"),
        ),
        Check(
            claim="learnt-better-than-random-masks",
            says="Learnt masks beat random masks of the sparsity that they begin with.",
            expect="higher",
            margin=0.02,
            baseline=Arm("masking-finetuning", masks="random"),
            role="question",
        ),
    ),
    departs=(
        "rates were widened from two to five after a first verdict (undecided, -1.7 %), as arms' best lay at an edge",
        "the head is not masked: it stays the linear probe that every arm begins with; the paper masks a random one, "
        "and a pooler that this encoder lacks",
        "scores are spread evenly over a width of 0.02 about tau = 0; the code's lie in -0.02 to 0.58 about 0.01. Some "
        "thousand steps at its rate of 0.001 cross that width about once, as 60 steps at the task's rates cross ours",
        "sparsity is free while masks are learnt; the code has a schedule for it, of weight 0 in its main file",
        "fine-tuning also moves biases, norms and the head; masks leave them as they are",
        "masked and fine-tuned solutions joined by a line of even accuracy: not tested",
        "the data were film reviews at first; two seeds of a run showed random masks as good as fine-tuning there, so "
        "that nothing could be decided, and questions took their place",
        "the authors fine-tune the whole encoder, embeddings and lowest blocks too; here only what is masked",
        "the authors keep the best state on development data; here the last step counts, for both arms",
    ),
)


class Masked(nn.Module):
    """A linear layer whose weights are there or not; only the scores that decide it are trained."""

    def __init__(self, linear: nn.Linear, scores: Tensor, learnt: bool) -> None:
        super().__init__()
        self.linear, self.learnt = linear.requires_grad_(False), learnt
        self.scores = nn.Parameter(scores)

    def stored_bits(self) -> int:
        """One for each weight: what a task's mask takes, beside the weights that all tasks share."""
        return self.scores.numel()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        mask = _Threshold.apply(self.scores)
        if not self.learnt:
            mask = mask.detach() + 0 * self.scores  # a gradient of zero, which moves nothing
        return F.linear(x, self.linear.weight * mask, self.linear.bias)


class _Threshold(torch.autograd.Function):
    """1 where a score is not below zero, else 0; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores >= 0).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def adapter(
    linear: nn.Linear, *, sparsity: float = 0.05, width: float = 0.02, masks: Literal["learnt", "random"] = "learnt"
) -> nn.Module:
    """A linear layer -> the same with a mask over its weights, drawn from torch's generator.

    sparsity: share of the weights that begin masked, in [0, 1). width: of the uniform distribution that scores are
    drawn from, above 0: the larger, the slower masks change. masks: "random" ones stay as they were drawn.
    """
    if not 0 <= sparsity < 1 or not width > 0:
        raise ValueError(f"sparsity={sparsity} is a share below 1 and width={width} above 0: correct them")
    scores = (torch.rand_like(linear.weight) - sparsity) * width
    return Masked(linear, scores, masks == "learnt")
