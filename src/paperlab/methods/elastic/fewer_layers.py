"""Fewer layers: an encoder-decoder is trained, and used, with the lower layers of its encoder and decoder alone.

With all its layers it is the plain network. It is what methods that leave layers early are compared with.
"""

from typing import Any

from torch import Tensor, nn

from paperlab.core.card import Card
from paperlab.kit.encoder_decoder import encoder_decoder, word_loss
from paperlab.kit.tuning import Batch

CARD = Card(family="elastic")


class Objective(nn.Module):
    """model: a `kit.encoder_decoder.EncoderDecoder`. encoder, decoder: layers that stay, the lowest ones, 1 or more; 0
    for all."""

    def __init__(self, model: nn.Module, setting: Any, *, encoder: int = 0, decoder: int = 0) -> None:
        super().__init__()
        network = encoder_decoder(model)
        for kept, name in ((encoder, "encoder"), (decoder, "decoder")):
            layers = getattr(network, name)
            if not 0 <= kept <= len(layers):
                raise ValueError(f"{name}={kept}: the network has {len(layers)} such layers; 0 means all")
            setattr(network, name, layers[: kept or len(layers)])
        self.network = network

    def forward(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        """Images, text and words, and the words to be written (n, time) -> cross-entropy."""
        return word_loss(self.network(**inputs), labels)

    def result(self) -> nn.Module:
        """The network with its lower layers."""
        return self.network
