"""OWL: outlier shares and sparsities by hand, and the plan that is worn by the model."""

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.kit.matrix import Sparse
from paperlab.methods.pruning import owl

BATCHES = [{"input_ids": torch.randint(0, 40, (8, 24), generator=torch.Generator().manual_seed(0))}]


def test_shares_above_a_multiple_of_the_mean() -> None:
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 16.0])  # mean 4
    assert owl.outlier_shares(scores, [3, 5]).tolist() == pytest.approx([0.2, 0])


def test_sparsities_keep_their_mean_and_lie_within_twice_the_spread() -> None:
    made = owl.block_sparsities(torch.tensor([0.0, 0.1, 0.2]), 0.7, 0.08)
    assert made.tolist() == pytest.approx([0.78, 0.7, 0.62])
    assert owl.block_sparsities(torch.ones(3), 0.7, 0.08).tolist() == pytest.approx([0.7] * 3)


def test_on_a_model(six_blocks: LlamaForCausalLM) -> None:
    model = copy.deepcopy(six_blocks)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:2] *= 40  # outliers
    made: Any = owl.transform(model, BATCHES, 0, sparsity=0.6)
    plan = made.notes["sparsities"]
    assert isinstance(plan, list)
    assert min(plan) == plan[1]
    assert sum(plan) / 6 == pytest.approx(0.6)
    for name, layer in made.layers.items():
        assert isinstance(layer, Sparse)
        assert layer.density == pytest.approx(1 - plan[int(name.split(".")[2])], abs=1e-3)
        assert torch.equal(made.model.get_submodule(name).weight, layer.dense())
    alone = owl.transform(copy.deepcopy(six_blocks), BATCHES, 0, sparsity=0.6, spreads="0.08", outliers="5")
    assert alone.notes["setting"] == 0
    with pytest.raises(ValueError, match="numbers from 0 with commas"):
        owl.transform(model, BATCHES, 0, spreads="x")
