"""ACT: halting worked by hand, the equations one example at a time in double precision, gradients, properties."""

import math

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.methods.elastic.adaptive_computation_time import Objective, Pondering
from paperlab.tasks.synthetic import Recurrent


class Counter(nn.Module):
    """A state that counts its steps; the output is the state: what is averaged is known."""

    width = 1
    head = nn.Identity()

    def step(self, x: Tensor, state: Tensor, new: bool) -> Tensor:
        return state + 1


def constant_halting(probability: float, epsilon: float = 0.01, most: int = 20) -> Pondering:
    network = Pondering(Counter(), epsilon, most, 0.0)
    nn.init.zeros_(network.halt.weight)
    nn.init.constant_(network.halt.bias, math.log(probability / (1 - probability)))
    return network


def test_halting_worked_by_hand() -> None:
    logits, steps, remainder = constant_halting(0.4).ponder(torch.zeros(2, 3))
    assert steps.tolist() == [3, 3]  # 0.4, 0.8, 1.2
    assert remainder.tolist() == pytest.approx([0.2, 0.2])
    assert logits[:, 0].tolist() == pytest.approx([0.4 * 1 + 0.4 * 2 + 0.2 * 3] * 2)


def test_epsilon_lets_it_halt_after_one_step_and_the_limit_after_so_many() -> None:
    _, steps, remainder = constant_halting(0.991).ponder(torch.zeros(1, 3))
    assert (steps.item(), remainder.item()) == (1, 1)
    assert constant_halting(0.98).ponder(torch.zeros(1, 3))[1].item() == 2
    logits, steps, remainder = constant_halting(0.1, most=3).ponder(torch.zeros(1, 3))
    assert steps.item() == 3
    assert remainder.item() == pytest.approx(0.8)
    assert logits.item() == pytest.approx(0.1 * 1 + 0.1 * 2 + 0.8 * 3)


def one_by_one(network: Pondering, x: Tensor, penalty: float, label: int) -> tuple[Tensor, int, Tensor]:
    """Equations 3 to 13 for one example, as they stand."""
    model, state = network.model, torch.zeros(1, network.model.width, dtype=x.dtype)
    halts, outputs = list[Tensor](), list[Tensor]()
    while True:
        state = model.step(x[None], state, not halts)
        halts.append(torch.sigmoid(network.halt(state))[0, 0])
        outputs.append(model.head(state)[0])
        if sum(h.item() for h in halts) >= 1 - network.epsilon or len(halts) == network.most:
            break
    remainder = 1 - sum(halts[:-1], torch.zeros((), dtype=x.dtype))
    logits = sum((p * y for p, y in zip([*halts[:-1], remainder], outputs, strict=True)), torch.zeros(()))
    loss = F.cross_entropy(logits[None], torch.tensor([label])) + penalty * (len(halts) + remainder)
    return loss, len(halts), remainder


def test_a_batch_is_its_examples_one_by_one_with_their_gradients() -> None:
    torch.manual_seed(0)
    objective = Objective(Recurrent(4, 5, 2).double(), None, penalty=0.1, bias=-1.0).double()
    nn.init.normal_(objective.network.halt.weight, std=2.0)
    x, labels = torch.randn(12, 4, dtype=torch.double) * 2, torch.arange(12) % 2
    value = objective({"x": x}, labels, 0.0)
    found = [one_by_one(objective.network, row, 0.1, int(label)) for row, label in zip(x, labels, strict=True)]
    wanted = torch.stack([loss for loss, _, _ in found]).mean()
    assert len({steps for _, steps, _ in found}) > 1
    assert objective.network.inner_steps(x).tolist() == [steps for _, steps, _ in found]
    torch.testing.assert_close(value, wanted)
    parameters = list(objective.parameters())
    for got, want in zip(torch.autograd.grad(value, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(got, want)


def test_weights_of_the_steps_sum_to_one() -> None:
    torch.manual_seed(0)
    network = Pondering(Recurrent(4, 5, 2), 0.01, 20, 0.0)
    nn.init.zeros_(network.model.head.weight)
    nn.init.ones_(network.model.head.bias)
    torch.testing.assert_close(network(torch.randn(50, 4)), torch.ones(50, 2))


def test_a_halting_unit_that_always_fires_leaves_the_plain_network() -> None:
    setting = objective_settings.recurrent()
    network = Objective(setting.model, setting, bias=50.0).result()
    x = setting.test.inputs[0]
    torch.testing.assert_close(network(x), setting.model(x))


def test_what_cannot_be_is_refused() -> None:
    images = objective_settings.convolutional()
    with pytest.raises(ValueError, match="repeats a recurrent network's step"):
        Objective(images.model, images)
    setting = objective_settings.recurrent()
    for wrong in ({"penalty": -1.0}, {"epsilon": 1.0}, {"most": 0}):
        with pytest.raises(ValueError, match="at least"):
            Objective(setting.model, setting, **wrong)
