"""ERNIE-Tiny: distil in four stages that change one thing each: the teacher, then the texts, then the loss.

    1  general            pre-trained teacher, general texts, latent loss
    2  general-enhanced   fine-tuned teacher,  general texts, latent loss
    3  task-adaptive      fine-tuned teacher,  task's texts,  latent loss
    4  task-specific      fine-tuned teacher,  task's texts,  latent + soft-label + hard-label loss

    latent = mean over the student's blocks of MSE(its states, those of the teacher's block as deep, in shares)

Su et al., "ERNIE-Tiny: A Progressive Distillation Framework for Pretrained Transformer Compression", arXiv 2106.02241.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.tuning import rate_at

CARD = Card(
    family="distillation",
    paper="ernie-tiny",
    sources=("abstract",),
    task="cls_distill",
    metric="accuracy",
    expect="higher",
    margin=0.01,
    method=Arm("ernie-tiny"),
    equal={"steps": 0.0, "parameters": 0.0},
    gap="The paper distils 12 blocks into 4, first on general data and then on the task's own; here 60 steps in all, "
    "a quarter for each stage, 800 general texts, and a student cut from the pre-trained teacher, which has less to "
    "gain from general stages. Keeping 98 % of a teacher's score, the figure on GLUE, is not tested.",
    checks=(
        Check(
            claim="four-stages-better-than-the-last-alone",
            says="Four stages beat as many steps of task-specific distillation alone (the paper: 1.0 % of GLUE "
            "score ahead of earlier students of that size).",
            baseline=Arm("ernie-tiny", general=0.0, enhanced=0.0, adaptive=0.0),
            ablation=Arm("ernie-tiny", general=0.0, enhanced=0.5),
        ),
        Check(
            claim="general-enhanced-stage-helps",
            says="The stage with the fine-tuned teacher on general texts helps: without it, its steps given to the "
            "stage before it, the student is worse.",
            baseline=Arm("ernie-tiny", general=0.5, enhanced=0.0),
        ),
    ),
    departs=(
        "the latent loss is on hidden states alone; whether the paper's also has attention maps the abstract leaves "
        "open",
        "the student begins as the teacher's first blocks with a linear probe for a head, not from its own start",
        "one peak learning rate for all stages, to which the rate rises and from which it falls in each of them",
        "the soft-label loss is the cross-entropy at temperature 1; the three losses of stage 4 weigh the same",
    ),
)


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    general: float = 0.25,
    enhanced: float = 0.25,
    adaptive: float = 0.25,
) -> nn.Module:
    """The student, trained in the setting's steps with its `pretrained` and tuned `teacher`; general texts are
    `setting.general(seed)`. What a setting lacks is replaced by the tuned teacher and by its own batches.

    general, enhanced, adaptive: shares of the steps for stages 1 to 3, in [0, 1] together; the rest is stage 4.
    """
    shares = (general, enhanced, adaptive)
    if min(shares) < 0 or sum(shares) > 1:
        raise ValueError(f"general={general}, enhanced={enhanced}, adaptive={adaptive}: shares of at most 1 together")
    tuned = setting.teacher
    pretrained = getattr(setting, "pretrained", None) or tuned
    ends = [int(sum(shares[: stage + 1]) * setting.steps) for stage in range(3)]
    own = setting.batches(seed)
    other: Iterator[Any] = setting.general(seed) if hasattr(setting, "general") else (batch[0] for batch in own)
    starts = sorted({0, *ends, setting.steps})
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    for step in range(setting.steps):
        begun = max(start for start in starts if start <= step)
        over = min(start for start in starts if start > step)
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_at((step + 0.5 - begun) / (over - begun))  # a stage of one step learns too
        inputs, labels = next(own) if step >= ends[1] else (next(other), torch.empty(0))
        teacher = pretrained if step < ends[0] else tuned
        said = model(**inputs, output_hidden_states=True)
        with torch.no_grad():
            known = teacher(**inputs, output_hidden_states=True)
        mask = inputs.get("attention_mask", torch.ones(said.hidden_states[0].shape[:2]))
        loss = latent(said.hidden_states, known.hidden_states, mask, below=getattr(setting, "frozen", 0))
        if step >= ends[2]:
            logits = said.logits.flatten(0, -2)
            loss = loss + F.cross_entropy(logits, known.logits.flatten(0, -2).softmax(-1))
            loss = loss + F.cross_entropy(logits, labels.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return model


def latent(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], mask: Tensor, *, below: int = 0) -> Tensor:
    """Hidden states of both, (n, time, width) each, and mask (n, time) -> a scalar: mean squared error over tokens of
    what each of the student's blocks leaves with what the teacher's block at the same share of its depth leaves.

    below: blocks of the student that lie below its first state.
    """
    depth, deep = len(student) - 1 + below, len(teacher) - 1
    errors = []
    for block, own in enumerate(student[1:], below + 1):
        error = (own - teacher[round(block * deep / depth)]).square().mean(-1)
        errors.append((error * mask).sum() / mask.sum())
    return torch.stack(errors).mean()
