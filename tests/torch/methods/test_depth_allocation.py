"""Allocation by depth: ends or middle first, at the same size, without data."""

import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.core.card import Arm
from paperlab.lab.drivers.compress import apply
from paperlab.lab.stage import is_drawn
from paperlab.methods.quantization.depth_allocation import transform
from paperlab.methods.quantization.round_to_nearest import quantize


def test_six_blocks_by_hand(six_blocks: LlamaForCausalLM) -> None:
    """A mean of 4 from 2, 4 and 8 is one block at 8, three at 4 and two at 2."""
    small = {}
    for favour, expected in (("ends", [8, 4, 2, 2, 4, 4]), ("middle", [2, 4, 8, 4, 4, 2])):
        small[favour] = apply({"transform": transform}, {"favour": favour}, model=six_blocks, calibration=[])
        bits = small[favour].notes["bits"]
        assert [bits[f"model.layers.{i}"] for i in range(6)] == expected
        for name, stored in small[favour].layers.items():
            width = bits[".".join(name.split(".")[:3])]
            assert torch.equal(
                stored.codes, quantize(six_blocks.get_submodule(name).weight, bits=width, group=32).codes
            )
            assert torch.equal(small[favour].model.get_submodule(name).weight, stored.dense())
    assert small["ends"].totals() == small["middle"].totals()


def test_it_looks_at_no_data_and_draws_nothing() -> None:
    assert not is_drawn(Arm("depth-allocation"), "lm_compress")


def test_what_it_refuses(six_blocks: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="favour='top'"):
        apply({"transform": transform}, {"favour": "top"}, model=six_blocks, calibration=[])
    with pytest.raises(ValueError, match="mean_bits=9"):
        apply({"transform": transform}, {"mean_bits": 9.0}, model=six_blocks, calibration=[])
