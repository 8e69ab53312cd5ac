"""A causal language model in Llama's layout as a super-network: sub-networks are the first channels, heads and neurons
of some of its blocks, at the weights that all share.

`ordered` puts what matters most first, which leaves the whole network as it was; a sub-network is then a slice of every
matrix, and `sliced` runs it without a copy, so that gradients reach the shared weights. `extracted` is the sub-network
as an ordinary model of its own.
"""

import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paperlab.kit.depth import Droppable, without_blocks
from paperlab.kit.walk import Batch, blocks
from paperlab.kit.width import ROUND, activity, llama_blocks, narrowed

Config = tuple[int, int, int, int]  # channels, blocks, query heads of each key/value head, neurons


@dataclass(frozen=True)
class Shapes:
    """Sizes of a whole network. heads: query heads; groups: key/value heads. vocabulary: rows of embeddings, in all."""

    channels: int
    blocks: int
    heads: int
    groups: int
    head: int
    neurons: int
    vocabulary: int

    def parameters(self, config: Config) -> int:
        """Parameters of the model that a sub-network is by itself, embeddings and norms too."""
        channels, count, repeats, neurons = config
        attention = 2 * channels * self.groups * self.head * (repeats + 1)
        return count * (attention + 3 * channels * neurons + 2 * channels) + channels * (self.vocabulary + 1)

    @property
    def whole(self) -> Config:
        """The network itself."""
        return self.channels, self.blocks, self.heads // self.groups, self.neurons


def shapes_of(model: nn.Module) -> Shapes:
    """Raises ValueError for a model in another layout, or with parameters that are not counted here."""
    stack, config = llama_blocks(model), getattr(model, "config", None)
    head = stack[0].self_attn.head_dim
    heads = stack[0].self_attn.o_proj.in_features // head
    groups = stack[0].self_attn.k_proj.out_features // head
    rows = sum(p.shape[0] for name, p in model.named_parameters() if "embed" in name or "lm_head" in name)
    found = Shapes(
        stack[0].input_layernorm.weight.numel(), len(stack), heads, groups, head, stack[0].mlp.down_proj.in_features,
        rows,
    )  # fmt: skip
    count = sum(parameter.numel() for parameter in model.parameters())
    if config is None or found.parameters(found.whole) != count:
        raise ValueError(f"{type(model).__name__} has parameters beside Llama's: it cannot be a super-network here")
    return found


@dataclass(frozen=True)
class Space:
    """Sub-networks: channels from `least` on a log scale and neurons, both multiples of ROUND; blocks and heads from
    1. What whittle-org/whittle calls "lora" and "small"."""

    shapes: Shapes
    least: int = 32

    @property
    def smallest(self) -> Config:
        """One block, one query head of each key/value head, ROUND neurons."""
        return min(self.least, self.shapes.channels), 1, 1, min(ROUND, self.shapes.neurons)

    def draw(self, draw: random.Random) -> Config:
        """Any of them."""
        low, (channels, count, repeats, neurons) = self.smallest, self.shapes.whole
        wide = round(math.exp(draw.uniform(math.log(low[0]), math.log(channels))) / ROUND) * ROUND
        many = draw.randint(1, max(1, neurons // ROUND)) * ROUND
        return (
            min(max(wide, low[0]), channels), draw.randint(1, count), draw.randint(1, repeats), min(many, neurons)
        )  # fmt: skip

    def filled(self, config: Config, limit: int) -> Config | None:
        """The same with as many neurons as `limit` parameters allow; None where even ROUND are too many, or where
        ROUND more than there are would fit."""
        empty = self.shapes.parameters((*config[:3], 0))
        each = self.shapes.parameters((*config[:3], 1)) - empty
        neurons = (limit - empty) // each // ROUND * ROUND
        return (*config[:3], neurons) if ROUND <= neurons <= self.shapes.neurons else None


@dataclass
class Strata:
    """Draws whose parameter counts are spread over `bins` equal ranges: about as many in each that is easily reached.
    As ParamBins of whittle: a draw whose range is full is drawn again; ranges grow by one once all but `spare` are
    full. They do so too after `tries` draws in vain, where more than `spare` ranges cannot be reached."""

    space: Space
    bins: int = 20
    spare: int = 4
    room: int = 1
    tries: int = 2_000
    counts: list[int] = field(default_factory=list)

    def draw(self, draw: random.Random) -> Config:
        """The next one."""
        shapes = self.space.shapes
        low, high = shapes.parameters(self.space.smallest), shapes.parameters(shapes.whole)
        self.counts = self.counts or [0] * self.bins
        tried = 0
        while True:
            tried += 1
            config = self.space.draw(draw)
            place = min(int((shapes.parameters(config) - low) / max(high - low, 1) * self.bins), self.bins - 1)
            fits = self.counts[place] < self.room
            self.counts[place] += fits
            if sum(held >= self.room for held in self.counts) + self.spare >= self.bins or tried % self.tries == 0:
                self.room += 1
            if fits:
                return config


@dataclass(frozen=True)
class Importance:
    """channels (width,), heads (blocks, heads), neurons (blocks, neurons), blocks (blocks,): the more, the more it
    matters."""

    channels: Tensor
    heads: Tensor
    neurons: Tensor
    blocks: Tensor


def importance(model: nn.Module, batches: Sequence[Batch]) -> Importance:
    """Of activations on some text (`kit.width.activity`); of a block by how much worse the text is predicted without
    it."""
    sizes, shapes = activity(model, list(batches)), shapes_of(model)
    heads = sizes.of("attention").unflatten(1, (shapes.heads, shapes.head)).norm(dim=2)
    trial = Droppable(model)
    losses = [_nats(trial.without((index,), (index,)), batches) for index in range(shapes.blocks)]
    trial.without((), ())
    return Importance(sizes.of("channel").sum(0), heads, sizes.of("neuron"), torch.tensor(losses))


@torch.no_grad()
def _nats(model: nn.Module, batches: Sequence[Batch]) -> float:
    total, count = 0.0, 0
    for batch in batches:
        said = model(**batch, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        total -= said.gather(2, batch["input_ids"][:, 1:, None]).sum().item()
        count += batch["input_ids"][:, 1:].numel()
    return total / count


def ordered(model: nn.Module, found: Importance) -> tuple[nn.Module, tuple[int, ...]]:
    """The same model with channels, neurons and the query heads of each key/value head in falling order of importance,
    of equal ones the first before; and its blocks' numbers in that order."""
    shapes = shapes_of(model)
    repeats = shapes.heads // shapes.groups
    heads = []
    for row in found.heads:
        inside = _falling(row.view(shapes.groups, repeats))
        heads.append((inside + torch.arange(shapes.groups)[:, None] * repeats).flatten())
    made = narrowed(model, _falling(found.channels), list(_falling(found.neurons)), heads)
    return made.train(model.training), tuple(_falling(found.blocks).tolist())


def _falling(score: Tensor) -> Tensor:
    return score.sort(dim=-1, descending=True, stable=True).indices


def shell(model: nn.Module, config: Config) -> nn.Module:
    """A model of a sub-network's shape whose weights say nothing."""
    old, shapes = model, shapes_of(model)
    wanted = copy.deepcopy(old.config)
    values: Any = wanted
    values.head_dim, values.hidden_size, values.num_hidden_layers, values.intermediate_size = (
        shapes.head, config[0], config[1], config[3],
    )  # fmt: skip
    values.num_attention_heads = shapes.groups * config[2]
    if isinstance(kinds := getattr(values, "layer_types", None), list):
        values.layer_types = kinds[: config[1]]
    return type(old)(wanted).to(next(old.parameters()).dtype)


def slices(
    shapes: Shapes, stem: str, weights: dict[str, Tensor], config: Config, order: Sequence[int]
) -> Iterator[tuple[str, Tensor]]:
    """Name in the sub-network's model, and the part of the whole one's weight that stands there. order: blocks, those
    that stay first; they keep their places among each other."""
    channels, count, repeats, neurons = config
    places = {old: new for new, old in enumerate(sorted(order[:count]))}
    for name, weight in weights.items():
        part = name.rsplit(".", 2)[-2]
        if name.startswith(f"{stem}."):
            number, rest = name[len(stem) + 1 :].split(".", 1)
            if int(number) not in places:
                continue
            name = f"{stem}.{places[int(number)]}.{rest}"
        if part in ("gate_proj", "up_proj"):
            weight = weight[:neurons, :channels]
        elif part == "down_proj":
            weight = weight[:channels, :neurons]
        elif part == "q_proj":
            weight = weight.unflatten(0, (shapes.groups, -1, shapes.head))[:, :repeats].flatten(0, 2)[:, :channels]
        elif part == "o_proj":
            weight = weight.unflatten(1, (shapes.groups, -1, shapes.head))[:, :, :repeats].flatten(1, 3)[:channels]
        else:  # norms; embeddings, and layers that read the stream
            weight = weight[..., :channels]
        yield name, weight


def sliced(model: nn.Module, weights: dict[str, Tensor], config: Config, order: Sequence[int], inputs: Batch) -> Tensor:
    """(batch, time, vocabulary) logits of a sub-network of `model` at `weights`, by its parameters' names."""
    stem, shapes = blocks(model)[0], shapes_of(model)
    small = model if config == shapes.whole else shell(model, config).train(model.training)
    parts = dict(slices(shapes, stem, weights, config, order))
    out: Any = functional_call(small, parts, kwargs={**inputs, "use_cache": False})
    return out.logits


def extracted(model: nn.Module, config: Config, order: Sequence[int]) -> nn.Module:
    """The sub-network as a model of its own, with copies of its weights, in evaluation mode."""
    shapes = shapes_of(model)
    repeats = shapes.heads // shapes.groups
    heads = (torch.arange(shapes.groups)[:, None] * repeats + torch.arange(config[2])).flatten()
    stay = set(order[: config[1]])
    made = narrowed(model, torch.arange(config[0]), [torch.arange(config[3])] * shapes.blocks, [heads] * shapes.blocks)
    return without_blocks(made, [index for index in range(shapes.blocks) if index not in stay]).eval()
