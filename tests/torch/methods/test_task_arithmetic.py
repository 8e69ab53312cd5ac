"""Task arithmetic: by hand, its two ends, the factor without validation data."""

import pytest
import torch

import paperlab
from paperlab.methods.merging.task_arithmetic import UNTUNED, merge

BASE = {"w": torch.tensor([1.0, 2.0, 3.0])}
MODELS = [{"w": torch.tensor([1.5, 2.0, 1.0])}, {"w": torch.tensor([2.0, 2.5, 3.0])}]


def test_by_hand() -> None:
    ((name, merged),) = merge(BASE, MODELS, scale=0.5)
    assert name == "w"
    assert merged.tolist() == [1.75, 2.25, 2.0]  # 1 + (.5 + 1) / 2, 2 + (0 + .5) / 2, 3 + (-2 + 0) / 2


def test_nothing_added_and_one_model_whole() -> None:
    assert paperlab.load("task-arithmetic", scale=0.0)(BASE, MODELS)["w"].tolist() == BASE["w"].tolist()
    assert paperlab.load("task-arithmetic", scale=1.0)(BASE, MODELS[:1])["w"].tolist() == MODELS[0]["w"].tolist()


def test_without_a_factor_it_is_the_untuned_one() -> None:
    (_, plain), (_, named) = *merge(BASE, MODELS), *merge(BASE, MODELS, scale=UNTUNED)
    assert torch.equal(plain, named)


def test_models_of_another_shape_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"w is \(2,\) in model 1, \(3,\) in the base"):
        paperlab.load("task-arithmetic")(BASE, [{"w": torch.zeros(2)}])
