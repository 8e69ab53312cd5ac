"""Gradual pruning: while a network trains, its smallest weights go, fast at first and ever slower.

    s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3       sparsity at step t between t_0 and t_1; s_i = 0
    y    = (w . mask) x,   mask: the (1 - s) n largest |w| of the layer, found anew every `frequency` steps

A masked weight keeps its value, has no gradient, and may come back when the mask is found anew. After t_1 the mask
stays and what is left trains on. Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, whose question is
whether such a network beats a small dense one that takes as much memory.

Written after pruning_schedule.py and pruning_impl.py of github.com/tensorflow/model-optimization at 6fbc2ce, where the
authors' method lives on, and the paper's abstract.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.masks import keep_highest

CARD = Card(
    family="pruning",
    paper="to-prune-or-not-to-prune",
    sources=("abstract", "code"),
    configuration="PolynomialDecay(initial_sparsity=0, power=3)",
    task="lm_train",
    metric="bits_per_byte",
    expect="lower",
    margin=0.02,
    equal={"bytes": 0.01, "steps": 0.0, "tokens": 0.0},
    gap="Theirs: convolutional networks, stacked LSTMs and a translation model, trained to the end. Here: a "
    "transformer of 222 thousand parameters that reads less than all of its text once, so both networks would gain "
    "from more training, the large one also from the steps that pruning takes. A pass says nothing of other sizes.",
    checks=(
        Check(
            claim="large-sparse-better-than-small-dense",
            says="A large network of which three quarters are pruned while it trains predicts better than a small "
            "dense one with the same memory footprint.",
            method=Arm("to-prune-or-not-to-prune", sparsity=0.75),
            baseline=Arm("small-dense", width=32, inner=108),
        ),
        Check(
            claim="large-sparse-better-than-small-dense-at-90",
            says="The same with nine tenths pruned: ten times fewer weights with minimal loss.",
            method=Arm("to-prune-or-not-to-prune", sparsity=0.9),
            baseline=Arm("small-dense", width=24, inner=77),
        ),
        Check(
            claim="gradual-better-than-one-shot",
            says="Is the slow way better than taking all weights at once, in the middle of the same slope?",
            method=Arm("to-prune-or-not-to-prune", sparsity=0.9),
            baseline=Arm("to-prune-or-not-to-prune", sparsity=0.9, begin=0.4, end=0.4),
            role="question",
        ),
    ),
    departs=(
        "every linear layer is pruned, the output layer too; the embedding (7 % of the weights) stays dense",
        "the footprint counts 32 bits for each weight that is left and one bit a weight to say which, so the small "
        "network may have some more weights than the large one has left; the paper counts weights",
        "the slope is 10 to 70 % of 600 steps, the quick scale; at `full` it ends after 420 of 3,000",
        "AdamW's momentum moves a masked weight for a few more steps; theirs keeps it",
        "the small network has fewer units in the same four blocks; the shape of the feed-forward layer is what makes "
        "the footprints equal",
    ),
)


class Linear(nn.Linear):
    """A linear layer that prunes itself while it trains: (…, in_features) -> (…, out_features).

    sparsity: the share of its weights that is gone in the end, at least 0 and below 1. begin, end: shares of `steps`
    between which it grows; equal for one cut. steps: of the training, counted by forward passes in training mode; a
    longer one goes on with the last mask. frequency: steps between two masks.
    """

    mask: Tensor
    done: Tensor

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, sparsity: float = 0.75, begin: float = 0.1,
        end: float = 0.7, steps: int = 600, frequency: int = 10,
    ) -> None:  # fmt: skip
        if not 0 <= begin <= end <= 1 or frequency < 1 or steps < 1:
            raise ValueError(f"begin={begin} and end={end} are shares of the {steps} steps, in order; frequency >= 1")
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity={sparsity}: the share of weights to remove, at least 0 and below 1")
        super().__init__(in_features, out_features, bias)
        self.sparsity, self.first, self.last, self.frequency = sparsity, begin * steps, end * steps, frequency
        self.register_buffer("mask", torch.ones(out_features, in_features, dtype=torch.bool))
        self.register_buffer("done", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features)."""
        if self.training:
            step = int(self.done)
            if self.first <= step and (step % self.frequency == 0 or step - 1 < self.last <= step):
                self.prune(sparsity_at(step, self.sparsity, self.first, self.last))
            self.done += 1
        return F.linear(x, self.weight * self.mask, self.bias)

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Find the mask anew."""
        score = self.weight.detach().abs().reshape(1, -1)
        self.mask.copy_(keep_highest(score, sparsity=sparsity).reshape(self.mask.shape))

    def stored_bits(self) -> int:
        """32 for each weight that is left and each bias, and one a weight for the mask, if anything is gone."""
        kept, biases = int(self.mask.sum()), 0 if self.bias is None else self.bias.numel()
        return 32 * (kept + biases) + (self.mask.numel() if kept < self.mask.numel() else 0)


def sparsity_at(step: float, final: float, first: float, last: float) -> float:
    """The cubic schedule: 0 at step `first`, `final` from `last` on."""
    if step >= last:
        return final
    return final * (1 - (1 - max(step - first, 0.0) / (last - first)) ** 3)
