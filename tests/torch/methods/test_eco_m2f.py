"""ECO-M2F: the loss image by image in double precision, depths worked by hand, what other choices have in common."""

import copy
from typing import Any

import objective_settings
import pytest
import torch
from torch import Tensor, nn

from paperlab.methods.elastic.eco_m2f import Gated, Objective, best_depth, two_nearest, within


def test_each_image_is_left_after_its_own_layer_and_weighs_as_its_number() -> None:
    setting = objective_settings.layered()
    network: Any = setting.model.double()
    images, labels = setting.test.inputs[0][:9].double(), setting.test.labels[:9]
    objective = Objective(network, setting)
    torch.manual_seed(4)
    found = objective({"images": images}, labels, 0.0)
    torch.manual_seed(4)
    depths = torch.randint(1, 4, (9,)).tolist()
    assert set(depths) == {1, 2, 3}
    wanted = torch.zeros((), dtype=torch.double)
    for image, label, depth in zip(images.split(1), labels.split(1), depths, strict=True):
        hidden, pixels = network.embed(image)
        for layer in network.layers[:depth]:
            hidden = layer(hidden)
        logits = network.decode(hidden, pixels)[0].flatten(1).T
        each = -logits.log_softmax(-1).gather(1, label.flatten()[:, None])[:, 0]
        wanted = wanted + depth / 3 * (each * (0.2 + 0.8 * (label.flatten() > 0))).mean() / 9
    torch.testing.assert_close(found, wanted)
    parameters = list(objective.parameters())
    for got, want in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(got, want)


def test_the_best_depth_worked_by_hand() -> None:
    quality = torch.tensor([[0.5, 0.54, 0.6], [0.5, 0.5, 0.5], [0.2, 0.6, 0.65]], dtype=torch.double)
    assert best_depth(quality, 0.0).tolist() == [2, 0, 2]
    assert best_depth(quality, 0.045).tolist() == [2, 0, 2]
    assert best_depth(quality, 0.06).tolist() == [0, 0, 1]
    assert best_depth(quality, 0.5).tolist() == [0, 0, 0]


class Brightness:
    """A setting in which bright images are best after the third layer, dark ones after the first."""

    def __init__(self) -> None:
        setting = objective_settings.layered()
        bright = torch.arange(24) % 2
        images = setting.train.inputs[0] * 0.1 + 2.0 * bright[:, None, None, None]
        self.model, self.images, self.bright, self.calls = setting.model, images, bright, 0
        self.train = type(setting.train)((images,), bright[:, None, None].expand(24, 20, 20))
        self.loss = setting.loss

    def quality(self, logits: Tensor, labels: Tensor) -> Tensor:
        depth = self.calls % 3
        self.calls += 1
        return torch.where(labels[:, 0, 0] == 1, depth / 2, 1 - depth / 2).double()


def test_the_gate_learns_which_images_need_more_layers_and_nothing_else_changes() -> None:
    setting = Brightness()
    before = copy.deepcopy(setting.model.state_dict())
    network: Any = Objective(setting.model, setting).result()
    assert network.policy(setting.images).argmax(1).tolist() == (2 * setting.bright).tolist()
    dear: Any = Objective(setting.model, setting, beta=2.0).result()  # another balance: the gate alone is new
    assert dear.policy(setting.images).argmax(1).tolist() == [0] * 24
    assert all(torch.equal(before[name], tensor) for name, tensor in setting.model.state_dict().items())
    logits = network(setting.images)
    hidden, pixels = setting.model.embed(setting.images)
    one = setting.model.layers[0](hidden)
    torch.testing.assert_close(logits[::2], setting.model.decode(one, pixels)[::2])
    torch.testing.assert_close(logits[1::2], setting.model(setting.images)[1::2])


def test_the_least_beta_that_keeps_within_a_number_of_layers() -> None:
    kind = torch.arange(60) % 3
    features = torch.eye(3)[kind]
    gains = torch.tensor([0.3, 0.1, 0.02], dtype=torch.double)[kind]  # of each further layer, by kind of image
    quality = 0.2 + gains[:, None] * torch.arange(3)

    def taken(most: float) -> list[int]:
        return (within(features, quality, most)(features).argmax(1)[:3] + 1).tolist()

    assert taken(3.0) == [3, 3, 3]
    assert taken(2.9) == [3, 3, 1]  # 7 / 3 layers: a beta between 0.02 and 0.1
    assert taken(2.0) == [3, 1, 1]
    assert taken(1.0) == [1, 1, 1]


def test_layers_that_are_asked_for_are_kept_to_on_the_training_scenes() -> None:
    setting = Brightness()
    network: Any = Objective(setting.model, setting, beta=0.0, layers=1.5).result()
    assert network.policy(setting.images).argmax(1).double().mean() + 1 <= 1.5


def gated(choose: str) -> tuple[Gated, Tensor]:
    """An untrained network with a gate that uses all three depths."""
    setting = objective_settings.layered()
    torch.manual_seed(2)
    gate = nn.Linear(8, 3)
    images = setting.test.inputs[0]
    with torch.no_grad():
        gate.weight.mul_(20)
        gate.bias.sub_(gate(setting.model.embed(images)[0].mean((2, 3))).mean(0))
    return Gated(setting.model, gate, choose), images


def test_all_choices_take_as_many_layers_as_the_gate() -> None:
    network, images = gated("gate")
    gate, layers = network.policy(images), torch.arange(3.0, dtype=torch.double)
    assert ((gate == 0) | (gate == 1)).all()
    assert (gate.sum(0) > 0).all()
    found = {choose: gated(choose)[0].policy(images) for choose in ("fixed", "random", "confidence", "agreement")}
    for shares in found.values():
        torch.testing.assert_close(shares.sum(1), torch.ones(24, dtype=torch.double))
    mean = (gate @ layers).mean().item()
    for choose in ("fixed", "random"):
        assert (found[choose] @ layers).mean().item() == pytest.approx(mean)
        assert (found[choose] == found[choose][0]).all()  # no image is treated differently
    torch.testing.assert_close(found["random"].sum(0), gate.sum(0))
    assert (found["fixed"][0] > 0).sum() <= 2
    for choose in ("confidence", "agreement"):
        assert (found[choose] @ layers).mean().item() <= max(mean, 1.0)


def test_shares_of_two_depths_worked_by_hand() -> None:
    assert two_nearest(1.25, 4).tolist() == [0, 0.75, 0.25, 0]
    assert two_nearest(3.0, 4).tolist() == [0, 0, 0, 1]


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.layered()
    with pytest.raises(ValueError, match="share a decoder"):
        Objective(images.model, images)
    with pytest.raises(ValueError, match="costs nothing or more"):
        Objective(setting.model, setting, beta=-0.1)
    with pytest.raises(ValueError, match="at least 1"):
        Objective(setting.model, setting, layers=0.5)
