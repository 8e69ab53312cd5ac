"""AWQ: the search takes the best of its grid, the clip too, and the function stays."""

import itertools

import pytest
import torch
from loud_models import BATCHES, assert_function_stays, bert, copied, error, llama

from paperlab.kit.fold import scaling_groups
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import awq, round_to_nearest


@pytest.mark.parametrize("make", [llama, bert])
def test_at_12_bits_the_function_stays(make):
    model = make()
    before = copied(model)
    params = {"bits": 12, "group": 32, "clip": False}
    small = apply({"transform": awq.transform}, params, model=model, calibration=BATCHES)
    assert_function_stays(small.model, model, before)


def test_it_beats_plain_rounding_at_the_same_size():
    model = llama()
    grid = {"bits": 4, "group": 32}
    plain = apply({"quantize": round_to_nearest.quantize}, grid, model=model, calibration=[])
    scaled = apply({"transform": awq.transform}, grid, model=model, calibration=BATCHES)
    assert error(scaled.model, model) < 0.8 * error(plain.model, model)
    assert scaled.totals() == plain.totals()  # everything folds: no bit more
    assert all(0 <= alpha < 1 for alpha in scaled.notes["alphas"].values())


def test_the_search_is_the_best_of_its_grid():
    model = llama()
    group = scaling_groups(model)[0][3]  # up -> down: the scope is the layer itself
    x = torch.randn(50, 96, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 5, 96)
    x_mean = x.abs().mean(0)
    weight = group.readers[0].weight.detach().clone()
    scale, alpha = awq.search(group, x_mean, [awq.Call(x, (), {})], steps=10, bits=3, group=32, symmetric=False)
    losses = []
    for step in range(10):
        s = x_mean ** (step / 10)
        s = (s / (s.max() * s.min()).sqrt()).half().float()
        rounded = round_to_nearest.quantize(weight * s, bits=3, group=32).dense() / s
        losses.append(float(((weight - rounded) @ x.T).square().sum()))
    assert alpha == losses.index(min(losses)) / 10
    assert scale.max() * scale.min() == pytest.approx(1, rel=2e-3)
    assert torch.equal(group.readers[0].weight, weight)  # the search leaves no trace


def test_the_clip_is_the_best_of_its_grid():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 64, generator=generator) ** 3
    x = torch.randn(200, 64, generator=generator)
    best = awq.clip_search(weight, x.T @ x, bits=3, group=32, symmetric=False)
    for row, part in itertools.product(range(5), range(2)):
        w, own = weight[row : row + 1, 32 * part : 32 * part + 32], x[:, 32 * part : 32 * part + 32]
        costs = []
        for step in range(10):
            top = w.abs().max() * (1 - 0.05 * step)
            q = round_to_nearest.quantize(w.clamp(-top, top), bits=3).dense()
            costs.append(float(((q - w) @ own.T).square().sum()))
        assert best[row, part].item() == pytest.approx(float(w.abs().max()) * (1 - 0.05 * costs.index(min(costs))))


@pytest.mark.parametrize(("params", "says"), [({"steps": 0}, "steps=0"), ({"group": 60}, "group=60")])
def test_refusals(params, says):
    with pytest.raises(ValueError, match=says):
        apply({"transform": awq.transform}, params, model=llama(), calibration=BATCHES)
