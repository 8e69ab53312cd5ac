"""A compressed model: the module to run, and an honest count of what it would take on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from paperlab.kit.matrix import Matrix

UNTOUCHED_BITS = 16  # tensors that no method touched count as bf16, the width of ordinary checkpoints


@dataclass
class Compressed:
    """model: computes with the stored weights (and rounded activations, where the method rounds them).

    layers: stored matrices by the full name of their layer. weights: parameters of the original model.
    removed: parameters of the original that the model no longer has (dropped blocks, narrower layers).
    added: bits of anything that the method added to the model (biases, online rotations) by name.
    notes: figures that a report may show (chosen bits per layer, losses of a search).
    cache_bits: bits per element of the key/value cache that generation would keep, ranges included.
    """

    model: nn.Module
    layers: Mapping[str, Matrix]
    weights: int
    added: dict[str, int] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)
    cache_bits: float = UNTOUCHED_BITS
    removed: int = 0

    def totals(self) -> dict[str, float]:
        """bits_per_weight over all parameters of the original; layer_bits over the stored matrices; bytes of all;
        density: share of the stored matrices' weights that may differ from zero; cache_bits; parameters left."""
        inside = sum(sum(layer.stored_bits().values()) for layer in self.layers.values())
        sizes = {name: layer.shape[0] * layer.shape[1] for name, layer in self.layers.items()}
        covered = sum(sizes.values())
        added = sum(self.added.values())
        bits = inside + (self.weights - self.removed - covered) * UNTOUCHED_BITS + added
        kept = sum(layer.density * sizes[name] for name, layer in self.layers.items())
        return {
            "bits_per_weight": bits / self.weights,
            "layer_bits": (inside + added) / covered if covered else float(UNTOUCHED_BITS),
            "bytes": bits / 8,
            "cache_bits": float(self.cache_bits),
            "density": kept / covered if covered else 1.0,
            "parameters": float(self.weights - self.removed),
        }


def count_weights(model: nn.Module) -> int:
    """Number of parameters; tied tensors count once."""
    return sum(parameter.numel() for parameter in model.parameters())
