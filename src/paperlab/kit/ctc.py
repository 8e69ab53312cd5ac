"""Connectionist temporal classification (Graves et al., 2006): its loss, the plainest decoding, error rates, and how
sure a network is of what it says. Symbol 0 is the blank; labels are padded with it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BLANK = 0


def nats(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (n, frames, symbols), labels (n, most) -> (n,): -log of the probability of the labels, all
    alignments summed. No alignment at all (more labels than frames) is 0, and has no gradient."""
    frames = torch.full((len(labels),), log_probs.shape[1], dtype=torch.long)
    lengths = (labels != BLANK).sum(1).cpu()
    return F.ctc_loss(
        log_probs.transpose(0, 1), labels, frames, lengths, BLANK, reduction="none", zero_infinity=True
    )  # fmt: skip


def best_path(log_probs: Tensor) -> Tensor:
    """Log-probabilities (n, frames, symbols) -> (n, frames): of the likeliest symbol of each frame, repeats merged and
    blanks left out; what is left stands first, then padding."""
    found = log_probs.argmax(-1)
    new = torch.ones_like(found, dtype=torch.bool)
    new[:, 1:] = found[:, 1:] != found[:, :-1]
    kept = new & (found != BLANK)
    order = (~kept).int().argsort(dim=1, stable=True)
    return (found * kept).gather(1, order)


def edits(found: Sequence[int], wanted: Sequence[int]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that make one of the other."""
    row = list(range(len(wanted) + 1))
    for one in found:
        left, diagonal = row[0] + 1, row[0]
        next_row = [left]
        for place, other in enumerate(wanted, 1):
            left = min(left + 1, row[place] + 1, diagonal + (one != other))
            diagonal = row[place]
            next_row.append(left)
        row = next_row
    return row[-1]


def wrong(log_probs: Tensor, labels: Tensor) -> Tensor:
    """(n,) in double precision: edits of each best path to its labels (n, most)."""
    rows = zip(best_path(log_probs).tolist(), labels.tolist(), strict=True)
    return torch.tensor([float(edits(*([s for s in row if s != BLANK] for row in pair))) for pair in rows]).double()


def silenced(log_probs: Tensor, frames: Tensor) -> Tensor:
    """The same, with nothing but blanks from frame `frames` (n,) of each on: what follows is padding."""
    padding = torch.arange(log_probs.shape[1]) >= frames[:, None]
    nothing = torch.full((log_probs.shape[-1],), -100.0, dtype=log_probs.dtype)
    nothing[BLANK] = 0.0
    return torch.where(padding[..., None], nothing, log_probs)


def posterior(log_probs: Tensor, frames: Tensor) -> Tensor:
    """(n,), 0 to 1: the probability of the transcript that `best_path` gives of the first `frames` (n,) of each, all
    its alignments summed."""
    log_probs = silenced(log_probs, frames)
    found = best_path(log_probs)
    return (-nats(log_probs, found[:, : max(1, int((found != BLANK).sum(1).max()))])).exp()


def certainty(log_probs: Tensor, frames: Tensor) -> Tensor:
    """(n,), 0 to 1: one less the mean entropy of the first `frames` (n,) of each, as a share of the largest that there
    can be."""
    log_probs = silenced(log_probs, frames)
    entropy = -(log_probs.exp() * log_probs).sum((1, 2)) / frames
    return 1 - entropy / torch.tensor(float(log_probs.shape[-1])).log()
