"""Which layers share their statistics: those that read one tensor, and no others, whatever addresses are used again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from layout_models import inputs, make
from torch import Tensor, nn

import paperlab
from paperlab.kit.opening import opened
from paperlab.kit.stats import gather
from paperlab.kit.walk import Call, linears, walk

WIDTH = 8
Way = Callable[["Block", Tensor], object]


class Block(nn.Module):
    """Four linear layers, called as the test says."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.way = way

    def forward(self, hidden: Tensor) -> Tensor:
        self.way(self, hidden)
        return hidden


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randn(1, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def hessians(way: Way, *hidden: Tensor) -> dict[str, Callable[[str], Tensor]]:
    block = Block(way)
    return gather(block, linears(block), [Call(one, (), {}) for one in hidden], {"hessian"})


def hessian(*parts: Tensor) -> Tensor:
    x = torch.cat([part.reshape(-1, WIDTH) for part in parts])
    return 2 / len(x) * x.T @ x


def test_a_layer_that_is_reached_later_does_not_inherit_from_one_whose_address_it_takes() -> None:
    memory = np.zeros((1, 5, WIDTH), dtype=np.float32)

    def way(block: Block, hidden: Tensor) -> None:
        memory[:] = hidden.numpy()
        x = torch.from_numpy(memory)  # a new tensor each time, at one address, in its first version
        (block.a if hidden[0, 0, 0] == 0 else block.b)(x)

    first, second = tokens(5), tokens(5, seed=1)
    first[0, 0, 0] = 0
    found = hessians(way, first, second)
    torch.testing.assert_close(found["a"]("hessian"), hessian(first))
    torch.testing.assert_close(found["b"]("hessian"), hessian(second))


def test_layers_share_what_is_one_tensor_only() -> None:
    def way(block: Block, hidden: Tensor) -> None:
        x = hidden.clone()
        block.a(x)
        block.b(x)
        block.c(x[:, :1])  # begins at the same address
        x.mul_(2)
        block.d(x)

    x = tokens(5)
    found: dict[str, Any] = hessians(way, x)
    assert found["a"].__self__ is found["b"].__self__
    for name, wanted in (("a", x), ("b", x), ("c", x[:, :1]), ("d", 2 * x)):
        torch.testing.assert_close(found[name]("hessian"), hessian(wanted))


def test_a_freed_address_is_not_taken_within_a_call() -> None:
    def way(block: Block, hidden: Tensor) -> None:
        for number, layer in enumerate((block.a, block.b, block.c, block.d), 1):
            layer(hidden * number)  # nothing but the gathering holds this tensor

    x = tokens(64)
    found = hessians(way, x)
    for number, name in enumerate("abcd", 1):
        torch.testing.assert_close(found[name]("hessian"), hessian(number * x))


def test_no_token_is_no_input() -> None:
    def way(block: Block, hidden: Tensor) -> None:
        short = len(hidden[0]) < 4
        for layer, part in ((block.a, hidden[:, 4:]), (block.b, hidden[:, :0])):
            layer(part.clone())  # empty tensors have one address: none
        if short:
            block.c(hidden)

    x = tokens(6)
    found = hessians(way, x[:, :3].clone(), x)
    torch.testing.assert_close(found["a"]("hessian"), hessian(x[:, 4:]))
    torch.testing.assert_close(found["c"]("hessian"), hessian(x[:, :3]))
    with pytest.raises(ValueError, match="b: no calibration token reached"):
        found["b"]("hessian")


LENGTHS = (2, 9, 3, 12, 2, 7)


def texts(name: str) -> list[dict[str, Tensor]]:
    """Of different lengths, the first too short to reach every expert."""
    several = inputs(name, len(LENGTHS), 3)
    return [{"input_ids": one["input_ids"][:, :length]} for one, length in zip(several, LENGTHS, strict=True)]


class Listener:
    """What a layer was called with."""

    def __init__(self, layer: nn.Module) -> None:
        self.seen: list[Tensor] = []
        layer.register_forward_pre_hook(lambda _, args: self.seen.append(args[0].flatten(0, -2).clone()))


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2Moe"])
def test_experts_of_a_mixture_have_statistics_of_their_own_tokens(name: str) -> None:
    reached_late = 0
    for _, block, calls in walk(opened(make(name)), texts(name)):
        layers = linears(block)
        found = gather(block, layers, calls, {"hessian"})
        listeners = {layer: Listener(module) for layer, module in layers.items()}
        for call in calls:
            call.through(block)
            if call is calls[0]:
                reached_late += sum(not one.seen for one in listeners.values())
        for layer, one in listeners.items():
            if not one.seen:
                reached_late -= 1
                continue
            x = torch.cat(one.seen)
            torch.testing.assert_close(found[layer]("hessian"), 2 / len(x) * x.T @ x)
    assert reached_late > 0  # in a later call than the first, and not never


def test_a_mixture_is_calibrated_on_texts_of_different_lengths_as_a_whole() -> None:
    whole, cut = (
        paperlab.load("gptq", bits=4, group=8)(make("Mixtral"), calibration=batches)
        for batches in (texts("Mixtral"), [{"input_ids": one["input_ids"][:, :2]} for one in texts("Mixtral")])
    )
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
