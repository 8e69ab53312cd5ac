"""Random allocation: the classes of the rule, given to units in a random order, at the same size for every seed."""

import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.core.card import Arm
from paperlab.lab.drivers.compress import apply
from paperlab.lab.stage import is_drawn
from paperlab.methods.quantization.random_allocation import transform
from paperlab.methods.quantization.round_to_nearest import quantize


def test_six_blocks_by_hand(six_blocks: LlamaForCausalLM) -> None:
    """A mean of 4 from 2, 4 and 8 is one block at 8, three at 4 and two at 2 (kit/test_allocation.py), whatever the
    seed; the seed says which, and each layer is then rounded to nearest."""
    orders = set()
    for seed in range(4):
        small = apply({"transform": transform}, {}, model=six_blocks, calibration=[], seed=seed)
        bits = small.notes["bits"]
        assert sorted(bits.values()) == [2, 2, 4, 4, 4, 8]
        orders.add(tuple(bits[unit] for unit in sorted(bits)))
        for name, stored in small.layers.items():
            width = bits[".".join(name.split(".")[:3])]
            assert torch.equal(
                stored.codes, quantize(six_blocks.get_submodule(name).weight, bits=width, group=32).codes
            )
            assert torch.equal(small.model.get_submodule(name).weight, stored.dense())
    assert len(orders) > 1


def test_seeds_repeat_and_differ(six_blocks: LlamaForCausalLM) -> None:
    def bits(seed: int) -> dict[str, int]:
        params = {"unit": "layer", "mean_bits": 3.0}
        return apply({"transform": transform}, params, model=six_blocks, calibration=[], seed=seed).notes["bits"]

    assert bits(1) == bits(1)
    assert len({tuple(sorted(bits(seed).items())) for seed in range(5)}) == 5
    assert sum(bits(0).values()) <= 3 * 42


def test_a_check_runs_it_under_every_seed() -> None:
    """What asks for the seed is drawn: as a baseline it is a distribution, not one order."""
    for task in ("lm_compress", "encoder_compress"):
        assert is_drawn(Arm("random-allocation"), task)


def test_what_it_refuses(six_blocks: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="mean_bits=9"):
        apply({"transform": transform}, {"mean_bits": 9.0}, model=six_blocks, calibration=[])
    with pytest.raises(ValueError, match="choices='2;4'"):
        apply({"transform": transform}, {"choices": "2;4"}, model=six_blocks, calibration=[])
