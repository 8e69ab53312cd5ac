"""Gradual pruning: the schedule by hand, masks while training, memory counted, and equal footprints in the card."""

import pytest
import torch
from torch import nn

from paperlab.core.methods import find_method
from paperlab.kit.networks import decoder
from paperlab.kit.training import stored_bits
from paperlab.methods.pruning.small_dense import network
from paperlab.methods.pruning.to_prune_or_not_to_prune import Linear, sparsity_at


def test_the_schedule_by_hand() -> None:
    at = [sparsity_at(step, 0.8, 10, 30) for step in (0, 10, 15, 20, 25, 30, 99)]
    assert at == pytest.approx([0, 0, 0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8 * (1 - 0.25**3), 0.8, 0.8])
    assert sparsity_at(10, 0.8, 10, 10) == 0.8


def trained(count: int, **settings: float) -> Linear:
    torch.manual_seed(0)
    layer = Linear(16, 8, False, **settings).train()  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(count):
        optimizer.zero_grad()
        layer(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
    return layer


def test_what_is_masked_has_no_gradient_and_the_share_grows() -> None:
    shares = [1 - trained(count, sparsity=0.75, steps=20, frequency=1).mask.float().mean().item()
              for count in (1, 3, 6, 10, 15, 20, 30)]  # fmt: skip
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-3:] == [0.75] * 3
    layer = trained(20, sparsity=0.75, steps=20, frequency=5)
    kept = layer.weight.detach().abs()[layer.mask].min()
    assert layer.weight.grad is not None
    assert not layer.weight.grad[~layer.mask].any()
    assert layer.weight.grad[layer.mask].any()
    assert (layer.weight.detach().abs()[~layer.mask] != 0).any()  # they keep their values
    assert kept > 0


def test_in_evaluation_nothing_is_pruned_and_the_mask_stays() -> None:
    layer = trained(20, sparsity=0.5, steps=20).eval()
    before = layer.mask.clone()
    x = torch.randn(3, 16)
    torch.testing.assert_close(layer(x), x @ (layer.weight * before).T)
    assert torch.equal(layer.mask, before)


def test_one_cut_leaves_the_network_whole_before_it() -> None:
    assert trained(8, sparsity=0.5, steps=20, begin=0.4, end=0.4).mask.all()
    assert trained(9, sparsity=0.5, steps=20, begin=0.4, end=0.4).mask.float().mean() == 0.5


def test_without_sparsity_it_is_a_linear_layer() -> None:
    torch.manual_seed(1)
    own = Linear(5, 3, sparsity=0.0).train()
    torch.manual_seed(1)
    plain = nn.Linear(5, 3)
    x = torch.randn(2, 5)
    assert torch.equal(own(x), plain(x))
    assert own.stored_bits() == 32 * 18


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="sparsity=1"):
        Linear(4, 4, sparsity=1.0)
    with pytest.raises(ValueError, match="in order"):
        Linear(4, 4, begin=0.8, end=0.7)


@pytest.mark.parametrize("number", [0, 1])
def test_the_card_s_networks_take_as_much_memory(number: int) -> None:
    check = find_method("to-prune-or-not-to-prune").card.checks[number]
    sparsity = check.method.params["sparsity"]
    large = decoder(
        {"linear": lambda i, o, b: Linear(i, o, b, sparsity=sparsity)},  # type: ignore[arg-type]
        vocabulary=256, width=64, heads=4, layers=4, inner=160, length=128,
    )  # fmt: skip
    for module in large.modules():
        if isinstance(module, Linear):
            module.prune(module.sparsity)
    small = network(256, 4, 4, 128, **check.baseline.params)  # type: ignore[arg-type]
    assert stored_bits(large) == pytest.approx(stored_bits(small), rel=check.equal["bytes"])
