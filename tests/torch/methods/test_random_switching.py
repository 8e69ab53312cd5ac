"""The coin: as often as it should, independent of time and row, and the same for a seed."""

import pytest
import torch
from torch import Tensor

from paperlab.kit.switching import place
from paperlab.methods.elastic.random_switching import switch


def coins(seed: int, share: float, rows: int = 200, time: int = 100) -> Tensor:
    bits = torch.rand(rows, time)
    return place(bits, bits, lambda entropies, large, _: switch(large, seed, share=share))


def test_the_share_is_that_of_the_coin_and_tosses_are_independent() -> None:
    one = coins(0, 0.3).double()
    assert one.mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 20_000) ** 0.5)
    centred = one - 0.3
    for a, b in ((centred[:, :-1], centred[:, 1:]), (centred[:-1], centred[1:]), (centred[1:, :-1], centred[:-1, 1:])):
        assert abs((a * b).mean().item() / 0.21) < 4 / a.numel() ** 0.5
    assert torch.equal(coins(0, 0.3), one.bool())
    assert not torch.equal(coins(1, 0.3), one.bool())


def test_the_ends_are_one_model_alone() -> None:
    assert not coins(0, 0.0).any()
    assert coins(0, 1.0).all()
    with pytest.raises(ValueError, match="give 0 to 1"):
        coins(0, 1.5)
