"""Fewer layers: all of them are the plain network, fewer are it without the upper ones."""

import copy
from typing import Any

import objective_settings
import pytest
import torch

from paperlab.methods.elastic.fewer_layers import Objective


def test_all_layers_are_the_plain_network_and_fewer_it_without_the_upper() -> None:
    setting = objective_settings.captioning()
    inputs, _ = next(setting.batches(0))
    plain = Objective(copy.deepcopy(setting.model), setting).result()
    assert torch.equal(plain(**inputs), setting.model(**inputs))
    cut: Any = Objective(copy.deepcopy(setting.model), setting, encoder=2, decoder=1).result()
    seen, read = setting.model.states(inputs["images"], inputs["text"])
    layer, memory = setting.model.decoder[0], setting.model.memory(seen[2], read[2])
    x = setting.model.word(inputs["words"])
    wanted = setting.model.speak(layer(x, layer.own(x), layer.cross.keys(memory), causal=True))
    torch.testing.assert_close(cut(**inputs), wanted)
    assert setting.time(setting.run(cut, "caption")) == pytest.approx(3 / 6)


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.captioning()
    with pytest.raises(ValueError, match="not both"):
        Objective(images.model, images)
    for wrong in ({"encoder": 4}, {"decoder": -1}):
        with pytest.raises(ValueError, match="3 such layers"):
            Objective(setting.model, setting, **wrong)
