"""Training from scratch: put a method's part into the task's small network and train it like every other arm.

A method brings one part of a network or of its training (VERBS), or several at once; the task's own stand
everywhere else
(`paperlab.kit.training.PARTS`). Everything else is equal between arms: initial weights, order of examples, dropout
masks,
number of steps, and tuning: each arm tries the setting's learning rates on the first seed and keeps the one that is
best on validation data. A layer that should act only once training is over looks at `self.training`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from paperlab.core.methods import Method
from paperlab.kit.training import PARTS, Setting, Trained, fit
from paperlab.lab.drivers._common import Progress, in_order, silent
from paperlab.lab.drivers._rates import best_rate

SAYS = "trains a small network from scratch with the method's part in it"
BUILDS = "Trained"
STARTS_FROM = ()
DRAWS = True  # initial weights, order of examples, dropout: from the seed, whatever a method asks for

VERBS = {
    "linear": {
        "says": "every linear layer of the network: (…, in_features) -> (…, out_features)",
        "supplies": ("in_features", "out_features", "bias"),
        "data": (),
        "returns": ("Module", "Linear"),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
layer = {variable}(64, 128, True)  # in place of torch.nn.Linear(64, 128)""",
    },
    "norm": {
        "says": "every normalisation: (…, width) -> (…, width)",
        "supplies": ("width",),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
layer = {variable}(64)  # in place of torch.nn.LayerNorm(64)""",
    },
    "activation": {
        "says": "every activation: any shape -> the same",
        "supplies": (),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
layer = {variable}()  # in place of torch.nn.GELU()""",
    },
    "attention": {
        "says": "what mixes positions: (batch, time, width) -> the same, causal",
        "supplies": ("width", "heads"),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
layer = {variable}(64, 4)  # 64 wide, 4 heads: (batch, time, 64) -> (batch, time, 64)""",
    },
    "feed_forward": {
        "says": "what follows attention in a block: (…, width) -> (…, width), about `inner` wide inside",
        "supplies": ("width", "inner"),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
layer = {variable}(64, 256)  # (…, 64) -> (…, 64)""",
    },
    "block": {
        "says": "a whole block of the network: (batch, time, width) -> the same, causal",
        "supplies": ("width", "heads", "inner"),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
layer = {variable}(64, 4, 256)  # (batch, time, 64) -> (batch, time, 64)""",
    },
    "network": {
        "says": "the whole network: (batch, time) token ids -> (batch, time, vocabulary) logits, causal",
        "supplies": ("vocabulary", "width", "heads", "layers", "length"),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
network = {variable}(256, 64, 4, 4, 128)  # bytes, 64 wide, 4 heads, 4 layers, 128 positions""",
    },
    "loss": {
        "says": "what is minimised: logits (n, classes), labels (n,) -> a scalar",
        "supplies": ("logits", "labels"),
        "data": (),
        "returns": ("Tensor",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
value = {variable}(logits, labels)  # in place of torch.nn.functional.cross_entropy""",
    },
    "rate": {
        "says": "the schedule: share of the peak learning rate at a step of so many",
        "supplies": ("step", "steps"),
        "data": (),
        "returns": ("float",),
        "own_model": False,
        "snippet": """\
import paperlab
import torch

{variable} = paperlab.load("{slug}"{arguments})
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, {variable}(1000))  # over 1,000 steps""",
    },
    "init": {
        "says": "changes the fresh network's weights in place",
        "supplies": ("network",),
        "data": (),
        "returns": ("None",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
{variable}(model)  # sets the weights of your own module""",
    },
    "optimizer": {
        "says": "a torch optimizer of the network's parameters",
        "supplies": ("parameters", "learning_rate"),
        "data": (),
        "returns": ("Optimizer",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
optimizer = {variable}(model.parameters(), 1e-3)  # in place of torch.optim.AdamW""",
    },
}


def _parts(functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The network's parts, the method's among them with its parameters set."""
    return PARTS | _bound(functions, params)


def _bound(functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The method's verbs with their parameters set, to be called with what VERBS supplies, in that order."""
    return {verb: in_order(function, params, VERBS[verb]) for verb, function in functions.items()}


def tune(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """{"rate": the learning rate that is best on validation data, "validation": figure by rate}.

    Run once per arm, on the first seed; a tie goes to the smaller rate. Raises ValueError for a setting without rates.
    """

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
) -> Trained:
    """An arm of a check: the task's network with the method's part, trained at the learning rate that `tune` chose
    (chosen here, on this seed, where none is given). The global random state is left as it was."""
    if tuned is None:
        tuned = tune(functions, params, setting=setting, seed=seed, progress=progress)
    network, steps = _train(functions, params, setting, tuned["rate"], seed)
    progress("training", 1, 1)
    return Trained(network, tuned["rate"], dict(tuned["validation"]), steps)


def _train(
    functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any], setting: Setting, rate: float, seed: int
) -> tuple[torch.nn.Module, int]:
    """A fresh network, trained; and the number of steps."""
    parts = _parts(functions, params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = setting.network(parts)
        if "init" in functions:
            parts["init"](network)
        return network, fit(network, setting, parts, rate=rate, seed=seed)


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """The method's part with its parameters set: a module's factory, a loss, an optimizer, or, for `rate`, a function
    from the number of steps to what LambdaLR takes. Of several parts: a dict of them by verb."""
    made = _bound(functions, params)
    if "rate" in made:
        part = made["rate"]

        def over(steps: int) -> Callable[[int], float]:
            """The schedule over `steps` steps, as LambdaLR takes it; it stays at its end afterwards."""
            return lambda step: float(part(min(step, steps), steps))

        made["rate"] = over
    return made[method.verbs[0]] if len(made) == 1 else made  # type: ignore[return-value]
