"""What a whole-model method may measure or descend on calibration data alone: one scalar loss per batch.

A causal language model brings its labels with the text: the loss is next-token cross entropy. An encoder has
none here, so its loss is the distance of its sentence embeddings to the original's. At the original weights
that loss and its gradient are zero, and its Hessian is exactly the Gauss-Newton matrix 2 J^T J of the embeddings.
Methods that are given the original may compare logits with it: KL divergences over all of them or the largest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.walk import Batch


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient but those that are told to; afterwards all are as they were."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def predicts_tokens(model: nn.Module) -> bool:
    """True for a model with an output head over a vocabulary."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head is not None


def text_of(batch: Batch) -> Tensor:
    """The tokens (b, t) that a language model predicts: its text, or what the decoder of an encoder-decoder reads.

    Raises ValueError for a batch without text.
    """
    ids = batch.get("decoder_input_ids", batch.get("input_ids"))
    if ids is None:
        raise ValueError(f"no text in the calibration data ({', '.join(batch)}): this method measures a model on text")
    return ids


def _mask_of(batch: Batch) -> Tensor | None:
    """1 for the tokens of `text_of` that are no padding (b, t), where that is said."""
    return batch.get("decoder_attention_mask" if "decoder_input_ids" in batch else "attention_mask")


def embeddings(model: nn.Module, batch: Batch) -> Tensor:
    """Unit-length mean-pooled sentence embeddings (b, width). Raises ValueError for a model without hidden states."""
    hidden = getattr(model(**batch), "last_hidden_state", None)
    if hidden is None:
        raise ValueError(f"{type(model).__name__} returns neither logits of tokens nor hidden states to compare")
    mask = batch.get("attention_mask", torch.ones(hidden.shape[:2]))[..., None].to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)


def targets(model: nn.Module, batches: list[Batch]) -> list[Tensor | None]:
    """What `loss` compares with, per batch: the original's embeddings (b, width), or None: text is its own label."""
    if predicts_tokens(model):
        return [None] * len(batches)
    with torch.no_grad():
        return [embeddings(model, batch) for batch in batches]


def loss(model: nn.Module, batch: Batch, target: Tensor | None) -> Tensor:
    """Scalar, differentiable: mean nats per predicted token, or mean squared distance to `target` (b, width)."""
    if target is not None:
        return (embeddings(model, batch) - target).square().sum(-1).mean()
    ids, mask = text_of(batch), _mask_of(batch)
    logits = model(**batch, use_cache=False).logits[:, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = ids[:, 1:]
    if mask is not None:
        labels = labels.masked_fill(mask[:, 1:] == 0, -100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of KL(teacher || student); logits (…, vocabulary) each, scalar."""
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    return F.kl_div(q.flatten(0, -2), p.flatten(0, -2), log_target=True, reduction="batchmean")


def kl_top(student: Tensor, teacher: Tensor, k: int) -> Tensor:
    """Mean over positions of sum p log(p / q) over the teacher's k likeliest tokens; logits (…, vocabulary) each.

    p and q are softmaxed over the whole vocabulary, so that with k below its size the sum may be negative.
    The KL-Top loss of Hu et al., OstQuant, arXiv 2501.13987.
    """
    p, index = teacher.log_softmax(-1).topk(min(k, teacher.shape[-1]), dim=-1)
    q = student.log_softmax(-1).gather(-1, index)
    return (p.exp() * (p - q)).sum(-1).mean()


def outputs(model: nn.Module, batch: Batch) -> Tensor:
    """What `loss` compares: logits (predicted tokens, vocabulary), or sentence embeddings (b, width)."""
    if not predicts_tokens(model):
        return embeddings(model, batch)
    logits = model(**batch, use_cache=False).logits[:, :-1]
    mask = _mask_of(batch)
    return logits[mask[:, 1:].bool()] if mask is not None else logits.flatten(0, 1)


@torch.no_grad()
def mean_loss(model: nn.Module, batches: list[Batch], wanted: list[Tensor | None]) -> float:
    """Mean of `loss` over batches."""
    return sum(loss(model, *pair).item() for pair in zip(batches, wanted, strict=True)) / len(batches)


def sample(calibration: list[Batch], tokens: int) -> list[Batch]:
    """The first rows of the calibration data that hold at least `tokens` tokens (all of them, if it has fewer)."""
    if tokens < 1:
        raise ValueError(f"tokens={tokens}: at least 1")
    if not calibration:
        raise ValueError("no calibration data: this method measures the model on text")
    taken: list[Batch] = []
    for batch in calibration:
        rows, width = text_of(batch).shape
        wanted = min(rows, -(-tokens // width))
        taken.append({name: value[:wanted] for name, value in batch.items()})
        tokens -= wanted * width
        if tokens <= 0:
            break
    return taken


def shuffled(calibration: list[Batch], rows: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches of at most `rows` calibration windows in a random order, again and again without end."""
    pieces = [
        {key: value[at : at + rows] for key, value in batch.items()}
        for batch in calibration
        for at in range(0, len(text_of(batch)), rows)
    ]
    while True:
        for at in torch.randperm(len(pieces), generator=generator).tolist():
            yield pieces[at]
