"""Uniform average: NumPy's mean, bit for bit for one model, and the same as task arithmetic with 1/n."""

import numpy as np
import torch

import paperlab
from paperlab.methods.merging import task_arithmetic
from paperlab.methods.merging.uniform_average import merge


def states(count: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(count)
    return [{"a": torch.randn(4, 3, generator=draw), "b": torch.randn(5, generator=draw)} for _ in range(count)]


def test_it_is_numpy_s_mean() -> None:
    base, *models = states(4)
    merged = paperlab.load("uniform-average")(base, models)
    for name in base:
        wanted = np.mean([model[name].numpy().astype(np.float64) for model in models], axis=0)
        np.testing.assert_allclose(merged[name].numpy(), wanted, rtol=1e-6, atol=1e-7)


def test_the_average_of_one_model_is_that_model() -> None:
    base, model = states(2)
    assert all(torch.equal(tensor, model[name]) for name, tensor in merge([model]))
    merged = paperlab.load("uniform-average")(base, [model] * 3)
    for name in base:
        torch.testing.assert_close(merged[name], model[name])


def test_it_is_task_arithmetic_with_one_nth() -> None:
    base, *models = states(6)
    for (name, mine), (other, theirs) in zip(
        merge(models), task_arithmetic.merge(base, models, scale=0.2), strict=True
    ):
        assert name == other
        torch.testing.assert_close(mine, theirs)
