"""Minitron: a smaller model cut from a trained one by the size of its activations, then taught by its logits.

    neuron i of a block    size of what the down projection reads                        keep the largest of each block
    channel i of the stream    size of what the norms give out, summed over all norms      keep the same ones everywhere
    size of a unit: |x| averaged over a sequence, then the 2-norm over the sequences ("batch = L2, sequence = mean")

Only the cut is here. Training is the arm after it: KL(teacher || student) of the logits at temperature 1, alone.

Muralidharan, Sreenivas, Joshi, Chochowski, Patwary, Shoeybi, Catanzaro, Kautz and Molchanov, arXiv 2407.14679. Written
after modelopt/torch/nas/plugins/megatron.py of github.com/NVIDIA/TensorRT-Model-Optimizer at 5a4242f and a summary of
the paper's sections and tables; the paper's own text was not at hand.
"""

from typing import Literal

import torch
from torch import nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.walk import Batch
from paperlab.kit.width import activity, highest, llama_blocks, narrowed, width_of

CARD = Card(
    family="pruning",
    paper="minitron",
    sources=("abstract", "code"),
    configuration="mcore_minitron, export_config with hidden_size and ffn_hidden_size",
    task="lm_recover",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    method=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("minitron")),
    equal={"parameters": 0.0},
    checks=(
        Check(
            claim="distillation-better-than-labels",
            says="At equal compute a cut model recovers more from its teacher's logits than from the text alone, of "
            "which it may then read half as much again (4B: 100 against 150 billion tokens).",
            baseline=Arm("longer-fine-tuning", multiple=1.5, after=Arm("minitron")),
            gap="Theirs: 15 to 4 billion parameters, benchmark scores, budgets at which half as much text again adds "
            "little. Here: 6 to 3 million, perplexity, 12 against 18 thousand tokens, where every step still counts, "
            "which favours the labels; the teacher has seen the text that both read, which favours its logits.",
        ),
        Check(
            claim="distillation-better-than-labels-at-equal-tokens",
            says="Is it better where both read as much?",
            baseline=Arm("fine-tuning", after=Arm("minitron")),
            equal={"parameters": 0.0, "tokens": 0.0},
            gap="A question of ours: the teacher's forward passes are not counted.",
            role="question",
        ),
        Check(
            claim="importance-better-than-chance",
            says="Is the choice by activations better, after the same distillation, than units drawn at random?",
            baseline=Arm("divergence", hard=0.0, temperature=1.0, after=Arm("minitron", by="random")),
            equal={"parameters": 0.0, "tokens": 0.0},
            gap="A question of ours: the paper compares ways to aggregate activations, not with a random choice.",
            role="question",
        ),
        Check(
            claim="better-than-little-training-from-scratch",
            says="Is it better than a model of its shape from random weights that read four times the tokens, so few "
            "that it has learned little more than which words are frequent?",
            baseline=Arm("from-scratch", multiple=4, after=Arm("minitron")),
            gap="The paper's headline (up to 40 times fewer tokens; 4B, cut twice: MMLU 42 after 100 billion tokens, "
            "26 from scratch after 400 billion) is not tested: its models from scratch are well trained, here they "
            "read 49 thousand tokens. A pass shows that the cut keeps something of what was learned.",
            role="question",
        ),
    ),
    departs=(
        "heads and blocks are kept: of the paper's two models the 8B one, whose stream and feed-forward layers are cut "
        "to two thirds; its merging of pruned heads into kept ones is not needed then",
        "the paper compares distillation with labels at 4B, a deeper cut than the 8B shape used here; the factor of "
        "1.5 is that comparison's, and equal compute at these sizes would give the labels about 1.67 times the tokens",
        "all arms start from the same cut and try the same rates; theirs have one schedule",
        "no search over shapes, and one cut instead of two with training between, as they do for 4B",
        "neurons are measured where the gated product is read, as in the authors' tool; the paper writes the first "
        "matrix's output",
        "64 calibration windows of 64 tokens instead of 1,024 samples; widths are multiples of 8, theirs of 64",
        "the main check was the one against little training from scratch until its record held by 94 %, which decides "
        "nothing; it is a question since",
    ),
)


def submodel(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    width: float = 0.6667,
    inner: float = 0.6667,
    by: Literal["activations", "random"] = "activations",
) -> nn.Module:
    """A narrower copy of a model in Llama's layout.

    width, inner: the shares of the residual stream's channels and of each block's neurons that are kept, in (0, 1].
    by: "random" draws them instead. Raises ValueError for another layout, or a share outside its range.
    """
    stack = llama_blocks(model)
    channels, neurons = stack[0].input_layernorm.weight.numel(), stack[0].mlp.down_proj.in_features
    kept = width_of(width, channels, "width"), width_of(inner, neurons, "inner")
    if by == "random":
        draw = torch.Generator().manual_seed(seed)
        scores = torch.rand(channels, generator=draw), torch.rand(len(stack), neurons, generator=draw)
    else:
        sizes = activity(model, calibration)
        scores = sizes.of("channel").sum(0), sizes.of("neuron")
    return narrowed(model, highest(scores[0], kept[0]), [highest(row, kept[1]) for row in scores[1]])
