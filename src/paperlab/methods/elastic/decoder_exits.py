"""Exits in the decoder alone: each word is left once the layers' own classifiers have said the same several times.

    leave after the first layer that says the same as the `patience` layers before it
    L = sum_i i L_i / sum_i i        over the layers of the decoder, each read off by a classifier of its own

PABEE (Zhou et al., arXiv 2006.04152), in the decoder, as the paper on multiple exits, 2211.11152, compares with it: an
encoder has no output that could be the same.
"""

from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.encoder_decoder import Leaving, Rule, encoder_decoder, settle, word_loss
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")


class Objective(nn.Module):
    """model: a `kit.encoder_decoder.EncoderDecoder`; setting: validation (items by problem), run, score, time.

    entailment_time, caption_time: expected time that the patience may take on validation items, in (0, 1] of the whole
    network's; where none takes as little, it is the one that takes least.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, entailment_time: float = 0.9, caption_time: float = 0.9
    ) -> None:
        super().__init__()
        self.times = {"entailment": entailment_time, "caption": caption_time}
        if any(not 0 < time <= 1 for time in self.times.values()):
            raise ValueError(f"{self.times}: expected times are above 0 and at most 1")
        self.model, self.setting = encoder_decoder(model), setting
        words, width = self.model.words.weight.shape
        # they begin as the shared norm and head, and the last layer keeps these
        heads = []
        for _ in range(len(self.model.decoder) - 1):
            norm, head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
            norm.load_state_dict(self.model.norm.state_dict())
            head.weight.data.copy_(self.model.words.weight)
            heads.append(nn.Sequential(norm, head))
        self.heads = nn.ModuleList(heads)

    def said(self, layer: int, state: Tensor) -> Tensor:
        """What a layer's state (…, width) says of the next word, in logits (…, words)."""
        return self.model.speak(state) if layer == len(self.heads) else self.heads[layer](state)

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images, text and words, and the words to be written (n, time) -> the loss."""
        states = self.model.written(**inputs)
        losses = torch.stack([word_loss(self.said(*one), labels) for one in enumerate(states)])
        weight = torch.arange(1.0, len(losses) + 1)
        return (weight * losses).sum() / weight.sum()

    def result(self) -> nn.Module:
        """The network with the patience of each problem that does best on validation items within the time."""
        network = Leaving(self.model)
        network.heads = self.heads
        for problem, most in self.times.items():
            rules = [Patience(self, count) for count in range(1, len(self.heads) + 1)]
            settle(network, self.setting, problem, rules, most)
        return network


class Patience(Rule):
    """Leaves a word once a layer has said the same as the one before so many times in a row."""

    def __init__(self, layers: Any, patience: int) -> None:
        self.layers, self.patience = layers, patience

    def begin(self, step: int, steps: int, count: int) -> None:
        """As of a Rule."""
        self.before, self.times = torch.full((count,), -1), torch.zeros(count)

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As of a Rule."""
        now = self.layers.said(layer, after[:, -1]).argmax(-1)
        self.times[rows] = torch.where(now == self.before[rows], self.times[rows] + 1, 0.0)
        self.before[rows] = now
        return self.times[rows] >= self.patience

    def logits(self, model: Any, layer: int, after: Tensor) -> Tensor:
        """As of a Rule."""
        return self.layers.said(layer, after)
