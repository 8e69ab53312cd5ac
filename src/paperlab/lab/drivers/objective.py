"""Training a fresh network by an objective that may have layers of its own, and perhaps a teacher.

A method wraps the task's network in a module whose output is what is minimised. What it adds (a projection, a second
head, a gate) is trained along and dropped at the end, unless the module says what is left. Everything else is equal
between arms, and as in fine-tuning: where they start, the order of examples, the number of steps, the optimizer, and
tuning: each arm tries the setting's learning rates on the first seed.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.kit.tuning import Batch, Setting, Training, Tuned, cross_entropy
from paperlab.lab.drivers._common import Progress, in_order, silent, takes
from paperlab.lab.drivers._rates import best_rate

SAYS = "trains a fresh network by an objective that may have layers of its own"
BUILDS = "Tuned"
STARTS_FROM = ()
DRAWS = True  # the network, its added layers and the order of examples come from the seed

VERBS = {
    "objective": {
        "says": "a module around the fresh network: (inputs by name, labels, share of the training that is done) -> "
        "what is minimised; its method `result()`, where it has one, gives what is left after training",
        "supplies": ("model", "setting"),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
training = {variable}(model, setting)  # a module; setting: teacher, train, batches(seed)
loss = training(inputs, labels, share)  # share of the training that is done""",
    },
}


class _Training(Training):
    """The loop that all fine-tuning shares, with the module's own output for a loss."""

    def __init__(self, module: nn.Module, setting: Setting, *, rate: float, seed: int) -> None:
        super().__init__(module, setting, cross_entropy, rate=rate, seed=seed, asks=())

    def _loss(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        value = self.model(inputs, labels, share)
        takes(value, Tensor, "objective")
        return value


def tune(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    start: None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """{"rate": the learning rate that is best on validation data, "validation": figure by rate}; the first seed's."""

    def figure(rate: float) -> float:
        return setting.validate(_train(functions, params, setting, rate, seed)[0])

    return best_rate(setting.rates, figure, progress)


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    start: None = None,
    progress: Progress = silent,
    tuned: Mapping[str, Any] | None = None,
) -> Tuned:
    """An arm of a check: a copy of the setting's fresh network, trained at the learning rate that `tune` chose."""
    if tuned is None:
        tuned = tune(functions, params, setting=setting, seed=seed, progress=progress)
    model, trained = _train(functions, params, setting, tuned["rate"], seed)
    progress("training", 1, 1)
    return Tuned(model, tuned["rate"], dict(tuned["validation"]), setting.steps, trained)


def _train(
    functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any], setting: Setting, rate: float, seed: int
) -> tuple[nn.Module, int]:
    """What is left after training, and how many parameters were trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = copy.deepcopy(setting.model)
        module = in_order(functions["objective"], params, VERBS["objective"])(model, setting)
        takes(module, nn.Module, "objective")
        training = _Training(module, setting, rate=rate, seed=seed)
        for step in range(setting.steps):
            training.step(step / setting.steps)
        module.eval()
        left = module.result() if hasattr(module, "result") else model
        takes(left, nn.Module, "objective's result")
        return left.eval(), sum(parameter.numel() for parameter in training.parameters)


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """The objective with its parameters set: (model, setting) -> module."""
    return in_order(functions["objective"], params, VERBS["objective"])
