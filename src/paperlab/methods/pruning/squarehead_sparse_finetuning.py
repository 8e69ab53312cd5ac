"""SquareHead: a pruned model is fine-tuned with its hidden states held to the dense model's, layer by layer.

    loss = CE(student, labels) + sum_l  mean (s_l - t_l)^2 / (mean t_l^2 + eps)

l runs over what each block leaves, the last after the final norm; means are over the tokens that are not padding and
over the width; eps is bf16's, 2^-7. So every layer counts alike, whatever the size of its states. The mask stays as it
was pruned: zeros never move.

Kurtic, Kuznedelev, Frantar, Goin and Alistarh, arXiv 2310.06927. Written after scripts/train/train_sparse.py of
github.com/IST-DASLab/SparseFinetuning at 447f673; the paper's summary and tables were read, not its text.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.divergences import divergence

CARD = Card(
    family="pruning",
    paper="squarehead-sparse-finetuning",
    sources=("abstract", "code"),
    configuration="scripts/train/scripts/mpt/run_sparse_finetune.sh: CE 1.0, SquareHead 1.0, KL 0.0",
    task="lm_recover",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"nonzero": 0.001, "steps": 0.0, "tokens": 0.0},
    checks=(
        Check(
            claim="better-than-task-loss-at-high-sparsity",
            says="Where a fifth of the weights remains, a short fine-tuning with task loss and SquareHead recovers "
            "more than the task loss alone (T5, Whisper and MPT-7B; MPT on GSM8k up to 80 % sparsity).",
            method=Arm("squarehead-sparse-finetuning", after=Arm("sparsegpt", sparsity=0.8)),
            baseline=Arm("fine-tuning", after=Arm("sparsegpt", sparsity=0.8)),
            gap="Theirs: MPT-7B fine-tuned on 7,473 school problems for epochs, scored by accuracy. Here: 6 million "
            "parameters and 12 thousand tokens of the text that the model was trained on, scored by perplexity; both "
            "read as much, and the teacher's forward passes are not counted, as theirs are not. Neither the "
            "instability nor the overfitting that they report of the task loss can show in so few steps.",
        ),
        Check(
            claim="better-than-logit-distillation",
            says="Of the distillation losses that they study, SquareHead recovers most: also more than the task loss "
            "with KL(teacher || student) of the logits, both of weight 1.",
            method=Arm("squarehead-sparse-finetuning", after=Arm("sparsegpt", sparsity=0.8)),
            baseline=Arm("divergence", hard=0.5, temperature=1.0, after=Arm("sparsegpt", sparsity=0.8)),
            gap="As above. Theirs compares task accuracy after fine-tuning on a new task; here the text is not new to "
            "the teacher, whose logits then say more than the labels do.",
        ),
        Check(
            claim="normalised-better-than-plain-distance",
            says="Is dividing by the size of the teacher's states what helps, against the plain squared distance?",
            method=Arm("squarehead-sparse-finetuning", after=Arm("sparsegpt", sparsity=0.8)),
            baseline=Arm("feature-distillation", label_weight=1.0, after=Arm("sparsegpt", sparsity=0.8)),
            gap="A question of ours; the authors' repository has this variant, the paper's figures for it were not "
            "read.",
            role="question",
        ),
    ),
    departs=(
        "the rate, the schedule's warm-up (5 % of the steps) and the batch are the task's, the same for all arms; "
        "theirs is AdamW in bf16 at 8e-5 to 1e-4 for four epochs with 20 steps of warm-up",
        "the teacher is the dense model as it was, which knows the text; theirs was first fine-tuned on the task",
        "both losses try four rates here; theirs are one rate for each sparsity, 1e-4 at 80 %",
        "gradients of pruned weights are zeroed, which leaves the same zeros as their masking after each step",
        "T5 and Whisper, which they prune gradually while training, are left out",
    ),
)

EPS = torch.finfo(torch.bfloat16).eps


def loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_hidden: tuple[Tensor, ...],
    teacher_hidden: tuple[Tensor, ...],
    mask: Tensor,
    *,
    label_weight: float = 1.0,
    feature_weight: float = 1.0,
    logit_weight: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """student, teacher (n, classes) logits, labels (n,) int64; hidden states of both (batch, time, width), first those
    that enter the blocks, which are left out; mask (batch, time), 1 for a token -> a scalar.

    label_weight, feature_weight, logit_weight: of cross-entropy, SquareHead and KL(teacher || student) at
    `temperature`. Raises ValueError for a teacher of another depth or width.
    """
    if [state.shape for state in student_hidden] != [state.shape for state in teacher_hidden]:
        raise ValueError("SquareHead needs a teacher with as many blocks as the student, equally wide")
    total = label_weight * F.cross_entropy(student, labels)
    if logit_weight:
        said = divergence(student, teacher, "forward-kl", temperature=temperature)
        total = total + logit_weight * temperature**2 * said
    if feature_weight:
        total = total + feature_weight * squarehead(student_hidden[1:], teacher_hidden[1:], mask.bool())
    return total


def squarehead(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], kept: Tensor) -> Tensor:
    """Sum over layers of the squared distance relative to the teacher's mean square. kept (batch, time): tokens."""
    total = student[0].new_zeros(())
    for own, other in zip(student, teacher, strict=True):
        apart = (own[kept] - other[kept]).square().mean()
        total = total + apart / (other[kept].square().mean() + EPS)
    return total
