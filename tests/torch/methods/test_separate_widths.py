"""Networks trained alone: trained together they are what each is by itself; they begin as their width does."""

import copy

import pytest
import torch
from objective_settings import nested
from torch import nn

from paperlab.kit.networks import FeedForward
from paperlab.lab.drivers.objective import build
from paperlab.methods.elastic.separate_widths import Family, Objective

TUNED = {"rate": 1e-2, "validation": {}}


def test_a_family_is_its_members_trained_alone() -> None:
    setting = nested()
    ids = setting.test[:2, :-1]
    both = build({"objective": Objective}, {"sizes": "0.125,1"}, setting=setting, seed=3, tuned=TUNED).model
    for text, size in (("1", (1.0, 1.0)), ("0.125", (0.125, 0.125))):
        alone = build({"objective": Objective}, {"sizes": text}, setting=setting, seed=3, tuned=TUNED).model
        torch.testing.assert_close(both.at(size)(ids), alone.at(size)(ids))  # type: ignore[operator]
    assert both.sizes == ((1.0, 1.0), (0.125, 0.125))
    torch.testing.assert_close(both(ids), both.at((1.0, 1.0))(ids))  # type: ignore[operator]
    cut = both.networks[0].at((0.5, 0.5))(ids)  # type: ignore[index, union-attr]
    torch.testing.assert_close(both.at((0.5, 0.5))(ids), cut)  # type: ignore[operator]


def test_units_that_were_not_trained_have_no_part() -> None:
    """Asked for another width, the widest is cut, and where it is no larger it works as it is."""
    setting = nested()
    ids = setting.test[:2, :-1]
    made = build({"objective": Objective}, {"sizes": "0.25"}, setting=setting, seed=3, tuned=TUNED).model
    own = made.at((0.25, 0.25))(ids)  # type: ignore[operator]
    for size in ((1.0, 1.0), (0.5, 0.25), (0.125, 0.375)):
        assert torch.equal(made.at(size)(ids), own)  # type: ignore[operator]
    cut = made.at((0.125, 0.25))(ids)  # type: ignore[operator]
    assert not torch.allclose(cut, own)
    assert torch.equal(made.at((0.125, 0.3))(ids), cut)  # type: ignore[operator]
    assert torch.equal(made.networks[0].at((0.125, 0.25))(ids), cut)  # type: ignore[index, union-attr]


def test_one_a_step_trains_each_as_often() -> None:
    """In a step of one network the others get no gradient; which one is drawn evenly, those of one size too."""
    setting = nested()
    inputs, labels = next(setting.batches(0))
    module = Objective(setting.model, setting, sizes="1,0.25,0.25,0.125", per_step="one")
    torch.manual_seed(0)
    counts = [0] * 4
    for _ in range(120):
        module.zero_grad(set_to_none=True)
        module(inputs, labels, 0.0).backward()
        trained = [next(network.parameters()).grad is not None for network in module.family.networks]
        assert sum(trained) == 1
        counts[trained.index(True)] += 1
    assert all(12 < count < 48 for count in counts)
    assert (module.family.passes, Family(setting.model, module.family.sizes).passes) == (1, 4)


def test_first_weights_have_the_size_that_is_usual_for_the_width() -> None:
    model = copy.deepcopy(nested().model)
    family = Family(model, ((0.25, 0.25), (1.0, 1.0)))
    for network, units in zip(family.networks, (16, 4), strict=True):
        assert isinstance(network, nn.Module)
        torch.manual_seed(0)
        usual = max(FeedForward(16, units).get_parameter("down.weight").abs().max().item() for _ in range(20))
        for layer in network.layers:  # type: ignore[union-attr]
            weight = layer.get_parameter("down.weight")[:, :units].abs()
            assert weight.max().item() == pytest.approx(usual, rel=0.1)
            assert (weight <= units**-0.5 + 1e-6).all()


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="can be cut"):
        Objective(nn.Linear(2, 2), None)
