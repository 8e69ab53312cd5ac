"""SparseGPT: prune column by column, each time refitting the columns still to come.

    minimise  || W X - W' X ||^2,   H = 2 X X^T,   U^T U = (H + damping * mean(diag H) I)^-1
    score[o, i] = W[o, i]^2 / U_ii^2           compared within a block of columns, or N:M, when its turn comes
    W[o, j] -= (W[o, i] / U_ii) U_ij           for j > i, where W[o, i] is removed

Frantar and Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, arXiv 2301.00774;
github.com/IST-DASLab/sparsegpt at 147d215. The factor U is GPTQ's. Its checks are in `pruning_controls`.
"""

import torch
from torch import Tensor

from paperlab.core.card import Card
from paperlab.kit.gptq import factor
from paperlab.kit.masks import keep_highest, read_pattern
from paperlab.kit.matrix import Dense, Sparse

CARD = Card(
    family="pruning",
    sources=("abstract", "code"),
    departs=(
        "exactly floor(n * sparsity) weights of a block go; the authors' threshold takes one more, and all that equal",
        "N:M keeps N of M; their code removes N of M, which is the same at 2:4 and 4:8",
        "weights that are zero already stay zero, so that it can follow another pruning method; theirs may come back",
        "where float32 cannot factor the Hessian, float64 and then more damping are tried; theirs stops",
        "what is kept is stored as float16, whatever the model's type",
        "no joint quantization in the same pass: a quantizer follows as a method of its own",
        "calibration windows are those of the task, shorter and fewer than their 128 of 2,048 tokens",
    ),
)


def keep(
    weight: Tensor,
    hessian: Tensor,
    *,
    sparsity: float = 0.5,
    pattern: str | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> Sparse:
    """weight (out, in), hessian (in, in) -> the kept weights, refitted, as float16.

    sparsity: share that goes, of every `block` columns. pattern: "N:M" keeps N of every M neighbours of a row; its
    share must be that of `sparsity`, and M must divide `block`. damping: share of the Hessian's mean diagonal added
    to it. Inputs that were never active lose their weights first.
    """
    if block < 1:
        raise ValueError(f"block={block}: at least 1 column")
    width = read_pattern(pattern, sparsity)[1] if pattern else block
    if block % width:
        raise ValueError(f"block={block} is no multiple of the {width} columns that pattern={pattern} spans")
    if hessian.shape != (weight.shape[1], weight.shape[1]):
        raise ValueError(f"a Hessian of {tuple(hessian.shape)} does not fit {weight.shape[1]} input columns")
    hessian = hessian.float().clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    work = weight.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)  # one row for each column
    work[dead] = 0
    gone = work == 0
    upper = factor(hessian, damping=damping)
    kept = torch.empty_like(gone)
    for start in range(0, len(work), block):
        part = work[start : start + block]
        inner = upper[start : start + len(part), start : start + len(part)]
        errors = torch.empty_like(part)
        for i in range(len(part)):
            if i % width == 0:  # a block, or a pattern's M columns: chosen with weights that are up to date
                at = slice(i, i + width)
                score = (part[at] / inner.diagonal()[at, None]).square()
                score.masked_fill_(gone[start + i : start + i + width], -1)
                kept[start + i : start + i + width] = _chosen(score, sparsity, pattern)
            stays = kept[start + i] & ~gone[start + i]
            errors[i] = torch.where(stays, 0.0, part[i] / inner[i, i])
            part[i + 1 :].addr_(inner[i, i + 1 :], errors[i], alpha=-1)
        work[start + block :].addmm_(upper[start : start + len(part), start + block :].T, errors, alpha=-1)
    kept &= ~gone
    return Sparse(kept.T.contiguous(), Dense((work * kept).T.half()))


def _chosen(score: Tensor, sparsity: float, pattern: str | None) -> Tensor:
    """score (columns, out) -> mask of what stays: of each row's M columns, or of all together."""
    if pattern:
        return keep_highest(score.T, sparsity=sparsity, pattern=pattern).T
    return keep_highest(score.T.reshape(1, -1), sparsity=sparsity).reshape(score.shape[1], -1).T
