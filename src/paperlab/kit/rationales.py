"""Teaching a language model to give the answer, and in a second task the reasons for it, told apart by a prefix.

What distilling step by step (Hsieh et al., arXiv 2305.02301) and those who build on it share. All is in token ids.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.noted import Noted, counted
from paperlab.kit.tuning import rate_at

IGNORED = -100
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """A question and its true answer, with the rationales that a teacher gave and what each of them concludes.

    predict, explain: the question as the two tasks put it. answer and rationales end with the token that ends a text.
    """

    predict: Ids
    explain: Ids
    answer: Ids
    rationales: tuple[Ids, ...]
    concluded: tuple[Ids, ...]

    def consistent(self) -> tuple[list[Ids], list[Ids]]:
        """Rationales of the conclusion that most of them share, of those that came first where several do, and the
        others, each text once (self-consistency, Wang et al., 2203.11171)."""
        most = max(self.concluded, key=self.concluded.count)
        said = list(zip(self.rationales, self.concluded, strict=True))
        good = dict.fromkeys(one for one, end in said if end == most)
        return list(good), list(dict.fromkeys(one for one, end in said if end != most))


def examples_of(setting: Any, seed: int) -> list[Example]:
    """The setting's `examples`; of a setting that has none, halves of its windows: a question and its one rationale,
    with the last token for an answer."""
    known: Sequence[Example] | None = getattr(setting, "examples", None)
    if known is not None:
        return list(known)
    found = []
    for inputs, _ in islice(setting.batches(seed), 2):
        for row in inputs["input_ids"].tolist():
            question, rest = tuple(row[: len(row) // 2]), tuple(row[len(row) // 2 :])
            found.append(Example(question, question, rest[-1:], (rest,), (rest[-1:],)))
    return found


def padded(prompts: Sequence[Ids], texts: Sequence[Ids]) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts, each with its text behind it -> ids and mask (n, time), and the labels of the texts' tokens alone."""
    rows = [torch.tensor(prompt + text) for prompt, text in zip(prompts, texts, strict=True)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = ids.clone()
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        labels[row, : len(prompt)] = IGNORED
        labels[row, len(prompt) + len(text) :] = IGNORED
    return ids, mask, labels


def surprise(model: Any, prompts: Sequence[Ids], texts: Sequence[Ids]) -> Tensor:
    """(n,): the mean cross-entropy of each text's tokens behind its prompt, in nats."""
    ids, mask, labels = padded(prompts, texts)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    told = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return told.sum(-1) / (labels[:, 1:] != IGNORED).sum(-1)


@torch.no_grad()
def nearest(model: Any, prompts: Sequence[Ids], choices: Sequence[Sequence[Ids]]) -> list[Ids]:
    """Of each prompt's choices, at least one each, the one with the least cross-entropy."""
    several = [row for row, texts in enumerate(choices) if len(texts) > 1]
    found = [texts[0] for texts in choices]
    if several:
        flat = [(prompts[row], text) for row in several for text in choices[row]]
        values = surprise(model, *zip(*flat, strict=True)).split([len(choices[row]) for row in several])
        for row, one in zip(several, values, strict=True):
            found[row] = choices[row][int(one.argmin())]
    return found


@torch.no_grad()
def written(model: Any, prompts: Sequence[Ids], count: int, end: int, *, temperature: float = 0.0,
            draw: torch.Generator | None = None) -> list[Ids]:  # fmt: skip
    """What a model writes behind prompts of one length: up to `count` tokens, to the first `end`, which is kept.

    temperature: 0 for the most probable token each time. Raises ValueError for prompts of several lengths.
    """
    if len({len(prompt) for prompt in prompts}) != 1:
        raise ValueError("prompts of one length are needed")
    step, cache, columns = torch.tensor(prompts), None, []
    for _ in range(count):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits = out.logits[:, -1].float()
        step = (
            torch.multinomial((logits / temperature).softmax(-1), 1, generator=draw)
            if temperature
            else logits.argmax(-1, keepdim=True)
        )
        columns.append(step)
    found = []
    for row in torch.cat(columns, 1).tolist():
        found.append(tuple(row[: row.index(end) + 1] if end in row else row))
    return found


def batch_size(setting: Any, examples: Sequence[Example]) -> int:
    """How many examples a step reads: the setting's `batch`, of those that there are."""
    return min(getattr(setting, "batch", 32), len(examples))


def trained(
    model: nn.Module, setting: Any, seed: int, rate: float, loss: Callable[[int, list[Example]], Tensor]
) -> Noted:
    """The model, trained in place with AdamW for the setting's steps on its `examples`, batches drawn by the seed.

    loss: the step, from 0, and its batch -> a scalar. Notes `tokens`, all that the model and copies of it read.
    """
    examples, draw = examples_of(setting, seed), random.Random(seed)
    size = batch_size(setting, examples)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    with counted(model) as tokens:
        for step in range(setting.steps):
            value = loss(step, draw.sample(examples, size))
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_at((step + 0.5) / setting.steps)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
    count = sum(parameter.numel() for parameter in parameters)
    return Noted(model.eval(), rate, {}, setting.steps, count, notes={"tokens": float(sum(tokens))})
