"""Fixed inner steps: one is the plain network; more feed the state back with the flag down."""

import objective_settings
import pytest
import torch

from paperlab.methods.elastic.fixed_steps import Objective, Repeated


def test_one_step_is_the_plain_network() -> None:
    setting = objective_settings.recurrent()
    x = setting.test.inputs[0]
    network = Objective(setting.model, setting).result()
    assert torch.equal(network(x), setting.model(x))
    assert Repeated(setting.model, 3).inner_steps(x).tolist() == [3] * len(x)


def test_three_steps_worked_out() -> None:
    setting = objective_settings.recurrent()
    model, x = setting.model, setting.test.inputs[0]
    first, again = (torch.cat([x, torch.full((len(x), 1), flag)], 1) for flag in (1.0, 0.0))
    state = torch.tanh(model.input(first))
    for _ in range(2):
        state = torch.tanh(model.input(again) + state @ model.recurrent.weight.T)
    torch.testing.assert_close(Objective(model, setting, inner=3).result()(x), model.head(state))


def test_what_cannot_be_is_refused() -> None:
    setting, images = objective_settings.recurrent(), objective_settings.convolutional()
    with pytest.raises(ValueError, match="at least one step"):
        Objective(setting.model, setting, inner=0)
    with pytest.raises(ValueError, match="repeats a recurrent network's step"):
        Objective(images.model, images)
