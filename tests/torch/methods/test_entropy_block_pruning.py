"""EntroDrop: the estimators on distributions whose entropy is known, the authors' formula by loops, and the choice."""

import copy
import math

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from paperlab.methods.pruning import entropy_block_pruning as method

BATCHES = [
    {"input_ids": ids} for ids in torch.randint(0, 40, (6, 40), generator=torch.Generator().manual_seed(0)).split(4)
]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_nearest_neighbours_estimate_a_gaussian(scale: float) -> None:
    x = scale * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    exact = math.log(2 * math.pi * math.e) + 2 * math.log(scale)
    assert method.entropy(x, neighbours=25) == pytest.approx(exact, abs=0.1)


def test_nearest_neighbours_by_loops() -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points, k, d = x.numpy(), 4, 5
    logs = [math.log(sorted(np.linalg.norm(points - p, axis=1))[k]) for p in points]
    wanted = d * sum(logs) / 30 + d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + math.log(30) - math.log(k)
    assert method.entropy(x, neighbours=k) == pytest.approx(wanted, abs=1e-4)


def test_buckets_by_hand() -> None:
    x = torch.tensor([[0.0, 1.0], [0.1, 1.0], [0.9, 5.0], [1.0, 5.0]])  # two halves in both dimensions
    assert method.entropy(x, "bucket", buckets=2) == pytest.approx(2 * math.log(2))
    assert method.entropy(x, "bucket", buckets=1) == 0
    even = torch.arange(20.0)[:, None]
    assert method.entropy(even, "bucket", buckets=20) == pytest.approx(math.log(20))


def test_renyi_is_least_for_one_point_and_is_scale_free() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert method.entropy(x, "renyi") == pytest.approx(method.entropy(7 * x + 3, "renyi"), abs=1e-4)
    assert method.entropy(x, "renyi") > 0


def test_the_attention_that_shrinks_the_states_goes_and_the_ends_stay(six_blocks: LlamaForCausalLM) -> None:
    def dropped(noisy: int) -> list[int]:
        model = copy.deepcopy(six_blocks)
        with torch.no_grad():
            for index, block in enumerate(model.model.layers):  # all spread the states but one, which does nothing
                block.self_attn.o_proj.weight.mul_(0.0 if index == noisy else 60.0)
        method.submodel(model, BATCHES, sparsity=0.17, neighbours=5)
        return [i for i, block in enumerate(model.model.layers) if not list(block.self_attn.parameters())]

    assert dropped(3) == [3]
    assert dropped(0) != [0]  # protected
    assert dropped(5) != [5]


def test_what_cannot_be_done_is_refused(six_blocks: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="neighbours=40: from 1 to 39"):
        method.submodel(copy.deepcopy(six_blocks), BATCHES, neighbours=40)
    with pytest.raises(ValueError, match="4 of 6 blocks, 3 of them protected"):
        method.submodel(copy.deepcopy(six_blocks), BATCHES, sparsity=0.7)
    with pytest.raises(ValueError, match="knn, bucket or renyi"):
        method.entropy(torch.randn(9, 2), "other")
