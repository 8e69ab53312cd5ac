"""A small classifier and texts that it learns within few steps, for what leaves a front of networks."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from paperlab.kit.classifier import Classifier
from paperlab.kit.elastic import Front
from paperlab.kit.tuning import logits_of

Batch = dict[str, Tensor]


def classifier(dropout: float = 0.0) -> Classifier:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=40, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    model = Classifier(BertModel(config, add_pooling_layer=False), 3)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


class Setting:
    """Which of three words is in the text; a training step reads eight texts, validation twelve."""

    teacher: nn.Module | None = None
    rates: tuple[float, ...] = (1e-2,)

    def __init__(self, steps: int = 60, validation_steps: float = 0.5) -> None:
        self.steps, self.validation_steps = steps, validation_steps
        self.model: nn.Module = classifier()
        self.asked: list[nn.Module] = []

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            yield self.batch(draw, 8)

    def batch(self, draw: torch.Generator, count: int) -> tuple[Batch, Tensor]:
        """Texts of five other words and one of the three, which is the label."""
        ids = torch.randint(6, 32, (count, 6), generator=draw)
        labels = torch.randint(0, 3, (count,), generator=draw)
        ids[torch.arange(count), torch.randint(0, 6, (count,), generator=draw)] = 3 + labels
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels

    @torch.no_grad()
    def validate(self, model: nn.Module) -> float:
        """Accuracy, or a front's mean over its members."""
        if isinstance(model, Front):
            return sum(member.validation for member in model.members) / len(model.members)
        self.asked.append(copy.deepcopy(model))
        inputs, labels = self.batch(torch.Generator().manual_seed(99), 120)
        return (logits_of(model, inputs).argmax(-1) == labels).double().mean().item()
