"""Distilling step by step: a small model learns the answer, and in a second task the teacher's reasons for it.

L = CE(model(<predict> question), answer) + weight * CE(model(<explain> question), rationale)

first         one rationale for each question, the teacher's first (Hsieh et al., arXiv 2305.02301)
consistent    of several, those whose conclusion most share; of these the one that the model finds most probable
none          answers alone: fine-tuning
"""

import random
from typing import Any, Literal

import torch
from torch import nn

from paperlab.core.card import Card
from paperlab.kit.rationales import examples_of, nearest, surprise
from paperlab.kit.tuning import Tuned, rate_at

CARD = Card(
    family="distillation",
    departs=("written from what papers that compare with it say of it; a decoder in place of T5",),
)


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    rationales: Literal["first", "consistent", "none"] = "first",
    weight: float = 1.0,
) -> Tuned:
    """The model, trained for the setting's steps on its `examples` (`kit.rationales.Example`).

    rationales: which of them are taught. weight: of their term, at least 0.
    """
    if weight < 0:
        raise ValueError(f"weight={weight}: what the rationales' loss is multiplied by, at least 0")
    examples, draw = examples_of(setting, seed), random.Random(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    for step in range(setting.steps):
        batch = draw.sample(examples, min(getattr(setting, "batch", 32), len(examples)))
        loss = surprise(model, [one.predict for one in batch], [one.answer for one in batch]).mean()
        if rationales != "none":
            prompts = [one.explain for one in batch]
            texts = [one.rationales[0] for one in batch]
            if rationales == "consistent":
                texts = nearest(model, prompts, [one.consistent()[0] for one in batch])
            loss = loss + weight * surprise(model, prompts, texts).mean()
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_at((step + 0.5) / setting.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return Tuned(model.eval(), rate, {}, setting.steps, sum(parameter.numel() for parameter in parameters))
