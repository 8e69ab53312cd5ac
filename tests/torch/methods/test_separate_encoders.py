"""Separate encoders: at first they say what the network says, each is trained by its own width alone."""

import copy
from typing import Any

import objective_settings
import pytest
import torch
import torch.nn.functional as F

from paperlab.methods.elastic.separate_encoders import Apart, Objective


def test_untrained_they_are_the_network_at_each_width() -> None:
    network: Any = objective_settings.slimmable().model
    images, apart = torch.randn(3, 1, 8, 8), Apart(network)
    assert torch.equal(apart(images), network(images))
    assert apart.widths == [0.25, 0.5, 0.75, 1.0]
    for width in apart.widths:
        for head in (0.25, 1.0):
            wanted = network.read(network.encode(images, width), 1, head)
            assert torch.equal(apart.read(apart.encode(images, width), 1, head), wanted)


def test_each_width_is_read_by_its_own_network() -> None:
    apart, images = Apart(objective_settings.slimmable().model), torch.randn(3, 1, 8, 8)
    before = [apart.read(apart.encode(images, width), 0) for width in apart.widths]
    with torch.no_grad():
        for parameter in apart.networks[1].parameters():
            parameter.fill_(torch.nan)
    after = [apart.read(apart.encode(images, width), 0) for width in apart.widths]
    assert [bool(one.isnan().any()) for one in after] == [False, True, False, False]
    assert all(torch.equal(one, other) for one, other in zip(before[2:], after[2:], strict=True))


def test_the_gradient_of_a_network_is_that_of_its_width_alone() -> None:
    setting = objective_settings.slimmable()
    inputs, labels = next(setting.batches(0))
    objective = Objective(setting.model, setting)
    objective(inputs, labels, 0.0).backward()
    for width, trained in zip(objective.networks.widths, objective.networks.networks, strict=True):
        alone: Any = copy.deepcopy(setting.model)
        loss = torch.zeros(())
        for head in (0.25, 0.5, 0.75, 1.0):
            for task in range(2):
                logits = alone.read(alone.encode(inputs["images"], width), task, head)
                loss = loss + F.cross_entropy(logits, labels[:, task])
        loss.backward()
        for got, want in zip(trained.parameters(), alone.parameters(), strict=True):
            assert got.grad is not None
            torch.testing.assert_close(got.grad, want.grad)


def test_what_cannot_be_is_refused() -> None:
    images = objective_settings.convolutional()
    with pytest.raises(ValueError, match="run at several widths"):
        Objective(images.model, images)
