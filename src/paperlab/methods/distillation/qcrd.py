"""QCRD: a small model learns from good rationales and away from bad ones, weighed by a judge that is trained with it.

    L = a1 CE(answer) + a2 [ s(r+) l(r+) - beta (1 - s(r-)) min(l(r-) - delta, 0) ],    l: mean CE of a rationale

    r+   of the teacher's rationales whose conclusion most share, the one that the student finds most probable
    r-   of its others and of one that the student wrote some epochs ago at temperature 1.5, the least probable one
    s    a judge's quality, 0 to 1: an encoder with max pooling and two linear layers, trained to tell the teacher's
         rationales from bad ones, first on its own and then at every epoch on the student's newest

Wang et al., arXiv 2405.13014. The abstract and public summaries with these formulas and settings were read; the paper's
own text was not, and no code of it is public.
"""

import copy
import math
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.rationales import Example, Ids, examples_of, nearest, padded, surprise, written
from paperlab.kit.tuning import Tuned, rate_at

CARD = Card(
    family="distillation",
    paper="qcrd",
    sources=("abstract",),
    task="lm_arithmetic",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    method=Arm("qcrd"),
    trivial=Arm("rationale-distillation", rationales="none"),
    equal={"parameters": 0.0, "steps": 0.0},
    gap="Theirs: T5 of 60 and 220 million parameters, pre-trained on text, rationales by GPT-3.5, four sets of "
    "questions. Here: 0.2 million parameters that know sums of two digits, and a script that reasons about sums of "
    "three. What is tested is the objective, at equal steps, on a model that learns the skill from these examples: "
    "not whether rationales wake what pre-training gave, nor, as the script has one way to reason, what their variety "
    "is worth.",
    checks=(
        Check(
            claim="negatives-better-than-positives-alone",
            says="Learning from bad rationales as well as good ones answers more questions right than learning from "
            "the same good ones alone.",
            baseline=Arm("rationale-distillation", rationales="consistent"),
            ablation=Arm("qcrd", judged=False),
        ),
        Check(
            claim="better-than-step-by-step",
            says="It answers more questions right than distilling step by step, which takes each question's one "
            "rationale as it is.",
            baseline=Arm("rationale-distillation"),
        ),
        Check(
            claim="rationales-of-higher-quality",
            says="Its own rationales are better than those of a model that was distilled step by step (in the paper "
            "by the judgement of GPT-3.5; here: every step right).",
            metric="valid",
            baseline=Arm("rationale-distillation"),
        ),
    ),
    departs=(
        "a decoder over characters in place of T5's encoder-decoder; the judge's encoder is a copy of the student as "
        "it starts",
        "delta is 3 nats of the 10.4 that T5's vocabulary has, here the same share of the vocabulary's: with 18 "
        "characters 3 nats would be more than a guess",
        "which bad rationale counts, the nearest or the farthest, is told in two ways: here the farthest, by the name "
        "that the summaries give the scheme, min-max",
        "the judge learns by an optimizer of its own at the student's rate, four steps an epoch, 30 before it begins "
        "(theirs: 500), so that the falling weight of its loss in the paper's total has no counterpart",
        "the judge's bad examples before training are the teacher's others and good ones with a quarter of their "
        "tokens replaced; an epoch is one pass over the questions, and until five are over r- is of the oldest student",
        "sums of three digits and 400 steps were settled by trial runs; of sums of four no arm learned much",
    ),
)

SHARE = 3 / math.log(32_128)  # delta, of the logarithm of the vocabulary
HOT = 1.5  # temperature at which the student writes bad rationales
LAG = 5  # epochs
BEFORE, EACH = 30, 4  # the judge's steps before training and at every epoch


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    judged: bool = True,
    beta: float = 0.2,
    answer: float = 0.5,
    rationale: float = 0.5,
) -> Tuned:
    """The model, trained for the setting's steps on its `examples` (`kit.rationales.Example`).

    judged: weigh rationales by the judge; else all count fully. beta: weight of the bad ones. answer, rationale: a1
    and a2. All at least 0.
    """
    if min(beta, answer, rationale) < 0:
        raise ValueError(f"beta={beta}, answer={answer}, rationale={rationale}: weights are at least 0")
    examples, draw = examples_of(setting, seed), random.Random(seed)
    size = min(getattr(setting, "batch", 32), len(examples))
    epoch = max(1, len(examples) // size)
    longest = getattr(setting, "longest", max(len(one.rationales[0]) for one in examples))
    end, vocabulary = getattr(setting, "end", -1), int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    delta = SHARE * math.log(vocabulary)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    judge = Judge(model, rate)
    good = {one: one.consistent() for one in examples}
    if judged:
        for _ in range(BEFORE):
            judge.learn(*lesson(draw.sample(examples, size), good, {}, draw, vocabulary))
    sampler, past, own = torch.Generator().manual_seed(seed), list[dict[str, Tensor]](), dict[Example, Ids]()
    for step in range(setting.steps):
        if step % epoch == 0:
            past = [*past, {name: value.clone() for name, value in model.state_dict().items()}][-LAG - 1 :]
            own = self_written(model, past[0], examples, longest, end, sampler)
            for _ in range(EACH if judged and step else 0):
                judge.learn(*lesson(draw.sample(examples, size), good, own, draw, vocabulary))
        model.train()
        batch = draw.sample(examples, size)
        prompts = [one.explain for one in batch]
        best = nearest(model, prompts, [good[one][0] for one in batch])
        worst = nearest(model, prompts, [[*good[one][1], own[one]] for one in batch], farthest=True)
        quality = [judge(prompts, texts) if judged else torch.full((size,), value)
                   for texts, value in ((best, 1.0), (worst, 0.0))]  # fmt: skip
        told = surprise(model, [*(one.predict for one in batch), *prompts, *prompts],
                        [*(one.answer for one in batch), *best, *worst]).split(size)  # fmt: skip
        loss = answer * told[0].mean() + rationale * contrast(*told[1:], *quality, beta=beta, delta=delta)
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_at((step + 0.5) / setting.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return Tuned(model.eval(), rate, {}, setting.steps, sum(parameter.numel() for parameter in parameters))


def contrast(good: Tensor, bad: Tensor, quality: Tensor, of_bad: Tensor, *, beta: float, delta: float) -> Tensor:
    """Cross-entropy of a good and of a bad rationale and the quality of each, (n,) all -> a scalar. A bad one that is
    less probable than delta nats a token is left alone."""
    return (quality * good - beta * (1 - of_bad) * (bad - delta).clamp(max=0)).mean()


class Judge(nn.Module):
    """Quality of a rationale, 0 to 1: hidden states of a copy of the student, their maximum, two linear layers."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(model).requires_grad_(True)
        width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=0.0)

    def forward(self, prompts: list[Ids], texts: list[Ids]) -> Tensor:
        """Questions and rationales -> (n,), without gradients."""
        with torch.no_grad():
            return self.logits(prompts, texts).sigmoid()

    def logits(self, prompts: list[Ids], texts: list[Ids]) -> Tensor:
        """Questions and rationales -> (n,)."""
        ids, mask, _ = padded(prompts, texts)
        states = self.encoder(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        ).hidden_states[-1]
        return self.head(states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)).squeeze(-1)

    def learn(self, prompts: list[Ids], texts: list[Ids], right: Tensor) -> None:
        """One step of binary cross-entropy. right: (n,), 1 for a good rationale."""
        loss = F.binary_cross_entropy_with_logits(self.logits(prompts, texts), right)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def lesson(
    batch: list[Example], good: dict[Example, tuple[list[Ids], list[Ids]]], own: dict[Example, Ids],
    draw: random.Random, vocabulary: int,
) -> tuple[list[Ids], list[Ids], Tensor]:  # fmt: skip
    """What the judge is shown: of each example a good and a bad rationale. Bad is what the student wrote, or before it
    wrote any, one that the teacher's others contradict, or else a good one with a quarter of its tokens replaced."""
    right = [draw.choice(good[one][0]) for one in batch]
    wrong = []
    for one, text in zip(batch, right, strict=True):
        others = [own[one]] if own else good[one][1]
        damaged = tuple(draw.randrange(vocabulary) if draw.random() < 0.25 else token for token in text)
        wrong.append(draw.choice(others) if others else damaged)
    prompts = [one.explain for one in batch]
    return prompts * 2, right + wrong, torch.tensor([1.0] * len(batch) + [0.0] * len(batch))


def self_written(
    model: nn.Module, state: dict[str, Tensor], examples: list[Example], longest: int, end: int, draw: torch.Generator
) -> dict[Example, Ids]:
    """A rationale of each example by the student as it was at `state`, at temperature HOT."""
    older: Any = copy.deepcopy(model)
    older.load_state_dict(state)
    said = written(older.eval(), [one.explain for one in examples], longest, end, temperature=HOT, draw=draw)
    return dict(zip(examples, said, strict=True))
