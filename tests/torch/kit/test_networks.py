"""The reference decoder: causal, relative in positions, each part replaceable, shared parts alike between arms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paperlab.kit.networks import Attention, FeedForward, decoder, rotate, separately
from paperlab.kit.training import PARTS

SIZES: dict[str, Any] = {"vocabulary": 50, "width": 16, "heads": 2, "layers": 2, "inner": 24, "length": 32}
IDS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))


def fresh(**parts: Any) -> nn.Module:
    torch.manual_seed(0)
    return decoder({**PARTS, **parts}, **SIZES)


def test_logits_at_a_place_know_nothing_of_what_follows() -> None:
    network, changed = fresh(), IDS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    before, after = network(IDS), network(changed)
    assert before.shape == (2, 12, 50)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-4


def test_attention_is_a_plain_softmax_over_the_past() -> None:
    torch.manual_seed(1)
    layer = Attention(16, 2)
    x = torch.randn(3, 5, 16)
    q, k, v = (part(x).view(3, 5, 2, 8).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    scores = rotate(q) @ rotate(k).transpose(-1, -2) / 8**0.5
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    wanted = layer.output((scores.softmax(-1) @ v).transpose(1, 2).reshape(3, 5, 16))
    torch.testing.assert_close(layer(x), wanted)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    draw = torch.Generator().manual_seed(2)
    q, k = torch.randn(8, generator=draw), torch.randn(8, generator=draw)
    turned_q, turned_k = (rotate(vector.expand(1, 1, 20, 8))[0, 0] for vector in (q, k))
    assert turned_q[0].equal(q)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(20))
    products = turned_q @ turned_k.T
    for distance in (-7, 0, 3):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    assert (products[0] - products[0, 0]).abs().max() > 0.1


def test_the_feed_forward_layer_is_swiglu() -> None:
    torch.manual_seed(3)
    layer, x = FeedForward(6, 10), torch.randn(4, 6)
    gate, up, down = (part.weight for part in (layer.gate, layer.up, layer.down))
    torch.testing.assert_close(layer(x), (x @ gate.T / (1 + (-(x @ gate.T)).exp()) * (x @ up.T)) @ down.T)


def test_every_part_can_be_replaced() -> None:
    class Counted(nn.Module):
        made: dict[str, list[tuple[Any, ...]]] = {}  # noqa: RUF012

        def __init__(self, verb: str, sizes: tuple[Any, ...]) -> None:
            super().__init__()
            self.made.setdefault(verb, []).append(sizes)
            self.own = nn.Linear(sizes[0], sizes[1], False) if verb == "linear" else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.own(x)

    def counted(verb: str) -> Any:
        return lambda *sizes: Counted(verb, sizes)

    for verb in ("linear", "norm", "activation", "attention", "feed_forward", "block"):
        assert fresh(**{verb: counted(verb)})(IDS).shape == (2, 12, 50)
    assert Counted.made["linear"].count((16, 16, False)) == 8  # query, key, value, output of two blocks
    assert len(Counted.made["linear"]) == 8 + 6 + 1
    assert Counted.made["norm"] == [(16,)] * 5
    assert Counted.made["activation"] == [()] * 2
    assert Counted.made["attention"] == [(16, 2)] * 2
    assert Counted.made["feed_forward"] == [(16, 24)] * 2
    assert Counted.made["block"] == [(16, 2, 24)] * 2
    fresh(network=counted("network"))
    assert Counted.made["network"] == [(50, 16, 2, 2, 32)]


def test_arms_that_differ_in_one_part_begin_alike_in_the_others() -> None:
    class Greedy(nn.Linear):
        """Draws more random numbers than the layer it stands for."""

        def __init__(self, width: int, inner: int) -> None:
            torch.randn(1000)
            super().__init__(width, width)

    plain, other = fresh().state_dict(), fresh(feed_forward=Greedy).state_dict()
    shared = plain.keys() & other.keys()
    assert len(shared) == 1 + 2 * (4 + 2) + 1 + 1
    assert all(torch.equal(plain[name], other[name]) for name in shared)
    assert not torch.equal(plain["blocks.0.attention.query.weight"], plain["blocks.1.attention.query.weight"])


def test_parts_drawn_separately_depend_on_the_seed_and_leave_it_alone() -> None:
    def draw() -> list[nn.Module]:
        return separately(lambda: nn.Linear(2, 2), lambda: nn.Linear(2, 2))

    torch.manual_seed(5)
    one, after = draw(), torch.randn(1)
    torch.manual_seed(5)
    again, later = draw(), torch.randn(1)
    torch.manual_seed(6)
    other = draw()
    assert torch.equal(one[1].weight, again[1].weight)
    assert torch.equal(after, later)
    assert not torch.equal(one[0].weight, one[1].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads of an even width do not fit into 16"):
        Attention(16, 3)
