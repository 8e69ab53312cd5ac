"""Distilling a language model on what it writes itself: sampling, and one training step for all who do so.

    L = CE(student, text) + distance(student, teacher on y),      y what `written` makes of a second batch of text

Both terms are taken on answers alone, the second halves of the windows; the first halves are their prompts. Answers for
AHEAD steps are written at once, by the student as it is then: a small model writes 32 as fast as 8.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.noted import Noted, counted
from paperlab.kit.tuning import Setting, rate_at

# (n, answer, vocabulary) logits of student and teacher, (n, answer) the tokens that they are asked for -> a scalar.
Distance = Callable[[Tensor, Tensor, Tensor], Tensor]
AHEAD = 4  # steps


@torch.no_grad()
def continued(
    model: Any, ids: Tensor, count: int, draw: torch.Generator, *, kept: Tensor | None = None,
    upto: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """ids (n, time) with `count` tokens more, sampled at temperature 1 by `draw`.

    kept: (n, count) tokens, of which row i begins with the first upto[i]; upto: (n,) whole numbers, 0 to count.
    """
    own = 0 if upto is None else int(upto.min())
    if kept is not None and own:
        ids = torch.cat((ids, kept[:, :own]), dim=1)
    cache, step = None, ids
    for place in range(own, count):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=draw)
        if kept is not None and upto is not None:
            step = torch.where((place < upto)[:, None], kept[:, place : place + 1], step)
        ids = torch.cat((ids, step), dim=1)
    return ids


def answer(ids: Tensor) -> int:
    """Where the answers of windows (n, time + 1) begin."""
    return (ids.shape[1] - 1) // 2


def on_answers(model: Any, ids: Tensor) -> Tensor:
    """(n, answer, vocabulary): what a model says of each token of the answers of windows (n, time + 1)."""
    return model(input_ids=ids[:, :-1], use_cache=False).logits[:, answer(ids) - 1 :].float()


def distilled(
    model: nn.Module, setting: Setting, seed: int, rate: float, *, written: Callable[[Tensor], Tensor],
    distance: Distance, beside: Iterable[nn.Parameter] = (), beside_rate: float = 0.0,
) -> Noted:  # fmt: skip
    """The model, trained in place with AdamW for the setting's steps; every step reads two batches of its text.

    written: windows (n, time + 1) -> such windows, the same prompts with the answers that the teacher is asked about.
    beside: further parameters that are trained with it at a rate of their own, which does not fall, and thrown away.
    Notes student_tokens and teacher_tokens, all that the two read, written answers too. Raises ValueError without a
    teacher, FloatingPointError once the loss is not finite.
    """
    teacher = setting.teacher
    if teacher is None:
        raise ValueError("this recipe distils, and the setting has no teacher to learn from")
    batches, ahead = setting.batches(seed), list[tuple[Tensor, Tensor]]()
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": own, "lr": rate}, {"params": list(beside), "lr": beside_rate}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    with counted(model) as student_tokens, counted(teacher) as teacher_tokens:
        for step in range(setting.steps):
            if not ahead:
                pairs = [[_windows(*next(batches)) for _ in range(2)] for _ in range(min(AHEAD, setting.steps - step))]
                texts, prompts = zip(*pairs, strict=True)
                ahead = list(zip(texts, written(torch.cat(prompts)).split(len(prompts[0])), strict=True))
            text, asked = ahead.pop(0)
            model.train()
            said, of_own = on_answers(model, torch.cat((text, asked))).split(len(text))
            with torch.no_grad():
                known = on_answers(teacher, asked)
            loss = F.cross_entropy(said.flatten(0, 1), text[:, answer(text) :].flatten())
            loss = loss + distance(of_own, known, asked[:, answer(asked) :])
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}; try a lower learning rate")
            optimizer.param_groups[0]["lr"] = rate * rate_at((step + 0.5) / setting.steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            model.eval()
    notes = {"student_tokens": float(sum(student_tokens)), "teacher_tokens": float(sum(teacher_tokens))}
    return Noted(model.eval(), rate, {}, setting.steps, sum(parameter.numel() for parameter in own), notes=notes)


def _windows(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Token ids (n, time) and those that follow each of them -> windows (n, time + 1)."""
    return torch.cat((inputs["input_ids"], labels[:, -1:]), dim=1)
