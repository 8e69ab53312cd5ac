"""Exits in the decoder alone: each word of an encoder-decoder is left once a layer is sure of it.

    confidence   the two likeliest words differ by at least a threshold in probability (Schuster et al., arXiv
                 2207.07061): norm and head are shared by all layers, L = sum_i i L_i / sum_i i over the layers
    entropy      of the layer's own classifier, at most a threshold (DeeBERT, Xin et al., arXiv 2004.12993): classifiers
                 learn from states that the last layer's loss alone shapes
    patience     the layers' own classifiers have said the same `patience` times after the first (PABEE, Zhou et al.,
                 arXiv 2006.04152): L as for confidence

They are what the paper on multiple exits, 2211.11152, compares with, in the decoder because an encoder has no output.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.encoder_decoder import (
    Leaving,
    Measured,
    Rule,
    encoder_decoder,
    measured,
    settle,
    threshold,
    word_loss,
)
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")

Sure = Literal["confidence", "entropy", "patience"]


class Objective(nn.Module):
    """model: a `kit.encoder_decoder.EncoderDecoder`; setting: validation (items by problem), length, run, score, time.

    sure: how a layer is. entailment_time, caption_time: expected time that thresholds may take on validation items, in
    (0, 1] of the whole network's; what can take no less takes what it can.
    """

    def __init__(
        self, model: nn.Module, setting: Any, *, sure: Sure = "confidence", entailment_time: float = 0.85,
        caption_time: float = 0.85,
    ) -> None:  # fmt: skip
        super().__init__()
        self.times = {"entailment": entailment_time, "caption": caption_time}
        if any(not 0 < time <= 1 for time in self.times.values()):
            raise ValueError(f"{self.times}: expected times are above 0 and at most 1")
        self.model, self.setting, self.sure = encoder_decoder(model), setting, sure
        count = len(self.model.decoder)
        words, width = self.model.words.weight.shape
        # they begin as the shared norm and head, and the last layer keeps these
        heads = []
        for _ in range(count - 1):
            norm, head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
            norm.load_state_dict(self.model.norm.state_dict())
            head.weight.data.copy_(self.model.words.weight)
            heads.append(nn.Sequential(norm, head))
        self.heads = nn.ModuleList(heads)
        self.heads.requires_grad_(sure != "confidence")

    def said(self, layer: int, state: Tensor) -> Tensor:
        """What a layer's state (…, width) says of the next word, in logits (…, words)."""
        last = layer == len(self.heads)
        return self.model.speak(state) if last or self.sure == "confidence" else self.heads[layer](state)

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images, text and words, and the words to be written (n, time) -> the loss."""
        states = self.model.written(**inputs)
        if self.sure == "entropy":
            states = [*(state.detach() for state in states[:-1]), states[-1]]
        losses = torch.stack([word_loss(self.said(*one), labels) for one in enumerate(states)])
        weight = torch.arange(1.0, len(losses) + 1)
        return losses.sum() if self.sure == "entropy" else (weight * losses).sum() / weight.sum()

    def result(self) -> nn.Module:
        """The network with the thresholds of each problem that do best on validation items within the time."""
        network = Leaving(self.model)
        if self.sure != "confidence":
            network.heads = self.heads
        for problem, most in self.times.items():
            settle(network, self.setting, problem, self.rules(problem, most), most)
        return network

    @torch.no_grad()
    def rules(self, problem: str, most: float) -> Iterator[Rule]:
        """All patiences; or rules with which words get up to what the encoder leaves of the time, in twelve steps."""
        if self.sure == "patience":
            yield from (Patience(self, count) for count in range(1, len(self.heads) + 1))
            return
        kind = Entropy if self.sure == "entropy" else Confidence
        layers, above = len(self.model.encoder), len(self.model.decoder)
        found = measured(self.model, self.setting, problem, kind(self))
        for layer in torch.linspace(1, max(1.0, most * (layers + above) - layers), 12).tolist():
            yield kind(self, threshold(found, layer))


class Confidence(Measured):
    """Leaves a word once it is sure enough: by the difference of the two largest probabilities, 0 to 1."""

    def __init__(self, layers: Objective, word: float = math.inf) -> None:
        self.layers, self.word = layers, word

    def sureness(self, logits: Tensor) -> Tensor:
        """Logits (rows, words) -> (rows,)."""
        first, second = logits.softmax(-1).topk(2, -1)[0].unbind(-1)
        return first - second

    def measure(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As of a measured rule."""
        return self.sureness(self.layers.said(layer, after[:, -1]))

    def logits(self, model: Any, layer: int, after: Tensor) -> Tensor:
        """As of a Rule."""
        return self.layers.said(layer, after)


class Entropy(Confidence):
    """As Confidence, by the negative entropy in nats."""

    def sureness(self, logits: Tensor) -> Tensor:
        """Logits (rows, words) -> (rows,)."""
        return (logits.softmax(-1) * F.log_softmax(logits, -1)).sum(-1)


class Patience(Confidence):
    """Leaves a word once a layer has said the same as the one before so many times in a row."""

    def begin(self, step: int, steps: int, count: int) -> None:
        """As of a Rule."""
        self.before, self.times = torch.full((count,), -1), torch.zeros(count)

    def measure(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As of a measured rule."""
        now = self.layers.said(layer, after[:, -1]).argmax(-1)
        self.times[rows] = torch.where(now == self.before[rows], self.times[rows] + 1, 0.0)
        self.before[rows] = now
        return self.times[rows]
