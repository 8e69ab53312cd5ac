"""Sub-networks of one transformer: some heads, feed-forward units and layers of it, trained in place or cut out.

A sub-network says for each block which attention heads and which units of the feed-forward layer are there. A part
that keeps none of them is gone with its norm and biases, and the residual stream passes by (as in the code of Klein et
al., arXiv 2405.02267). What is trained at shared weights and what is cut out into a smaller model compute the same.

Compute is counted in training steps of the whole network: a step of a sub-network costs its share of the blocks'
parameters, and a forward pass is a third of a step on as many texts.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.walk import blocks


@dataclass(frozen=True)
class Layout:
    """Names inside a block. rows: linear layers that lose the rows of a dropped head, (out, in); where there are none,
    only the columns of `joins` go. joins: the output projection of attention. units: layers that lose the rows of a
    dropped unit. down: the layer that loses its columns. parts: the two halves of the block, and what else goes with
    each half where nothing of it is left."""

    attention: str
    rows: tuple[str, ...]
    joins: str
    units: tuple[str, ...]
    down: str
    attention_rest: tuple[str, ...]
    units_rest: tuple[str, ...]


LAYOUTS = (
    Layout(
        "attention", ("attention.self.query", "attention.self.key", "attention.self.value"), "attention.output.dense",
        ("intermediate.dense",), "output.dense", ("attention.output.LayerNorm",), ("output.LayerNorm",),
    ),
    Layout(
        "self_attn", (), "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "input_layernorm"), ("post_attention_layernorm",),
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SubNetwork:
    """heads (blocks, heads) and units (blocks, units), bool: what is there."""

    heads: Tensor
    units: Tensor


@dataclass(frozen=True)
class Sizes:
    """What a network's blocks consist of. head, unit: parameters of one; attention, feed_forward: those that a half
    has besides, as long as any of it is left."""

    blocks: int
    heads: int
    units: int
    head: int
    unit: int
    attention: int
    feed_forward: int

    @property
    def whole(self) -> SubNetwork:
        """All of it."""
        return SubNetwork(
            torch.ones(self.blocks, self.heads, dtype=torch.bool), torch.ones(self.blocks, self.units, dtype=torch.bool)
        )

    def parameters(self, network: SubNetwork) -> int:
        """Parameters of the blocks of a sub-network."""
        heads, units = network.heads.sum(1), network.units.sum(1)
        fixed = self.attention * (heads > 0).sum() + self.feed_forward * (units > 0).sum()
        return int(self.head * heads.sum() + self.unit * units.sum() + fixed)

    def share(self, network: SubNetwork) -> float:
        """Its parameters as a share of those of all blocks, 0 to 1. Embeddings and head do not count."""
        return self.parameters(network) / self.parameters(self.whole)


def layout_of(block: nn.Module) -> Layout:
    """Raises ValueError for a block in neither BERT's nor Llama's layout."""
    names = dict(block.named_modules())
    for layout in LAYOUTS:
        if all(name in names for name in (*layout.rows, layout.joins, *layout.units, layout.down)):
            return layout
    raise ValueError(f"{type(block).__name__} is in neither BERT's nor Llama's layout: it cannot lose heads and units")


def sizes_of(model: nn.Module) -> Sizes:
    """What the blocks of a model consist of. Raises ValueError as `layout_of`."""
    stack = blocks(model)[1]
    layout = layout_of(stack[0])
    heads, width = _heads(stack[0], layout)
    joins, down = _linears(stack[0], (layout.joins, layout.down))
    head = sum(width * (m.in_features + (m.bias is not None)) for m in _linears(stack[0], layout.rows))
    unit = sum(m.in_features + (m.bias is not None) for m in _linears(stack[0], layout.units))
    rest = [sum(_count(stack[0].get_submodule(n)) for n in names)
            for names in (layout.attention_rest, layout.units_rest)]  # fmt: skip
    biases = [0 if m.bias is None else m.bias.numel() for m in (joins, down)]
    return Sizes(
        len(stack), heads, down.in_features, head + width * joins.out_features, unit + down.out_features,
        rest[0] + biases[0], rest[1] + biases[1],
    )  # fmt: skip


def _linears(block: nn.Module, names: Sequence[str]) -> list[nn.Linear]:
    return [block.get_submodule(name) for name in names]  # type: ignore[misc]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _heads(block: nn.Module, layout: Layout) -> tuple[int, int]:
    """Number of heads and the width of one."""
    joins: Any = block.get_submodule(layout.joins)
    for module in block.get_submodule(layout.attention).modules():
        for name in ("attention_head_size", "head_dim"):
            if isinstance(width := getattr(module, name, None), int):
                return joins.in_features // width, width
    raise ValueError(f"{type(block).__name__} does not say how wide its heads are")


class Narrow(nn.Module):
    """Some rows and columns of a linear layer, whose weights stay where they are. pick: the inputs come whole."""

    def __init__(self, linear: nn.Linear, rows: Tensor | None, columns: Tensor | None, pick: bool) -> None:
        super().__init__()
        self.linear, self.rows, self.columns, self.pick = linear, rows, columns, pick

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns, or all inputs) -> (…, rows)."""
        weight: Tensor = self.linear.weight
        bias: Tensor | None = self.linear.bias
        if self.rows is not None:
            weight, bias = weight[self.rows], None if bias is None else bias[self.rows]
        if self.columns is not None:
            weight = weight[:, self.columns]
            x = x[..., self.columns] if self.pick else x
        return F.linear(x, weight, bias)


class Picked(nn.Linear):
    """A linear layer that reads some of its inputs: as `Narrow`, with weights of its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None, columns: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias is not None)
        self.weight, self.bias = nn.Parameter(weight.clone()), None if bias is None else nn.Parameter(bias.clone())  # type: ignore
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) -> (…, outputs)."""
        return super().forward(x if self.columns is None else x[..., self.columns])


class PassedBy(nn.Module):
    """In the place of a half of a block of which nothing is left. gives: what it hands back of what it is called
    with: BERT's attention the states (with no weights), BERT's output layer the residual; elsewhere zero is added."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The states, or the residual, or zero; with None in the place of attention weights."""
        states: Tensor = args[0] if args else kwargs["hidden_states"]
        if self.gives == "residual":
            return args[1]
        if self.gives == "states":
            return states, None
        zero = states.new_zeros(())
        return (zero, None) if self.gives == "zero and weights" else zero


Make = Callable[[nn.Linear, Tensor | None, Tensor | None, bool], nn.Module]


def _changes(model: nn.Module, network: SubNetwork, make: Make) -> list[tuple[nn.Module, str, nn.Module]]:
    """For each module that a sub-network replaces: its parent, its name, and what stands there instead."""
    found: list[tuple[nn.Module, str, nn.Module]] = []
    for number, block in enumerate(blocks(model)[1]):
        layout = layout_of(block)
        bert = bool(layout.rows)
        heads, units = network.heads[number], network.units[number]

        def put(name: str, module: nn.Module, block: nn.Module = block) -> None:
            parent, _, last = name.rpartition(".")
            found.append((block.get_submodule(parent), last, module))

        if not heads.any():
            put(layout.attention, PassedBy("states" if bert else "zero and weights"))
        elif not heads.all():
            width = _heads(block, layout)[1]
            kept = (heads.nonzero() * width + torch.arange(width)).flatten()
            for name in layout.rows:
                put(name, make(block.get_submodule(name), kept, None, False))  # type: ignore[arg-type]
            put(layout.joins, make(block.get_submodule(layout.joins), None, kept, not bert))  # type: ignore[arg-type]
        if not units.any():
            if bert:
                put("intermediate", nn.Identity())
            put("output" if bert else layout.down.partition(".")[0], PassedBy("residual" if bert else "zero"))
        elif not units.all():
            kept = units.nonzero().flatten()
            for name in layout.units:
                put(name, make(block.get_submodule(name), kept, None, False))  # type: ignore[arg-type]
            put(layout.down, make(block.get_submodule(layout.down), None, kept, False))  # type: ignore[arg-type]
    return found


@contextmanager
def active(model: nn.Module, network: SubNetwork) -> Iterator[nn.Module]:
    """Inside, the model is this sub-network of itself, at the weights that it shares with all others."""
    changes = _changes(model, network, Narrow)
    before = [getattr(parent, name) for parent, name, _ in changes]
    try:
        for parent, name, module in changes:
            setattr(parent, name, module.train(model.training))
        yield model
    finally:
        for (parent, name, _), module in zip(changes, before, strict=True):
            setattr(parent, name, module)


def cut(model: nn.Module, network: SubNetwork) -> nn.Module:
    """A copy of the model that has this sub-network's weights and no others."""
    small = copy.deepcopy(model)

    def make(linear: nn.Linear, rows: Tensor | None, columns: Tensor | None, pick: bool) -> nn.Module:
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        if rows is not None:
            weight, bias = weight[rows], None if bias is None else bias[rows]
        if columns is not None:
            weight = weight[:, columns]
        return Picked(weight, bias, columns if pick else None)

    for parent, name, module in _changes(small, network, make):
        setattr(parent, name, module)
    return small


Config = tuple[int, int, int]


@dataclass(frozen=True)
class Space:
    """Sub-networks with the first `layers` blocks, and in each of them the first `heads` heads and the first `units`
    units: (layers, heads, units), each at least 1. The search space "small" of Klein et al."""

    sizes: Sizes

    @property
    def most(self) -> Config:
        """The whole network."""
        return self.sizes.blocks, self.sizes.heads, self.sizes.units

    @property
    def corners(self) -> tuple[Config, ...]:
        """What their searches try first: all, the least, and half of the way between; of layers from none."""
        layers, heads, units = self.most
        return self.most, (1, 1, 1), (max(1, layers // 2), max(1, (heads - 1) // 2), max(1, (units - 1) // 2))

    def draw(self, draw: random.Random) -> Config:
        """Any, each number uniform from 1 to its most."""
        return tuple(draw.randint(1, most) for most in self.most)  # type: ignore[return-value]

    def neighbour(self, config: Config, draw: random.Random) -> Config:
        """The same with one of its numbers drawn anew, another than before."""
        free = [place for place, most in enumerate(self.most) if most > 1]
        place = draw.choice(free)
        value = draw.choice([value for value in range(1, self.most[place] + 1) if value != config[place]])
        return (*config[:place], value, *config[place + 1 :])  # type: ignore[return-value]

    def network(self, config: Config) -> SubNetwork:
        """What it describes. Raises ValueError for numbers outside the space."""
        if any(not 1 <= value <= most for value, most in zip(config, self.most, strict=True)):
            raise ValueError(f"{config}: layers, heads and units are 1 to {self.most}")
        layers, heads, units = config
        whole = self.sizes.whole
        whole.heads[layers:], whole.heads[:, heads:] = False, False
        whole.units[layers:], whole.units[:, units:] = False, False
        return whole


@dataclass(frozen=True, eq=False)
class Member:
    """A network of a front: its share of the blocks' parameters, its accuracy on validation data, and what it is: a
    model, with the sub-network of it that is meant, where it shares its weights with others."""

    share: float
    validation: float
    model: nn.Module
    network: SubNetwork | None = None


class Front(nn.Module):
    """Networks of several sizes: those that no smaller or equal one is as good as on validation data, the smallest
    first. Called, it is the largest of them.

    compute: what it took to find them, in training steps of the whole network. evaluations: networks that were tried.
    """

    def __init__(self, members: Sequence[Member], compute: float, evaluations: int) -> None:
        super().__init__()
        self.members: list[Member] = []
        for member in sorted(members, key=lambda one: (one.share, -one.validation)):
            if not self.members or member.validation > self.members[-1].validation:
                self.members.append(member)
        self.models = nn.ModuleList({id(member.model): member.model for member in self.members}.values())
        self.compute, self.evaluations = compute, evaluations

    def forward(self, **inputs: Any) -> Any:
        """What the largest member says."""
        with self.used(len(self.members) - 1) as model:
            return model(**inputs)

    @contextmanager
    def used(self, index: int) -> Iterator[nn.Module]:
        """Inside, that member as a model."""
        member = self.members[index]
        if member.network is None:
            yield member.model
            return
        with active(member.model, member.network) as model:
            yield model

    def at(self, share: float) -> int | None:
        """The member to use where at most this share of the parameters may stay: the best by validation data, which
        is the largest that fits; None where none does."""
        fitting = [index for index, member in enumerate(self.members) if member.share <= share]
        return fitting[-1] if fitting else None

    def hypervolume(self, accuracies: Sequence[float], least: float) -> float:
        """Mean over shares from `least` to 1 of the accuracy of the member that would be used there, 0 where none is.

        With the members' own accuracies on validation data it is the hypervolume that the front dominates, of share
        and error up to the reference point (1, 1), over 1 - least; on other data nothing is chosen anew.
        """
        ends = [max(member.share, least) for member in self.members] + [1.0]
        widths = [max(0.0, after - before) for before, after in pairwise(ends)]
        return sum(width * value for width, value in zip(widths, accuracies, strict=True)) / (1 - least)
