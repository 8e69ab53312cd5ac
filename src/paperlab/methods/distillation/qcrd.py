"""QCRD: a small model learns from good rationales and away from bad ones, weighed by a judge that is trained with it.

    L = a1 CE(answer) + a2 [ s(r+) l(r+) - beta (1 - s(r-)) min(l(r-) - delta, 0) ],    l: mean CE of a rationale

    r+   of the teacher's rationales whose conclusion most share, the one that the student finds most probable
    r-   of its others and of one that the student wrote some epochs ago at temperature 1.5, the most probable one
    s    a judge's quality, 0 to 1: an encoder with max pooling and two linear layers, trained to tell the teacher's
         rationales from bad ones, first on its own and then at every epoch on the student's newest

Wang et al., arXiv 2405.13014. The abstract and public summaries with these formulas and settings were read; the paper's
own text was not, and no code of it is public.
"""

import copy
import random
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit import rationales as kit
from paperlab.kit.rationales import Example, Ids
from paperlab.kit.tuning import Tuned

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
    "questions. Here: 0.2 million parameters that know sums of two digits, the same for every seed, and a script that "
    "reasons about sums of three. What is tested is the objective, on a model that learns the skill from its examples: "
    "not whether rationales wake what pre-training gave, nor, as the script has one way to reason, what variety is "
    "worth, and little of the judge, who tells good from bad unseen ones with an area under the curve of .65 to .7. "
    "Steps are equal, work is not: `tokens` in the record says what each arm read, the method 2 to 12 times as much.",
    checks=(
        Check(
            claim="negatives-better-than-positives-alone",
            says="Learning from bad rationales as well as good ones answers more questions right than the same "
            "training without the bad ones' term (the abstract has no figure).",
            baseline=Arm("qcrd", beta=0.0),
        ),
        Check(
            claim="better-than-step-by-step",
            says="It answers more questions right than distilling step by step, which takes each question's one "
            "rationale as it is, and than doing so with self-consistent ones (the abstract has no figure).",
            baseline=Arm("rationale-distillation"),
            rivals=(Arm("rationale-distillation", rationales="consistent"),),
        ),
        Check(
            claim="rationales-of-higher-quality",
            says="Its own rationales are better than those of a model that was distilled step by step (in the paper "
            "by the judgement of GPT-3.5; here: every step right).",
            metric="valid",
            baseline=Arm("rationale-distillation"),
            rivals=(Arm("rationale-distillation", rationales="consistent"),),
        ),
    ),
    departs=(
        "a decoder over characters in place of T5's encoder-decoder; the judge's encoder is a copy of the student as "
        "it starts, pooled over the rationale's tokens",
        "delta is 3 nats as theirs, of a vocabulary of 18 characters: nearly every bad rationale is pushed away, also "
        "one less probable than a guess (2.9 nats); `active` in the record is the share that is",
        "which bad rationale counts is told in two ways, the most or the least probable one: here the most; the first "
        "version took the least, and for delta a share of ln 18, where 0.2 % of them were within delta",
        "the iterations that a bad rationale is older than the student are epochs here, five; until then it is by the "
        "student as it started. An epoch is as many steps as one pass takes, its batches drawn anew each step",
        "a text of the student that is among the teacher's good ones is not called bad; without a bad one a question "
        "has the first term alone",
        "after self-consistency theirs have 3.9 good rationales a question; here they are mostly one text",
        "the judge learns by an optimizer of its own at one rate that does not fall, 1e-3, four steps an epoch and 60 "
        "before (theirs: 500), so that the falling weight of its loss in the paper's total has no counterpart; before "
        "the student writes, its bad examples are the teacher's others and good ones with a quarter of the tokens "
        "replaced. `judge_auc` in the record is on questions that nobody trains on; by it, in trial runs of one seed, "
        "the judge's rate was raised from 5e-4, which gained nothing (.65 both)",
        "sums of three digits and 400 steps were settled by trial runs; of sums of four no arm learned much",
    ),
)

DELTA = 3.0  # nats a token
HOT = 1.5  # temperature at which the student writes bad rationales
LAG = 5  # epochs
JUDGE_RATE = 1e-3
BEFORE, EACH = 60, 4  # the judge's steps before training and at every epoch


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
    and a2. All at least 0. Notes active, the share of bad rationales within delta; the judge's mean quality of good and
    bad ones, and where the setting has `validation` examples its area under the ROC curve there at the end.
    """
    if min(beta, answer, rationale) < 0:
        raise ValueError(f"beta={beta}, answer={answer}, rationale={rationale}: weights are at least 0")
    examples, draw = kit.examples_of(setting, seed), random.Random(f"judge {seed}")
    size = kit.batch_size(setting, examples)
    epoch = max(1, len(examples) // size)
    longest = getattr(setting, "longest", max(len(one.rationales[0]) for one in examples))
    end, vocabulary = getattr(setting, "end", -1), int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    good = {one: one.consistent()[0] for one in examples}
    bad = {one: one.consistent()[1] for one in examples}
    judge = Judge(model)
    sampler, past = torch.Generator().manual_seed(seed), list[dict[str, Tensor]]()
    notes: dict[str, list[float]] = {"active": [], "quality_good": [], "quality_bad": []}

    def renew(step: int) -> None:
        """At an epoch's start: what the student of some epochs ago writes, and the judge's lessons."""
        if judged and not step:
            for _ in range(BEFORE):
                judge.learn(*lesson(draw.sample(examples, size), good, bad, draw, vocabulary))
        past[:] = [*past, {name: value.clone() for name, value in model.state_dict().items()}][-LAG - 1 :]
        own = self_written(model, past[0], examples, longest, end, sampler)
        bad.update((one, [text for text in (*one.consistent()[1], own[one]) if text not in good[one]]) for one in own)
        for _ in range(EACH if judged and step else 0):
            judge.learn(*lesson(draw.sample(examples, size), good, bad, draw, vocabulary))

    def loss(step: int, batch: list[Example]) -> Tensor:
        if step % epoch == 0 and (judged or beta):
            renew(step)
        told_answers = kit.surprise(model, [one.predict for one in batch], [one.answer for one in batch]).mean()
        prompts = [one.explain for one in batch]
        best = kit.nearest(model, prompts, [good[one] for one in batch])
        having = [one for one in batch if beta and bad[one]]
        theirs = [one.explain for one in having]
        worst = kit.nearest(model, theirs, [bad[one] for one in having])
        cut = [len(best), len(worst)]
        told = kit.surprise(model, [*prompts, *theirs], [*best, *worst]).split(cut)
        quality = (torch.ones(cut[0]), torch.zeros(cut[1]))
        if judged:
            quality = judge.quality([*prompts, *theirs], [*best, *worst]).split(cut)
        for name, figures in zip(notes, ((told[1] < DELTA).float(), *quality), strict=True):
            notes[name] += figures.tolist()
        return answer * told_answers + rationale * contrast(told[0], told[1], quality[0], quality[1], beta)

    made = kit.trained(model, setting, seed, rate, loss)
    made.notes |= {name: fmean(figures) for name, figures in notes.items() if figures}
    if judged and (held := getattr(setting, "validation", None)):
        own = self_written(model, past[0], held, longest, end, sampler)
        apart = [(one.explain, one.consistent()[0][0], own[one]) for one in held if own[one] not in one.consistent()[0]]
        prompts, right, wrong = (list(column) for column in zip(*apart, strict=True))
        made.notes["judge_auc"] = auc(judge.quality(prompts, right), judge.quality(prompts, wrong))
    return made


def contrast(good: Tensor, bad: Tensor, quality: Tensor, of_bad: Tensor, beta: float, delta: float = DELTA) -> Tensor:
    """Cross-entropy of good (n,) and of bad rationales (m,) and the quality of each -> a scalar, over n. A bad one that
    is less probable than delta nats a token is left alone."""
    away = ((1 - of_bad) * (bad - delta).clamp(max=0)).sum()
    return ((quality * good).sum() - beta * away) / len(good)


def auc(good: Tensor, bad: Tensor) -> float:
    """Scores (n,) and (m,) -> how often a good one's is the higher, ties by half; NaN without any."""
    apart = good[:, None] - bad
    return ((apart > 0).float() + (apart == 0).float() / 2).mean().item()


class Judge(nn.Module):
    """Quality of a rationale, 0 to 1: hidden states of a copy of the student, their maximum, two linear layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(model).requires_grad_(True)
        width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=JUDGE_RATE, weight_decay=0.0)

    def forward(self, prompts: list[Ids], texts: list[Ids]) -> Tensor:
        """Questions and rationales -> (n,) logits."""
        ids, mask, labels = kit.padded(prompts, texts)
        out = self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        states = out.hidden_states[-1].masked_fill(labels[..., None] == kit.IGNORED, -torch.inf)
        return self.head(states.amax(1)).squeeze(-1)

    @torch.no_grad()
    def quality(self, prompts: list[Ids], texts: list[Ids]) -> Tensor:
        """Questions and rationales -> (n,), 0 to 1, without gradients."""
        return self(prompts, texts).sigmoid()

    def learn(self, prompts: list[Ids], texts: list[Ids], right: Tensor) -> None:
        """One step of binary cross-entropy. right: (n,), 1 for a good rationale."""
        loss = F.binary_cross_entropy_with_logits(self(prompts, texts), right)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def lesson(
    batch: list[Example], good: dict[Example, list[Ids]], bad: dict[Example, list[Ids]], draw: random.Random,
    vocabulary: int,
) -> tuple[list[Ids], list[Ids], Tensor]:  # fmt: skip
    """What the judge is shown: of each example a good and a bad rationale, or where there is no bad one a good one with
    a quarter of its tokens replaced."""
    right = [draw.choice(good[one]) for one in batch]
    damaged = [tuple(draw.randrange(vocabulary) if draw.random() < 0.25 else token for token in text) for text in right]
    wrong = [draw.choice(bad[one] or [text]) for one, text in zip(batch, damaged, strict=True)]
    prompts = [one.explain for one in batch]
    return prompts * 2, right + wrong, torch.tensor([1.0] * len(batch) + [0.0] * len(batch))


def self_written(
    model: nn.Module, state: dict[str, Tensor], examples: list[Example], longest: int, end: int, draw: torch.Generator
) -> dict[Example, Ids]:
    """A rationale of each example by the student as it was at `state`, at temperature HOT."""
    older: Any = copy.deepcopy(model)
    older.load_state_dict(state)
    said = kit.written(older.eval(), [one.explain for one in examples], longest, end, temperature=HOT, draw=draw)
    return dict(zip(examples, said, strict=True))
