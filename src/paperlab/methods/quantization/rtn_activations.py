"""Round to nearest, weights and activations: the trivial baseline of every W8A8, W6A6 or W4A4 method.

Each linear layer of the blocks multiplies rounded weights with rounded inputs. Static activation ranges are the
extremes met in calibration, behind the blocks that are rounded already.
"""

from torch import nn

from paperlab.core.card import Card
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.walk import Batch
from paperlab.kit.weight_activation import Rounding, round_model

CARD = Card(family="quantization")


def transform(
    model: nn.Module,
    calibration: list[Batch],
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_channel: bool = True,
    dynamic: bool = False,
    symmetric: bool = False,
    clip: bool = False,
    average: bool = False,
) -> Compressed:
    """16 bits leave weights or activations as they are.

    per_channel: a weight range per output channel, else one per matrix. dynamic: an activation range per token
    at run time, else one per layer. symmetric: no zero points. clip: ranges of least squared error, for
    weights and static activations, instead of the extremes. average: a static range is the mean of the batches'
    extremes.
    """
    weights = count_weights(model)
    rounding = Rounding(weight_bits, activation_bits, per_channel, dynamic, symmetric, clip, average)
    layers, added = round_model(model, calibration, rounding)
    return Compressed(model, layers, weights, added)
