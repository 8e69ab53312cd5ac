"""A fixed depth: all layers are the plain network, fewer are it without the last ones."""

import copy

import objective_settings
import pytest
import torch
from torch import nn

from paperlab.methods.elastic.fixed_depth import Objective


def test_all_layers_are_the_plain_network_and_fewer_it_without_the_last() -> None:
    setting = objective_settings.layered()
    images = setting.test.inputs[0]
    plain = Objective(setting.model, setting).result()
    assert torch.equal(plain(images), setting.model(images))
    cut = copy.deepcopy(setting.model)
    cut.layers = nn.ModuleList(list(cut.layers)[:2])  # type: ignore[arg-type]
    stopped = Objective(setting.model, setting, depth=2).result()
    assert torch.equal(stopped(images), cut(images))
    assert stopped.policy(images).tolist() == [[0, 1, 0]] * len(images)  # type: ignore[operator]


def test_layers_that_are_not_used_are_not_trained() -> None:
    setting = objective_settings.layered()
    objective = Objective(setting.model, setting, depth=1)
    objective(*next(setting.batches(0)), 0.0).backward()
    trained = [layer.convolution.weight.grad is not None for layer in setting.model.layers]  # type: ignore[union-attr]
    assert trained == [True, False, False]


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.layered()
    with pytest.raises(ValueError, match="share a decoder"):
        Objective(images.model, images)
    for depth in (-1, 4):
        with pytest.raises(ValueError, match="3 layers"):
            Objective(setting.model, setting, depth=depth)
