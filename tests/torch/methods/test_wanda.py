"""Wanda: a worked example, the paper's formula in NumPy, its ablations, and what follows it."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import paperlab
from paperlab.kit.matrix import Sparse
from paperlab.kit.quantized import Quantized
from paperlab.methods.pruning import wanda

TEXTS = [torch.arange(3, 60), torch.arange(30, 90)]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def numpy_wanda(weight: np.ndarray, x: np.ndarray, sparsity: float, fours: bool) -> np.ndarray:
    """The formula by loops: weight (out, in), x (tokens, in)."""
    mask = np.ones(weight.shape, bool)
    norm = [sum(float(value) ** 2 for value in x[:, j]) ** 0.5 for j in range(x.shape[1])]
    for o, row in enumerate(weight):
        score = [abs(float(row[j])) * norm[j] for j in range(len(row))]
        groups = np.arange(len(row)).reshape(-1, 4 if fours else len(row))
        for group in groups:
            for j in sorted(group, key=lambda j: score[j])[: int(len(group) * sparsity)]:
                mask[o, j] = False
    return mask


def test_a_small_weight_on_a_loud_input_stays() -> None:
    weight = torch.tensor([[3.0, -1.0, 2.0, 0.5], [0.1, 0.2, 0.3, 0.4]])
    norm = torch.tensor([1.0, 5.0, 1.0, 1.0])  # scores 3, 5, 2, .5 and .1, 1, .3, .4
    wanted = torch.tensor([[True, True, False, False], [False, True, False, True]])
    assert torch.equal(wanda.keep(weight, norm, sparsity=0.5), wanted)
    by_size = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert torch.equal(wanda.keep(weight, norm, sparsity=0.5, norms="equal"), by_size)


@pytest.mark.parametrize(("sparsity", "pattern"), [(0.5, None), (0.3, None), (0.5, "2:4")])
def test_masks_are_those_of_the_formula(sparsity: float, pattern: str | None) -> None:
    draw = np.random.default_rng(0)
    weight, x = draw.normal(size=(24, 48)), draw.normal(size=(60, 48)) * np.exp(draw.normal(size=48))
    norm = torch.from_numpy(x).square().sum(0).sqrt()
    mask = wanda.keep(torch.from_numpy(weight), norm, sparsity=sparsity, pattern=pattern)
    assert (mask.numpy() == numpy_wanda(weight, x, sparsity, bool(pattern))).all()
    assert ((~mask).sum(1) == int(48 * sparsity)).all()


def test_shuffled_norms_are_other_columns_and_reproducible() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, norm = torch.randn(16, 64, generator=draw), torch.rand(64, generator=draw).exp()
    found = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found.append(wanda.keep(weight, norm, norms="shuffled"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], wanda.keep(weight, norm))
    assert ((~found[0]).sum(1) == 32).all()


def test_on_a_model_and_then_in_four_bits(model: nn.Module) -> None:
    pruned = paperlab.load("wanda", sparsity=0.5)(model, calibration=TEXTS)
    assert pruned.compressed.totals()["density"] == 0.5
    assert pruned.compressed.totals()["layer_bits"] == 9
    both = paperlab.load("gptq", bits=4)(pruned, calibration=TEXTS)
    for name, layer in both.compressed.layers.items():
        assert isinstance(layer, Sparse)
        assert isinstance(layer.values, Quantized)
        assert torch.equal(layer.mask, pruned.compressed.layers[name].mask)
        assert not both.get_submodule(name).weight[~layer.mask].any()
    assert 3 < both.compressed.totals()["layer_bits"] < 3.4  # half of 4, a bit for where, scales and zeros


def fixed(rows: int, columns: int, a: int, b: int, modulus: int) -> torch.Tensor:
    """Whole numbers, the same on every machine."""
    values = [[(a * i * i + b * j * j + 3 * i * j + 5 * i + 11 * j) % modulus - modulus // 2 for j in range(columns)]
              for i in range(rows)]  # fmt: skip
    return torch.tensor(values, dtype=torch.float32)


WEIGHT = fixed(6, 16, 7, 3, 101) / 32
INPUTS = fixed(64, 16, 13, 5, 127) / 64 * torch.tensor([2.0 ** (j % 5 - 2) for j in range(16)])


def as_mask(rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "1" for mark in row] for row in rows.split()])


@pytest.mark.parametrize(
    ("pattern", "theirs"),
    [
        (None, ".1.11..111.1..1. ...11.1.11..111. ..11...111..111. .1.11.1.11...11. ..111...11..111. 1..1...111..111."),
        (
            "2:4",
            ".1.11..111...11. .1.11.1.11...11. ..111..111...11. .1.11.1.11...11. ..111..111...11. 1..1.1.111...11.",
        ),
    ],
)
def test_masks_of_the_authors_code(pattern: str | None, theirs: str) -> None:
    """What lib/prune.py of github.com/locuslab/wanda at 8e8fc87 made of this layer, run once on a CPU."""
    made = wanda.keep(WEIGHT, INPUTS.square().sum(0).sqrt(), pattern=pattern)
    assert torch.equal(made, as_mask(theirs))
