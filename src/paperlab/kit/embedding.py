"""Embedding training on the cached states of a frozen encoder: the network, the loop that all arms share, ranks.

The encoder itself is never trained here. Beside it runs a narrow path of one block for each of its layers,

    u_n = u_(n-1) + W2 drop(gelu(W1 drop(norm(s_n + u_(n-1))))),     z_n = s_n + u_n,     u_0 = 0

with s_n the encoder's pooled state at layer n, and z_n the embedding of who stops there. W2 starts at zero, so that
training begins at the encoder's own embeddings. A deeper exit uses all blocks below it, so that the losses of several
exits meet in shared weights, as they do in the encoder itself; and stopping at layer n saves the encoder's layers
above. After Sung, Cho and Bansal, "LST: Ladder side-tuning", arXiv 2206.06522, whose path is a small transformer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 20.0  # what cosines are multiplied by, as common tools have it: a temperature of 0.05


class Ladder(nn.Module):
    """States (n, layers, width) -> embeddings (layers, n, width), the first layer's first."""

    def __init__(self, layers: int, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.into = nn.ModuleList(nn.Linear(width, inner) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(inner, width) for _ in range(layers))
        for layer in self.out:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, states: Tensor) -> Tensor:
        """(n, layers, width) -> (layers, n, width)."""
        side = torch.zeros_like(states[:, 0])
        found = []
        for layer, (into, out) in enumerate(zip(self.into, self.out, strict=True)):
            below = states[:, layer] + side
            read = F.dropout(F.layer_norm(below, below.shape[-1:]), self.dropout, self.training)
            side = side + out(F.dropout(F.gelu(into(read)), self.dropout, self.training))
            found.append(states[:, layer] + side)
        return torch.stack(found)


@dataclass(frozen=True)
class Pairs:
    """What belongs together, as states of the frozen encoder: queries and documents (n, layers, width)."""

    queries: Tensor
    documents: Tensor

    def __len__(self) -> int:
        return len(self.queries)

    def rows(self, index: Tensor) -> "Pairs":
        """Those of the pairs."""
        return Pairs(self.queries[index], self.documents[index])


@dataclass(frozen=True)
class Labelled:
    """Texts with a class each, as states of the frozen encoder: texts (n, layers, width), labels (n,) int64."""

    texts: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> "Labelled":
        """Those of the texts."""
        return Labelled(self.texts[index], self.labels[index])


class Setting(Protocol):
    """What the embedding driver needs of a task's setting.

    train, validation: Pairs, or Labelled where classes, their number, is not 0.
    """

    train: Any
    validation: Any
    classes: int
    layers: int
    steps: int
    batch: int
    rates: tuple[float, ...]

    @property
    def width(self) -> int:
        """Coordinates of an embedding."""

    def network(self) -> nn.Module:
        """The path beside the encoder, freshly drawn from torch's global generator."""

    def validate(self, arm: "Embedder") -> float:
        """How good an arm is on validation data; higher is better."""


@dataclass
class Embedder:
    """An arm: the trained path with a head for each layer, what is done to a finished embedding, the classifiers.

    model: states (n, layers, width) -> (layers, n, width). project: (n, width) -> (n, width), after training, of the
    last layer alone. classifiers: embeddings of the last layer (n, width) -> logits by number of coordinates; None for
    pairs. rate: what was chosen. trained: number of trained parameters.
    """

    model: nn.Module
    project: nn.Module | None
    classifiers: nn.Module | None
    rate: float
    validation: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    trained: int = 0

    @torch.no_grad()
    def embed(self, states: Tensor) -> Tensor:
        """(n, layers, width) -> (layers, n, width): embeddings at every exit."""
        found = self.model(states)
        if self.project is not None:
            found = torch.cat([found[:-1], self.project(found[-1])[None]])
        return found


def cosines(queries: Tensor, documents: Tensor) -> Tensor:
    """(n, width), (m, width) -> (n, m)."""
    return F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T


def in_batch(queries: Tensor, documents: Tensor, scale: float = SCALE) -> Tensor:
    """Cross-entropy of finding each query's own document among all of the batch: (n, width) twice -> a scalar.

    InfoNCE, or "multiple negatives ranking loss"; cosines times `scale` are the logits. Raises ValueError
    for a scale that is not above 0.
    """
    if scale <= 0:
        raise ValueError(f"scale={scale} would look for the least similar document: give more than 0")
    return F.cross_entropy(scale * cosines(queries, documents), torch.arange(len(queries), device=queries.device))


def doubling(width: int, least: int = 8) -> tuple[int, ...]:
    """8, 16, 32 ... below `width`, then `width` itself."""
    found = [least]
    while 2 * found[-1] < width:
        found.append(2 * found[-1])
    return (*(size for size in found if size < width), width)


def stairs(layers: int, width: int) -> tuple[tuple[int, int], ...]:
    """(layer, size) for each layer, the first with the smallest size: (1, 16), (2, 32) ... (6, 384) of six layers and
    384 coordinates. Raises ValueError where the width has too few halves for so many layers."""
    sizes = doubling(width, 1)
    if len(sizes) < layers:
        raise ValueError(f"{width} coordinates have {len(sizes)} sizes, fewer than {layers} layers: name the sizes")
    return tuple(zip(range(1, layers + 1), sizes[-layers:], strict=True))


def sizes_from(text: str, width: int) -> tuple[int, ...]:
    """Read "8, 16, 384"; nothing: doubled from 8 up to the width. Raises ValueError for what is not rising whole
    numbers, or wider than `width`."""
    if not text.strip():
        return doubling(width)
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r}: sizes are whole numbers with commas between, e.g. 8,16,32") from None
    if sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError(f"{text!r}: sizes must rise from at least 1")
    if sizes[-1] > width:
        raise ValueError(f"size {sizes[-1]} is more than the embedding's {width}; give smaller sizes")
    return sizes


def fit(
    parts: nn.Module, data: Any, loss: Callable[..., Tensor], *, steps: int, batch: int, rate: float,
    seed: int,
) -> int:  # fmt: skip
    """Train in place with AdamW, the rate rising over the first tenth of the steps and then falling linearly to 0.

    loss: a batch of the data -> a scalar. Batches are drawn by the seed: one order of all rows after the other. Returns
    the number of trained parameters; raises FloatingPointError once the loss is not finite.
    """
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    parts.train()
    for step, rows in zip(range(steps), _orders(len(data), min(batch, len(data)), seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / (0.1 * steps), 1.0) * (1 - step / steps)
        value = loss(data.rows(rows))
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    parts.eval()
    return sum(parameter.numel() for parameter in trained)


def _orders(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Full batches of row numbers without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(count, generator=generator).split(batch):
            if len(rows) == batch:
                yield rows


def ranks(queries: Tensor, documents: Tensor) -> Tensor:
    """(n, width) twice -> (n,) the rank of each query's own document by cosine, 1 the best; a tie stands before it."""
    similarity = cosines(queries.double(), documents.double())
    return (similarity >= similarity.diagonal()[:, None]).sum(1)


def probe(embeddings: Tensor, labels: Tensor, classes: int, *, penalty: float = 1e-3, steps: int = 40) -> nn.Linear:
    """A linear classifier of finished embeddings (n, width): logistic regression, on standardised coordinates.

    penalty: times the sum of squared weights. The scaling is folded into the layer that is returned.
    """
    mean, spread = embeddings.mean(0), embeddings.std(0).clamp(min=1e-6)
    scaled = (embeddings - mean) / spread
    layer = nn.Linear(embeddings.shape[1], classes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(scaled), labels) + penalty * layer.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        layer.weight.div_(spread)
        layer.bias.sub_(layer.weight @ mean)
    return layer
