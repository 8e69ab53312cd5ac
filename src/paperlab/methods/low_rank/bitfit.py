"""BitFit: fine-tune the biases alone; a baseline of parameter-efficient fine-tuning with fewer parameters than any.

    y = W x + b      W frozen, b trained (from 0 where the layer had none)

Ben Zaken, Goldberg and Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", arXiv 2106.10199.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paperlab.core.card import Card

CARD = Card(
    family="low-rank",
    sources=("abstract",),
    departs=("the biases of linear layers alone are trained; the paper trains those of norms too",),
)


class Shifted(nn.Module):
    """A frozen linear layer whose bias is trained: (…, in) -> (…, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        bias = linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.out_features)
        self.shift = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return F.linear(x, self.linear.weight, self.shift)

    def merged(self) -> nn.Linear:
        """An ordinary layer that computes the same."""
        weight = self.linear.weight
        made = nn.Linear(weight.shape[1], weight.shape[0], True, weight.device, weight.dtype)
        with torch.no_grad():
            made.weight.copy_(weight)
            made.bias.copy_(self.shift)
        return made


def adapter(linear: nn.Linear) -> nn.Module:
    """The layer, frozen, with a trainable bias that begins as the layer's own."""
    return Shifted(linear)
