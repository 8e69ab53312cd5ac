"""DARE: of what a model learnt, drop most weights at random and enlarge the rest; then merge.

    tau = theta - theta_0        m ~ Bernoulli(p), for each weight        tau' = (1 - m) tau / (1 - p)
    theta' = theta_0 + tau'                              of one model; several tau' are merged as any others

Dropping keeps the expected output, and the sparse changes of several models rarely meet in one weight.

Yu, Yu, Yu, Huang and Li, "Language models are Super Mario", arXiv 2311.03099; written from the authors' code
(`model_merging_methods/mask_weights_utils.py`, github yule-BUAA/MergeLM @ 6d49ad9), which has the other arms of the
paper too: dropping without enlarging, keeping the largest changes, and pruning the tuned weights themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.merging import added, agreed, deltas, weights_of

CARD = Card(
    paper="dare-super-mario",
    family="merging",
    sources=("abstract", "code"),
    configuration="inference_plms_glue.py --weight_mask_rate 0.9 --use_weight_rescale; merge_plms_glue.py",
    task="merge_text",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    data="apart",
    equal={"bytes": 0.0, "models": 0.0},
    trivial=Arm("task-arithmetic", scale=0.0),
    gap="The paper tunes whole BERT and RoBERTa on eight GLUE sets, merges language models of 7 and 13 thousand "
    "million weights, and prunes up to 70. Here the upper two blocks of a sentence encoder of 22 million weights, "
    "tuned for 50 steps (250 at full) on each of three small sets of texts, at 3e-4, where the authors take 1e-5 or "
    "5e-5 for up to ten epochs: a pass says nothing of abilities that a large model generates, or of changes by long "
    "training.",
    checks=(
        Check(
            claim="nine-tenths-without-loss",
            says="Of what fine-tuning changed, 90 % can be dropped and the rest enlarged without loss (the paper: 90 % "
            "or even 99 %).",
            expect="no worse",
            method=Arm("dare-super-mario", sparsity=0.9),
            baseline=Arm("task-arithmetic", scale=1.0),
            beside=(Arm("dare-super-mario", sparsity=0.9, pick="magnitude", rescale=False),),
            ablation=Arm("dare-super-mario", sparsity=0.9, rescale=False),
            gates=(
                Gate(
                    says="where nothing is dropped it is the tuned model",
                    method=Arm("dare-super-mario", sparsity=0.0),
                    baseline=Arm("task-arithmetic", scale=1.0),
                    tolerance=0.001,
                ),
            ),
        ),
        Check(
            claim="better-than-dropping-alone",
            says="Enlarging what is left matters: dropping 90 % without it loses more.",
            method=Arm("dare-super-mario", sparsity=0.9),
            baseline=Arm("dare-super-mario", sparsity=0.9, rescale=False),
        ),
        Check(
            claim="changes-not-weights",
            says="What was learnt is redundant, the weights are not: dropping 10 % of the tuned weights loses more "
            "than dropping 10 % of the changes.",
            method=Arm("dare-super-mario", sparsity=0.1),
            baseline=Arm("dare-super-mario", sparsity=0.1, of="weights"),
        ),
        Check(
            claim="ninety-nine-hundredths-without-loss",
            says="Even 99 % can be dropped, where the changes are small (the paper: within 0.005 or less, and more "
            "easily in large models).",
            expect="no worse",
            method=Arm("dare-super-mario", sparsity=0.99),
            baseline=Arm("task-arithmetic", scale=1.0),
            ablation=Arm("dare-super-mario", sparsity=0.99, rescale=False),
        ),
        Check(
            claim="merging-better-with-it",
            says="Models of three tasks are merged better where 20 % of each one's changes are dropped first and the "
            "rest enlarged (the paper: often modestly better, and clearly for some large models).",
            data="tasks",
            method=Arm("dare-super-mario", sparsity=0.2),
            baseline=Arm("task-arithmetic"),
            beside=(Arm("dare-super-mario", sparsity=0.9), Arm("ties")),
        ),
    ),
    departs=(
        "the mean over tokens goes to a task's head, where BERT has a pooling layer that is pruned and merged too",
        'with then="ties" the dropped changes are not trimmed again, as in mergekit\'s dare_ties; the authors do trim',
        "the factor of merged models is chosen on validation texts, for each arm anew; the authors take that of the "
        "undropped models and choose factor and rate on test data",
        "three models are merged at once, their changes added up; the authors merge tuned encoders in pairs",
        "20 % is what the released command for large models drops; the rate is not chosen",
        "one factor serves all tasks of a merge; the authors choose and judge it for one target task of each pair",
    ),
)

UNTUNED = 1.0


def merge(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    *,
    sparsity: float = 0.9,
    rescale: bool = True,
    pick: Literal["random", "magnitude"] = "random",
    of: Literal["changes", "weights"] = "changes",
    then: Literal["sum", "average", "ties"] = "sum",
    weights: str = "",
    scale: float | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of the base and of each model -> (name, merged tensor), one tensor at a time.

    sparsity: p, the share of each tensor that is dropped, in [0, 1). rescale: divide the rest by 1 - p. pick: what is
    dropped, at random or the smallest. of: drop what each model learnt, or its weights themselves. then: how the
    models' changes are merged: their sum, their mean, or the mean of those with the elected sign. weights: one for each
    model as "0.7,0.3"; empty: 1 for each. scale: a factor for all; none: what the driver finds on validation data where
    there is any, else 1. Raises ValueError for values out of range. Draws from torch's global generator.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity} is the share that is dropped: give at least 0, less than 1")
    shares = weights_of(weights, len(models))
    factor = UNTUNED if scale is None else scale
    if then == "average":
        factor /= sum(shares)
    enlarge = 1 / (1 - sparsity) if rescale else 1.0
    for name in base:
        if of == "changes":
            pruned = (drop(change, sparsity, pick).mul_(enlarge) for change in deltas(base, models, name))
        else:
            whole = (model[name].to(torch.float32, copy=True) for model in models)
            pruned = (drop(weight, sparsity, pick).mul_(enlarge).sub_(base[name]) for weight in whole)
        merged = agreed(pruned, shares) if then == "ties" else added(pruned, shares)
        yield name, merged.mul_(factor).add_(base[name])


def drop(tensor: Tensor, sparsity: float, pick: str) -> Tensor:
    """The tensor with a share of its values set to 0, in place: each with that probability, or just the smallest."""
    if pick == "random":
        return tensor.mul_(1 - torch.bernoulli(torch.full_like(tensor, sparsity)))
    count = int(tensor.numel() * sparsity)
    if count == 0:
        return tensor
    magnitude = tensor.abs()
    return tensor.mul_(magnitude > magnitude.flatten().kthvalue(count).values)
