"""Magnitude pruning: the three scopes against sorted NumPy arrays, N:M, and what is counted."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.compressed import Compressed
from paperlab.kit.matrix import Sparse
from paperlab.kit.walk import block_linears
from paperlab.methods.pruning import magnitude


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # layers of different scales, so that a global mask is not the layers' own
        for number, layer in enumerate(block_linears(made).values()):
            layer.weight.mul_(1 + number / 3)
    return made


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: layer.weight.detach().numpy().copy() for name, layer in block_linears(model).items()}


def masks(made: Compressed) -> dict[str, np.ndarray]:
    assert all(isinstance(layer, Sparse) for layer in made.layers.values())
    return {name: layer.mask.numpy() for name, layer in made.layers.items()}


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_global_removes_the_smallest_of_all(model: nn.Module, sparsity: float) -> None:
    before = weights(model)
    kept = masks(magnitude.transform(model, sparsity=sparsity, scope="global"))
    sizes = np.abs(np.concatenate([weight.ravel() for weight in before.values()]))
    flat = np.concatenate([kept[name].ravel() for name in before])
    assert (~flat).sum() == int(len(flat) * sparsity)
    assert sizes[~flat].max() <= sizes[flat].min()
    shares = [mask.mean() for mask in kept.values()]
    assert max(shares) - min(shares) > 0.05  # large layers keep more


@pytest.mark.parametrize("scope", ["layer", "row"])
def test_layers_and_rows_lose_an_exact_share_of_their_smallest(model: nn.Module, scope: str) -> None:
    before = weights(model)
    kept = masks(magnitude.transform(model, sparsity=0.7, scope=scope))
    for name, weight in before.items():
        rows = np.abs(weight).reshape(1 if scope == "layer" else len(weight), -1)
        mask = kept[name].reshape(rows.shape)
        assert ((~mask).sum(1) == int(rows.shape[1] * 0.7)).all()
        assert (np.where(mask, -np.inf, rows).max(1) <= np.where(mask, rows, np.inf).min(1)).all()


def test_two_of_four(model: nn.Module) -> None:
    before = weights(model)
    kept = masks(magnitude.transform(model, pattern="2:4"))
    for name, weight in before.items():
        fours = np.abs(weight).reshape(-1, 4)
        best = np.argsort(-fours, axis=1)[:, :2]
        wanted = np.zeros(fours.shape, bool)
        np.put_along_axis(wanted, best, True, axis=1)
        assert (kept[name] == wanted.reshape(weight.shape)).all()


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_a_larger_share_removes_what_a_smaller_one_does_and_more(model: nn.Module, scope: str) -> None:
    import copy

    less = masks(magnitude.transform(copy.deepcopy(model), sparsity=0.4, scope=scope))
    more = masks(magnitude.transform(copy.deepcopy(model), sparsity=0.6, scope=scope))
    assert all((more[name] <= less[name]).all() for name in less)


def test_the_model_computes_with_what_is_stored_and_its_size_is_counted(model: nn.Module) -> None:
    before = weights(model)
    made = magnitude.transform(model, sparsity=0.75)
    for name, layer in block_linears(model).items():
        kept = made.layers[name].mask
        assert torch.equal(layer.weight.detach(), torch.where(kept, torch.from_numpy(before[name]), 0.0))
        assert torch.equal(layer.weight.detach(), made.layers[name].dense())
    totals = made.totals()
    assert totals["density"] == 0.25
    assert totals["layer_bits"] == 16 / 4 + 1  # the kept weights, and a bit each for which
