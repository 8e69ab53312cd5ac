"""Kanana's way to a small model: cut a trained one in width, heads too, and let it learn its teacher's logits.

    channel i of the stream    size of what the norms give out, summed over all norms     the same ones stay everywhere
    neuron i of a block        size of the gated product                                  the largest of each block stay
    query head i of a block    2-norm of the sizes of its outputs          as many in each group of a key/value head

    size of a unit: |x| averaged over a sequence, then the 2-norm over the sequences

These are Minitron's scores; what the report adds is that heads go in equal numbers from every group, so that each query
head that stays keeps its own key and value head (section 2.3.3, figure 9, table 15). Only the cut is here; training is
the arm after it, KL(teacher || student) of the logits alone (appendix A.4).

Kanana LLM Team, arXiv 2502.18934; sections 2.3 and A.4 were read. No code of it is public.
"""

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.walk import Batch
from paperlab.kit.width import activity, highest, llama_blocks, narrowed, width_of

CARD = Card(
    family="distillation",
    paper="kanana",
    sources=("paper",),
    task="lm_recover",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    method=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("kanana")),
    equal={"parameters": 0.0},
    checks=(
        Check(
            claim="equal-heads-from-every-group",
            says="Removing as many query heads from every group of a key/value head is better than removing the least "
            "important ones wherever they are (1.3B after 25 billion tokens: 36.41 against 20.13; table 15).",
            baseline=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("kanana", aligned=False)),
            equal={"parameters": 0.0, "tokens": 0.0},
            gap="Theirs: groups of four query heads, a score over six benchmarks that falls by almost half without "
            "the rule. Here: two groups of two heads, of which one stays. Without the rule every block of abstracts-lm "
            "keeps both heads of one group, as heads that share their values are about equally active: one of them "
            "reads the other group's keys and values from then on. That is the worst that can happen to two groups. A "
            "pass says nothing of how much it costs in larger groups that lose a few heads only.",
        ),
        Check(
            claim="better-than-little-training-from-scratch",
            says="Is it better than a model of its shape from random weights that read ten times the tokens, so few "
            "that it is still a poor one?",
            baseline=Arm("from-scratch", multiple=10, after=Arm("kanana")),
            gap="The report's claim (2.1B: average of six benchmarks 50.06 after 0.3 trillion tokens, 43.13 from "
            "scratch after 3 trillion; table 5) is not tested: its model from scratch is nearly done, here it reads "
            "123 thousand tokens. A pass shows that the cut keeps something of what was learned.",
            role="question",
        ),
    ),
    departs=(
        "one round of pruning where the report has two and more; shapes are shares of the width, not searched",
        "without the rule, the heads with the highest scores stay and are dealt to the groups in their order, as a "
        "cut that knows of no groups would do; the report does not say how its own was made",
        "64 calibration windows of 64 tokens; the report does not say how many",
        "staged pre-training, depth up-scaling (which takes 200 billion tokens more) and all post-training of the "
        "report are not here; its headline, leading scores for less compute, cannot be tested at this size",
        "embeddings are tied from the start here; theirs were averaged between two rounds",
        "the head rule was the second check; the first, against a model from scratch, became a question before it "
        "was run",
    ),
)


def submodel(
    model: nn.Module,
    calibration: list[Batch],
    *,
    width: float = 0.6667,
    inner: float = 0.6667,
    heads: float = 0.5,
    aligned: bool = True,
) -> nn.Module:
    """A narrower copy of a model in Llama's layout.

    width, inner, heads: the shares of the residual stream's channels, of each block's neurons and of its query heads
    that are kept, in (0, 1]; of the heads a whole number in each group. aligned: take as many from every group.
    Raises ValueError for another layout, or a share outside its range.
    """
    stack = llama_blocks(model)
    attention = stack[0].self_attn
    channels, neurons = stack[0].input_layernorm.weight.numel(), stack[0].mlp.down_proj.in_features
    size, groups = attention.head_dim, attention.k_proj.out_features // attention.head_dim
    each = attention.q_proj.out_features // size // groups
    if not 0 < heads <= 1:
        raise ValueError(f"heads={heads}: the share of query heads that is kept, above 0 and at most 1")
    left = max(1, round(heads * each))
    sizes = activity(model, calibration)
    norms = sizes.of("attention").unflatten(1, (groups * each, size)).norm(dim=-1)  # (blocks, query heads)
    return narrowed(
        model,
        highest(sizes.of("channel").sum(0), width_of(width, channels, "width")),
        [highest(row, width_of(inner, neurons, "inner")) for row in sizes.of("neuron")],
        [kept_heads(row.view(groups, each), left) if aligned else highest(row, groups * left) for row in norms],
    )


def kept_heads(score: Tensor, left: int) -> Tensor:
    """Indices of the `left` query heads with the highest scores of each group. score: (groups, heads in a group)."""
    groups, each = score.shape
    return torch.cat([highest(score[group], left) + group * each for group in range(groups)])
