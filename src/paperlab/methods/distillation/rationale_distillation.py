"""Distilling step by step: a small model learns the answer, and in a second task the teacher's reasons for it.

L = CE(model(<predict> question), answer) + weight * CE(model(<explain> question), rationale)

first         one rationale for each question, the teacher's first (Hsieh et al., arXiv 2305.02301)
consistent    of several, those whose conclusion most share; of these the one that the model finds most probable
shuffled      the first one of another question: for controls
none          answers alone: fine-tuning

The authors' code (google-research/distilling-step-by-step, `model_utils.py`) weighs both terms by a half; with AdamW
that differs from 1 and 1 by its epsilon alone.
"""

import random
from typing import Any, Literal

from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.rationales import Example, examples_of, nearest, surprise, trained
from paperlab.kit.tuning import Tuned

CARD = Card(
    family="distillation",
    sources=("code",),
    departs=(
        "a decoder in place of T5; the mean over a text's tokens, then over texts, where theirs is over all tokens of "
        "a batch; a rate that warms up before it falls",
    ),
)


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    rationales: Literal["first", "consistent", "shuffled", "none"] = "first",
    weight: float = 1.0,
) -> Tuned:
    """The model, trained for the setting's steps on its `examples` (`kit.rationales.Example`).

    rationales: which of them are taught. weight: of their term, at least 0.
    """
    if weight < 0:
        raise ValueError(f"weight={weight}: what the rationales' loss is multiplied by, at least 0")
    examples = examples_of(setting, seed)
    others = [one.rationales[0] for one in examples]
    random.Random(f"shuffled {seed}").shuffle(others)
    of_another = dict(zip(examples, others, strict=True))

    def loss(_: int, batch: list[Example]) -> Tensor:
        value = surprise(model, [one.predict for one in batch], [one.answer for one in batch]).mean()
        if rationales == "none":
            return value
        prompts = [one.explain for one in batch]
        if rationales == "consistent":
            texts = nearest(model, prompts, [one.consistent()[0] for one in batch])
        else:
            texts = [one.rationales[0] if rationales == "first" else of_another[one] for one in batch]
        return value + weight * surprise(model, prompts, texts).mean()

    return trained(model, setting, seed, rate, loss)
