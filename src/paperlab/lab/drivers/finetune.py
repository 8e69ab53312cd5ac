"""Fine-tuning a finished model with a method's loss, its adapters, or a recipe of its own.

Everything else is equal between arms: the model that they start from (the task's, or what the arm before left), the
order of examples, the number of steps, and tuning: each arm tries the setting's learning rates on the first seed.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from paperlab.core.methods import Method
from paperlab.kit.compressed import Compressed
from paperlab.kit.matrix import Dense, Matrix, Sparse
from paperlab.kit.tuning import Setting, Tuned, cross_entropy, fit
from paperlab.kit.walk import block_linears
from paperlab.lab.drivers._common import Progress, in_order, silent, supplied, takes
from paperlab.lab.drivers._rates import best_rate

SAYS = "trains a finished model further"
BUILDS = "Tuned"
STARTS_FROM = ("Compressed", "Tuned", "Merged")
DRAWS = True  # the order of examples comes from the seed, whatever a method asks for

VERBS = {
    "loss": {
        "says": "what is minimised, a scalar: of student and teacher logits (n, classes), labels (n,), hidden states "
        "of both (what enters the blocks, then what each leaves: (batch, time, width)), mask (batch, time; 0 is "
        "padding) and share (of the training that is done, 0 to 1)",
        "supplies": ("student", "teacher", "labels", "student_hidden", "teacher_hidden", "mask", "share"),
        "data": (),
        "returns": ("Tensor",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
value = {variable}(student_logits, teacher_logits, labels, student_hidden, teacher_hidden, mask, share)""",
    },
    "adapter": {
        "says": "called for each linear layer of the blocks: a module with trainable parts in its place",
        "supplies": ("linear",),
        "data": (),
        "returns": ("Module",),
        "own_model": True,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
adapted = {variable}(model)  # a copy; only what the adapters add is trainable""",
    },
    "recipe": {
        "says": "trains the copy that it is given, in stages of its own, at the learning rate that the driver tries; "
        "gives back the model, or with it what is stored of it (Compressed) or the steps that it took (Tuned)",
        "supplies": ("model", "setting", "seed", "rate"),
        "data": (),
        "returns": ("Module", "Compressed", "Tuned"),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
tuned = {variable}(model, setting, 0, 1e-3)  # setting: batches(seed), steps, rates, teacher, validate(model)""",
    },
}


def tune(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    start: Any = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """{"rate": the learning rate that is best on validation data, "validation": figure by rate}; the first seed's."""

    def figure(rate: float) -> float:
        return setting.validate(_train(functions, params, setting, rate, seed, start).model)

    return best_rate(setting.rates, figure, progress)


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    start: Any = None,
    progress: Progress = silent,
    tuned: Mapping[str, Any] | None = None,
) -> Tuned:
    """An arm of a check: a copy of the start, trained at the learning rate that `tune` chose.

    A model that was pruned before stays pruned: its zeros are put back after each step.
    """
    if tuned is None:
        tuned = tune(functions, params, setting=setting, seed=seed, start=start, progress=progress)
    made = _train(functions, params, setting, tuned["rate"], seed, start)
    progress("training", 1, 1)
    stored = made.compressed if made.compressed is not None else stored_after(start, made.model)
    return replace(made, rate=tuned["rate"], validation=dict(tuned["validation"]), compressed=stored)


def stored_after(start: Any, model: nn.Module) -> Compressed | None:
    """What is stored of a compressed model once it was trained: masks stay, with the weights as they are now; what was
    coded or factored otherwise is dense again, and counted so. None where nothing was compressed."""
    before = start.compressed if isinstance(start, Tuned) else start
    if not isinstance(before, Compressed):
        return None
    modules, layers = dict(model.named_modules()), dict[str, Matrix]()
    for name, layer in before.layers.items():
        weight = getattr(modules.get(name), "weight", None)
        if isinstance(layer, Sparse) and weight is not None:
            layers[name] = Sparse(layer.mask, Dense(weight.detach().clone()))
    return Compressed(model, layers, before.weights, dict(before.added), {}, before.cache_bits, before.removed)


def _train(
    functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any], setting: Setting, rate: float, seed: int,
    start: Any,
) -> Tuned:  # fmt: skip
    """The trained copy, with the steps taken and the number of parameters that were trained."""
    model = copy.deepcopy(start.model if start is not None else setting.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "adapter" in functions:
            adapt(model, _bound(functions, params)["adapter"])
        handles = keep_zeros(model, start)
        if "recipe" in functions:
            made = _as_tuned(_bound(functions, params)["recipe"](model, setting, seed, rate), setting)
        else:
            loss, asks = cross_entropy, supplied(cross_entropy)
            if "loss" in functions:
                loss, asks = _bound(functions, params)["loss"], supplied(functions["loss"])
            made = Tuned(model, rate, {}, *fit(model, setting, loss, rate=rate, seed=seed, asks=asks))
        for handle in handles:
            handle()
        return made


def _as_tuned(made: Any, setting: Setting) -> Tuned:
    """What a recipe gave back, with the setting's steps where it does not say how many it took."""
    if isinstance(made, Tuned):
        made.model.eval()
        return made
    compressed = made if isinstance(made, Compressed) else None
    model = compressed.model if compressed is not None else made
    takes(model, nn.Module, "recipe")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Tuned(model.eval(), 0.0, {}, setting.steps, trained, compressed)


def _bound(functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The method's verbs with their parameters set, to be called with what VERBS supplies, in that order."""
    return {verb: in_order(function, params, VERBS[verb]) for verb, function in functions.items()}


def keep_zeros(model: nn.Module, start: Any) -> list[Callable[[], None]]:
    """Hold the weights that a mask left out at zero while the model is trained: their gradients are zeroed, so that
    AdamW without weight decay never moves them. Returns what ends it."""
    ends = []
    layers = getattr(getattr(start, "compressed", None) or start, "layers", {})
    modules = dict(model.named_modules())
    for name, layer in layers.items():
        mask = getattr(layer, "mask", None)
        if mask is not None and name in modules:
            ends.append(modules[name].weight.register_hook(lambda gradient, mask=mask: gradient * mask).remove)
    return ends


def adapt(model: nn.Module, adapter: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Put an adapter in place of each linear layer of the blocks; only what adapters mark as trainable is trained.

    An adapter holds the layer that it wraps. Parameters that were there before are frozen.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, layer in block_linears(model).items():
        parent, _, last = name.rpartition(".")
        made = adapter(layer)
        takes(made, nn.Module, "adapter")
        setattr(model.get_submodule(parent), last, made)
    return model


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """A loss callable for any training loop; for adapters, model -> a copy with adapters; for a recipe, the
    function."""
    made = _bound(functions, params)
    if "adapter" in made:
        adapter = made["adapter"]

        def adapted(model: nn.Module) -> nn.Module:
            return adapt(copy.deepcopy(model), adapter)

        made["adapter"] = adapted
    return made[method.verbs[0]] if len(made) == 1 else made  # type: ignore[return-value]
