"""Row slicing: planted units are found by norm and by activation, and the searches lower the KS distance."""

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.kit.slicing import feed_forwards, kolmogorov_smirnov
from paperlab.methods.pruning import row_slicing

BATCHES = [{"input_ids": torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(0))}]


@pytest.mark.parametrize("by", ["norm", "activation"])
def test_small_or_silent_units_go(six_blocks: LlamaForCausalLM, by: Any) -> None:
    model = copy.deepcopy(six_blocks)
    with torch.no_grad():
        for network in feed_forwards(model):
            parts = (network.gate, network.up) if by == "norm" else (network.up,)
            for part in parts:
                part.weight[5:12] *= 1e-3
            if by == "norm":
                network.down.weight[:, 5:12] *= 1e-3
    wanted = [n.gate.weight[[i for i in range(32) if not 5 <= i < 12]].clone() for n in feed_forwards(model)]
    small = row_slicing.submodel(model, BATCHES, sparsity=7 / 32, by=by)
    for network, rows in zip(feed_forwards(small), wanted, strict=True):
        assert torch.equal(network.gate.weight, rows)
        assert network.down.weight.shape == (32, 25)


def test_searches_keep_the_spectrum_better_than_one_draw() -> None:
    weight = torch.randn(96, 24, generator=torch.Generator().manual_seed(0))
    whole = torch.linalg.svdvals(weight)

    def distance(**params: Any) -> float:
        torch.manual_seed(1)
        rows = row_slicing._by_spectrum(weight, 60, **params)
        assert len(set(rows.tolist())) == 60
        return kolmogorov_smirnov(whole, torch.linalg.svdvals(weight[rows]))

    one = distance(evaluations=1, descend=False)
    assert distance(evaluations=40, descend=False) < one
    assert distance(evaluations=40, descend=True) < one


def test_what_cannot_be_done_is_refused(six_blocks: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="sparsity=1"):
        row_slicing.submodel(six_blocks, BATCHES, sparsity=1.0)
