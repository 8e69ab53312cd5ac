"""Sub-networks against the whole network with columns set to zero, and fronts worked by hand."""

import copy
import random

import pytest
import torch
from contract_cases import output, tiny
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from paperlab.kit.elastic import Front, Member, Sizes, Space, SubNetwork, active, cut, layout_of, sizes_of
from paperlab.kit.walk import blocks


def bert(count: int = 3, heads: int = 4) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=32, intermediate_size=24, num_hidden_layers=count, num_attention_heads=heads,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().double()


def said(model: nn.Module) -> Tensor:
    ids = torch.tensor([[1, 4, 5, 6], [1, 9, 10, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    return model(input_ids=ids, attention_mask=mask).last_hidden_state


def some(model: nn.Module, seed: int = 1) -> SubNetwork:
    """Half of all heads and units, drawn, one of each in every block at least."""
    sizes, draw = sizes_of(model), torch.Generator().manual_seed(seed)
    heads = torch.rand(sizes.blocks, sizes.heads, generator=draw) < 0.5
    units = torch.rand(sizes.blocks, sizes.units, generator=draw) < 0.5
    heads[:, 1], units[:, 2] = True, True
    return SubNetwork(heads, units)


def zeroed(model: nn.Module, network: SubNetwork) -> nn.Module:
    """A copy whose output projections do not read what is not there: nothing but weights is changed."""
    whole = copy.deepcopy(model)
    for number, block in enumerate(blocks(whole)[1]):
        layout = layout_of(block)
        for name, kept in ((layout.joins, network.heads[number]), (layout.down, network.units[number])):
            weight = block.get_submodule(name).weight
            weight.data *= kept.repeat_interleave(weight.shape[1] // len(kept))
    return whole


def test_a_subnetwork_is_the_network_whose_other_heads_and_units_are_not_read() -> None:
    model = bert()
    network = some(model)
    assert 0.3 < sizes_of(model).share(network) < 0.8
    with active(model, network):
        inside = said(model)
    torch.testing.assert_close(inside, said(zeroed(model, network)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(said(cut(model, network)), inside, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(inside, said(model))


def test_a_layout_whose_heads_share_keys_loses_columns_alone() -> None:
    model = tiny("Llama")
    network = SubNetwork(torch.tensor([[True, False], [False, False]]), torch.rand(2, 64) < 0.5)
    before = output(model)
    with active(model, network):
        inside = output(model)
    torch.testing.assert_close(inside, output(zeroed(model, network)))
    torch.testing.assert_close(output(cut(model, network)), inside)
    assert torch.equal(output(model), before)


def test_gradients_reach_the_shared_weights_as_if_the_others_were_zero() -> None:
    model, network = bert(), some(bert())
    reference = zeroed(model, network)
    said(reference).square().sum().backward()
    with active(model, network):
        said(model).square().sum().backward()
    for number, block in enumerate(blocks(model)[1]):
        other = blocks(reference)[1][number]
        width = 8
        for name in (
            "attention.self.query",
            "attention.self.value",
            "intermediate.dense",
            "attention.output.LayerNorm",
        ):
            torch.testing.assert_close(
                block.get_submodule(name).weight.grad, other.get_submodule(name).weight.grad, rtol=1e-8, atol=1e-10
            )
        mask = network.heads[number].repeat_interleave(width)
        torch.testing.assert_close(
            block.attention.output.dense.weight.grad, other.attention.output.dense.weight.grad * mask
        )


def test_a_half_of_which_nothing_is_left_lets_the_states_pass() -> None:
    model = bert()
    network = sizes_of(model).whole
    network.heads[0], network.units[1] = False, False
    network.heads[2], network.units[2] = False, False
    ids = torch.tensor([[1, 4, 5, 6]])
    states = model.embeddings(input_ids=ids)
    first, second, _ = model.encoder.layer
    states = first.feed_forward_chunk(states)
    states = second.attention(states)[0]
    with active(model, network):
        torch.testing.assert_close(model(input_ids=ids).last_hidden_state, states)


def test_what_was_in_the_way_is_put_back() -> None:
    model = bert()
    modules, before = [id(module) for module in model.modules()], said(model)
    with pytest.raises(RuntimeError), active(model, some(model)):
        raise RuntimeError
    assert [id(module) for module in model.modules()] == modules
    assert torch.equal(said(model), before)
    with active(model, sizes_of(model).whole):
        assert [id(module) for module in model.modules()] == modules


@pytest.mark.parametrize("gone", [False, True])
def test_parameters_are_those_that_a_cut_model_has(gone: bool) -> None:
    model = bert()
    sizes, network = sizes_of(model), some(model)
    if gone:
        network.heads[1], network.units[0] = False, False
    small = cut(model, network)
    assert sum(p.numel() for p in blocks(small)[1].parameters()) == sizes.parameters(network)
    assert sizes.parameters(sizes.whole) == sum(p.numel() for p in blocks(model)[1].parameters())
    assert sum(p.numel() for p in blocks(tiny("Llama"))[1].parameters()) == sizes_of(tiny("Llama")).parameters(
        sizes_of(tiny("Llama")).whole
    )
    assert sizes.share(sizes.whole) == 1
    if not gone:
        said(small).sum().backward()
        assert all(p.grad is not None for p in blocks(small)[1].parameters())


def test_the_space_holds_the_first_layers_heads_and_units() -> None:
    space = Space(sizes_of(bert()))
    network = space.network((2, 3, 5))
    assert network.heads.tolist() == [[True, True, True, False]] * 2 + [[False] * 4]
    assert network.units.sum(1).tolist() == [5, 5, 0]
    assert space.corners == ((3, 4, 24), (1, 1, 1), (1, 1, 11))
    assert Space(Sizes(4, 12, 64, 100, 10, 5, 5)).corners[2] == (2, 5, 31)
    draw = random.Random(0)
    drawn = [space.draw(draw) for _ in range(2000)]
    assert {config[0] for config in drawn} == {1, 2, 3}
    assert {config[2] for config in drawn} == set(range(1, 25))
    for _ in range(50):
        near = space.neighbour((2, 3, 5), draw)
        assert sum(a != b for a, b in zip(near, (2, 3, 5), strict=True)) == 1
        space.network(near)
    with pytest.raises(ValueError, match="are 1 to"):
        space.network((0, 1, 1))


def test_a_block_in_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot lose heads and units"):
        layout_of(nn.TransformerEncoderLayer(8, 2))


def front(*points: tuple[float, float]) -> Front:
    return Front([Member(share, accuracy, nn.Linear(1, 1)) for share, accuracy in points], 0.0, len(points))


def test_a_front_keeps_what_no_smaller_network_is_as_good_as() -> None:
    made = front((1.0, 0.9), (0.5, 0.9), (0.5, 0.8), (0.05, 0.4), (0.08, 0.5), (0.3, 0.45))
    assert [(member.share, member.validation) for member in made.members] == [(0.05, 0.4), (0.08, 0.5), (0.5, 0.9)]
    assert len(made.models) == 3
    assert [made.at(share) for share in (0.01, 0.05, 0.07, 0.3, 0.5, 1.0)] == [None, 0, 0, 1, 2, 2]


def test_hypervolume_by_hand_and_against_a_grid() -> None:
    made = front((0.05, 0.4), (0.08, 0.5), (0.5, 0.9))
    assert made.hypervolume([0.4, 0.5, 0.9], 0.1) == pytest.approx((0.4 * 0.5 + 0.5 * 0.9) / 0.9)
    assert front((0.55, 0.8)).hypervolume([0.8], 0.1) == pytest.approx(0.4)  # nothing below 0.55
    assert front((1.0, 0.8)).hypervolume([0.8], 0.1) == 0
    other = front((0.13, 0.3), (0.41, 0.6), (0.77, 0.65))
    told = [0.35, 0.55, 0.5]  # other data: the choice stays, though the last is worse there
    grid = [0.1 + 0.9 * (step + 0.5) / 9000 for step in range(9000)]
    places = [other.at(share) for share in grid]
    mean = sum(0.0 if place is None else told[place] for place in places) / len(grid)
    assert other.hypervolume(told, 0.1) == pytest.approx(mean, abs=1e-3)


def test_members_of_a_front_may_share_a_model() -> None:
    model = bert()
    space = Space(sizes_of(model))
    configs = ((1, 1, 1), (2, 2, 9), (3, 4, 24))
    members = [Member(space.sizes.share(space.network(c)), 0.1 * n, model, space.network(c))
               for n, c in enumerate(configs)]  # fmt: skip
    made = copy.deepcopy(Front(members, 7.0, 3))
    assert len(made.models) == 1
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model.parameters())
    for index, config in enumerate(configs):
        with made.used(index) as used:
            torch.testing.assert_close(said(used), said(cut(model, space.network(config))))
    ids = torch.tensor([[1, 4, 5]])
    torch.testing.assert_close(made(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state)
