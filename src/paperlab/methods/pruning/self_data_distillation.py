"""Self-data distillation: a model without some of its blocks is fine-tuned on what the whole model writes.

    drop   the n neighbouring blocks whose input and output make the smallest angle,   arccos(cos(x_l, x_{l+n})) / pi
    write  y~ ~ p(. | prompt) of the whole model, in place of the reference answer y
    train  cross-entropy on the answer's tokens: of y~, where plain fine-tuning takes y

What the model is trained on then stays within what it would have said, so that it forgets less.

Thangarasa, Venkatesh, Lasby, Sinnadurai and Lie, arXiv 2410.09982. Abstract and published summaries were read; no code
of it is public. The angle is that of Gromov et al., arXiv 2403.17887.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.tuning import Setting, Tuned, fit
from paperlab.kit.walk import Batch, blocks

CARD = Card(
    family="pruning",
    paper="self-data-distillation",
    sources=("abstract",),
    task="lm_adapt",
    metric="own_perplexity",
    expect="lower",
    margin=0.02,
    equal={"parameters": 0.0, "steps": 0.0, "tokens": 0.0},
    gap="Theirs: Llama 3.1 8B Instruct without 6 of 32 blocks, instruction sets, LoRA, accuracy on benchmarks that "
    "were not trained on. Here: a model of 6 million weights without one of its six blocks, fine-tuned on halves of "
    "news windows, and its perplexity on the abstracts that it knows. The model follows no instructions: it cannot "
    "rewrite a reference answer, it continues the prompt in the manner of the text that it is scored on, which favours "
    "its answers. A pass shows less forgetting, not that the new text is learned or that reasoning is kept.",
    checks=(
        Check(
            claim="retains-more-than-fine-tuning",
            says="Fine-tuned on the whole model's own answers, a pruned model retains more of its quality than "
            "fine-tuned in the same way on the reference answers (91.2 % of the accuracy against 81.7 %).",
            method=Arm("self-data-distillation"),
            baseline=Arm("self-data-distillation", answers="reference"),
        ),
        Check(
            claim="better-than-no-training",
            says="It recovers quality that pruning lost.",
            method=Arm("self-data-distillation"),
            baseline=Arm("self-data-distillation", answers="none"),
            equal={"parameters": 0.0},
        ),
        Check(
            claim="retains-more-than-gentle-fine-tuning",
            says="Does it also retain more than fine-tuning on the reference answers at a tenth of the rate?",
            method=Arm("self-data-distillation"),
            baseline=Arm("self-data-distillation", answers="reference", rate_share=0.1),
            role="question",
        ),
    ),
    departs=(
        "the whole model continues a prompt of half a window by sampling at temperature 1; theirs is shown the "
        "instruction with its reference answer and rewrites it, and keeps the reference where the rewriting is wrong",
        "all weights are trained, theirs by LoRA; merging of several such models and their use as drafts are left out",
        "one rate for both ways, 3e-4: of 1e-4 to 3e-3 the method's best on validation windows of either text; on the "
        "new text plain fine-tuning would choose 1e-3 and forget more, on the old one hardly any training",
        "the angle is averaged over all tokens; theirs is taken at the last one",
    ),
)

IGNORED = -100  # the label of prompt tokens
LOOKED_AT = 4  # batches on which the angles are measured


def on_answers(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy where a label is not IGNORED."""
    return F.cross_entropy(student, labels, ignore_index=IGNORED)


def recipe(
    model: nn.Module,
    setting: Setting,
    seed: int,
    rate: float,
    *,
    blocks_dropped: int = 1,
    answers: Literal["own", "reference", "none"] = "own",
    rate_share: float = 1.0,
) -> Tuned:
    """The model without `blocks_dropped` neighbouring blocks, fine-tuned on the second halves of the setting's windows.

    answers: what stands there: what the setting's teacher writes, the text itself, or nothing is trained. rate_share:
    of the learning rate, above 0. Raises ValueError for such a value, or where not at least one block is left.
    """
    if rate_share <= 0:
        raise ValueError(f"rate_share={rate_share}: what the learning rate is multiplied by, above 0")
    rate *= rate_share
    looked_at = [inputs for inputs, _ in islice(setting.batches(seed), LOOKED_AT)]
    dropped = without_blocks(model, looked_at, blocks_dropped)
    if answers == "none":
        return Tuned(dropped, rate)
    batches = setting.batches(seed)
    if answers == "own":
        if setting.teacher is None:
            raise ValueError("self-data distillation needs the whole model as the setting's teacher")
        batches = rewritten(setting.teacher, batches, torch.Generator().manual_seed(seed))
    steps, trained = fit(
        dropped, setting, on_answers, rate=rate, seed=seed, asks=("student", "labels"), batches=answers_only(batches)
    )
    return Tuned(dropped, rate, {}, steps, trained)


def without_blocks(model: nn.Module, batches: list[Batch], count: int) -> nn.Module:
    """The model, changed in place, without the `count` neighbouring blocks that turn the hidden states least."""
    stem, stack = blocks(model)
    if not 0 < count < len(stack):
        raise ValueError(f"blocks_dropped={count}: between 1 and {len(stack) - 1} of the model's {len(stack)} blocks")
    first = min(range(len(stack) - count + 1), key=angles(model, batches, count).__getitem__)
    parent: Any = model.get_submodule(stem.rpartition(".")[0])
    kept = [block for index, block in enumerate(stack) if not first <= index < first + count]
    for index, block in enumerate(kept):
        attention: Any = getattr(block, "self_attn", None)
        if hasattr(attention, "layer_idx"):
            attention.layer_idx = index  # the place in the key/value cache
    setattr(parent, stem.rpartition(".")[2], nn.ModuleList(kept))
    model.config.num_hidden_layers = len(kept)  # type: ignore[union-attr]
    return model


@torch.no_grad()
def angles(model: nn.Module, batches: list[Batch], count: int) -> list[float]:
    """For each first block of a run of `count`: the mean angle between the run's input and output, as a share of pi."""
    own: Any = model
    total: list[float] = []
    for batch in batches:
        states = list(own(**batch, output_hidden_states=True, use_cache=False).hidden_states)
        stack = blocks(model)[1]
        states[-1] = last_before_norm(own, batch, stack)
        cosines = [F.cosine_similarity(x, y, dim=-1) for x, y in zip(states, states[count:], strict=False)]
        now = [float((cosine.clamp(-1, 1).arccos() / torch.pi).mean()) for cosine in cosines]
        total = [a + b for a, b in zip(total, now, strict=True)] if total else now
    return [value / len(batches) for value in total]


def last_before_norm(model: Any, batch: Batch, stack: nn.ModuleList) -> Tensor:
    """What the last block leaves, (batch, time, width): models report it only after their final norm."""
    found: list[Tensor] = []
    handle = stack[-1].register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
    try:
        model(**batch, use_cache=False)
    finally:
        handle.remove()
    return found[0]


@torch.no_grad()
def rewritten(
    teacher: nn.Module, batches: Iterator[tuple[Batch, Tensor]], draw: torch.Generator
) -> Iterator[tuple[Batch, Tensor]]:
    """The batches with the second half of each window as the teacher continues the first."""
    for inputs, labels in batches:
        ids = inputs["input_ids"]
        half, whole = ids.shape[1] // 2, ids.shape[1] + 1
        text = continued(teacher, ids[:, :half], whole - half, draw)
        yield {**inputs, "input_ids": text[:, :-1]}, text[:, 1:].to(labels.dtype)


@torch.no_grad()
def continued(teacher: Any, ids: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """ids (batch, time) with `count` tokens more, sampled at temperature 1 by `draw`."""
    cache, step = None, ids
    for _ in range(count):
        out = teacher(input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=draw)
        ids = torch.cat((ids, step), dim=1)
    return ids


def answers_only(batches: Iterator[tuple[Batch, Tensor]]) -> Iterator[tuple[Batch, Tensor]]:
    """The batches with labels for the second half of each window alone."""
    for inputs, labels in batches:
        masked = labels.clone()
        masked[:, : labels.shape[1] // 2 - 1] = IGNORED
        yield inputs, masked
