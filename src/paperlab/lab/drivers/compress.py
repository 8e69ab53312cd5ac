"""Compressing a finished model: walk it, gather what a method asks for, put what is stored in place of the weights.

The verbs and what they are supplied with are in VERBS. Statistics of a layer's inputs are those of
`paperlab.kit.stats`;
`error` is what the original weight has over the stored one: zero, unless the arm comes after another.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.core.signature import CALIBRATION
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.matrix import Dense, Factors, Matrix, Sparse, Sum
from paperlab.kit.opening import can_open, closed, opened
from paperlab.kit.stats import STATISTICS, gather
from paperlab.kit.walk import Batch, block_linears, linears, stacks, walk
from paperlab.lab.drivers._common import Progress, silent, supplied, takes

SAYS = "makes a finished model smaller"
BUILDS = "Compressed"
STARTS_FROM = ("Compressed",)

_STATISTICS = ("hessian", "input_norm", "input_absmean", "input_absmax", "input_min", "input_max", "inputs")
_LAYER = ("weight", "name", "seed", "error", *_STATISTICS)
_SNIPPET = """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
small = {variable}(model{calibration})
print(small.compressed.totals())"""

VERBS = {
    "quantize": {
        "says": "called for each linear layer of the blocks, in order; what it stores takes the weight's place",
        "supplies": _LAYER,
        "data": _STATISTICS,
        "returns": ("Quantized", "Sum", "Sparse", "Matrix"),
        "own_model": True,
        "snippet": _SNIPPET,
    },
    "keep": {
        "says": "called for each linear layer of the blocks: a bool mask of the weights to keep, or a sparse matrix",
        "supplies": _LAYER,
        "data": _STATISTICS,
        "returns": ("Tensor", "Sparse"),
        "own_model": True,
        "snippet": _SNIPPET,
    },
    "factor": {
        "says": "called for each linear layer of the blocks: two thin matrices; added to what is stored if it asks for "
        "`error`, else in the weight's place",
        "supplies": _LAYER,
        "data": _STATISTICS,
        "returns": ("Factors",),
        "own_model": True,
        "snippet": _SNIPPET,
    },
    "transform": {
        "says": "sees the whole model, a copy that it may change",
        "supplies": ("model", "calibration", "teacher", "seed"),
        "data": ("calibration",),
        "returns": ("Compressed",),
        "own_model": True,
        "snippet": _SNIPPET,
    },
    "submodel": {
        "says": "the model with fewer or narrower parts, cut from a copy that it may change",
        "supplies": ("model", "calibration", "seed"),
        "data": ("calibration",),
        "returns": ("Module",),
        "own_model": True,
        "snippet": _SNIPPET,
    },
}


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Any,
    seed: int = 0,
    start: Compressed | None = None,
    progress: Progress = silent,
) -> Compressed:
    """An arm of a check: `apply` to the task's model, or to what the arm before left, with the task's calibration data.

    The reserved parameter `calibration` names another calibration text of the task's and is not passed on.
    """
    inner = dict(params)
    named = inner.pop(CALIBRATION.name, None)
    calibration = setting.calibration_from(named) if named is not None else setting.calibration
    return apply(
        functions, inner, model=setting.model, calibration=calibration, seed=seed, start=start, progress=progress
    )


def apply(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    model: nn.Module,
    calibration: list[Batch],
    seed: int = 0,
    start: Compressed | None = None,
    progress: Progress = silent,
    disposable: bool = False,
) -> Compressed:
    """Apply a method's verb to a copy of `model`, which itself is never changed. Dropout is off, also in the result.

    start: what an earlier method made of `model`; it is what is changed further, in a copy. disposable: the caller
    needs
    `model` no more, so that no copy is made where the method can do without the original. The global random state is
    left as it was. Raises ValueError for a parameter that does not fit the model (a group that divides no row).
    """
    ((verb, function),) = functions.items()
    names = supplied(function)
    keep_original = start is None and (not disposable or "teacher" in names or "error" in names)
    own = copy.deepcopy(start.model if start else model) if start or keep_original else model
    opened(own.eval())
    if {"teacher", "error"} & set(names) and any(can_open(module) for module in model.modules()):
        model = opened(copy.deepcopy(model)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if verb in ("transform", "submodel"):
            made = _whole(verb, function, names, params, own, model, calibration, seed, start, progress)
        else:
            made = _layers(verb, function, names, params, own, model, calibration, seed, start, progress)
    closed(made.model)
    return made


def _whole(
    verb: str, function: Callable[..., Any], names: tuple[str, ...], params: Mapping[str, Any], own: nn.Module,
    original: nn.Module, calibration: list[Batch], seed: int, start: Compressed | None, progress: Progress,
) -> Compressed:  # fmt: skip
    """A verb that sees the whole model."""
    weights = start.weights if start else count_weights(original)
    teacher = original
    if "teacher" in names and any(module.training for module in original.modules()):
        teacher = copy.deepcopy(original).eval()
    available = {"model": own, "calibration": calibration, "teacher": teacher, "seed": seed}
    made = function(*(available[name] for name in names), **params)
    progress(verb, 1, 1)
    if verb == "submodel":
        takes(made, nn.Module, verb)
        names_left = {name for name, _ in made.named_modules()}
        layers = {name: layer for name, layer in (start.layers if start else {}).items() if name in names_left}
        return Compressed(
            made.eval(),
            layers,
            weights,
            added=dict(start.added) if start else {},
            removed=weights - count_weights(made),
        )
    takes(made, Compressed, verb)
    if start is None:
        return made
    layers = dict(start.layers)
    modules = dict(made.model.named_modules())
    for name, matrix in made.layers.items():
        layers[name] = _joined(start.layers.get(name), matrix)
        with torch.no_grad():
            modules[name].weight.copy_(layers[name].dense())
    made.layers, made.weights, made.removed = layers, weights, start.removed + made.removed
    made.added = {**start.added, **made.added}
    made.cache_bits = min(made.cache_bits, start.cache_bits)
    return made


REHEARSED = 2304  # columns of the layer that values are tried on; divisible by the usual group sizes
SURVIVE = 0.99  # share of the pruned weights that a later method must leave at zero for them to count as pruned


def _joined(before: Matrix | None, after: Matrix) -> Matrix:
    """What a layer stores after a whole-model method that was given `before`.

    A mask over `before` stores what `before` does, codes for instance, under both masks. Else weights that were pruned
    stay so, unless the method brought them back (a rotation does).
    """
    if before is None:
        return after
    if isinstance(after, Sparse):
        mask, values = (after.mask & before.mask, before.values) if isinstance(before, Sparse) else (after.mask, before)
        masked = Sparse(mask, values)
        return masked if torch.equal(masked.dense(), after.dense()) else after
    if not isinstance(before, Sparse):
        return after
    pruned = ~before.mask
    zero = int((after.dense()[pruned] == 0).sum())
    return Sparse(before.mask, after) if zero >= SURVIVE * int(pruned.sum()) else after


def _layers(
    verb: str, function: Callable[..., Any], names: tuple[str, ...], params: Mapping[str, Any], own: nn.Module,
    original: nn.Module, calibration: list[Batch], seed: int, start: Compressed | None, progress: Progress,
) -> Compressed:  # fmt: skip
    """A verb that is called for each linear layer of the blocks, each met by the error of those before it."""
    needs = set(names) & set(STATISTICS)
    before = dict(start.layers) if start else {}
    teachers = block_linears(original) if "error" in names else {}
    layers: dict[str, Matrix] = dict(before)
    total = sum(len(stack) for _, stack in stacks(own))
    if not needs:
        calibration = []  # nothing is asked of the data: the blocks need not be run
    for index, (stem, block, calls) in enumerate(walk(own, calibration)):
        inside = linears(block)
        statistics = gather(block, inside, calls, needs) if needs else {}
        for name, layer in inside.items():
            full = f"{stem}.{name}"
            weight = layer.weight.detach().float()
            available = {"weight": weight, "name": full, "seed": seed}
            if "error" in names:
                available["error"] = teachers[full].weight.detach().float() - weight
            asked = [available[n] if n in available else statistics[name](n) for n in names]
            made = function(*asked, **params)
            layers[full] = _stored(verb, made, weight, before.get(full), added="error" in names)
            with torch.no_grad():
                layer.weight.copy_(layers[full].dense())
        progress("blocks", index + 1, total)
    if start is None:
        return Compressed(own, layers, count_weights(original))
    return Compressed(own, layers, start.weights, dict(start.added), {}, start.cache_bits, start.removed)


def _stored(verb: str, made: Any, weight: Tensor, before: Matrix | None, *, added: bool) -> Matrix:
    """What a layer stores after a verb, given what it stored before. Raises TypeError for another kind of result."""
    if verb == "keep":
        if isinstance(made, Sparse):
            return Sparse(made.mask & before.mask, made.values) if isinstance(before, Sparse) else made
        takes(made, Tensor, verb)
        values = before if before is not None and not isinstance(before, Sparse) else None
        if isinstance(before, Sparse):
            made, values = made & before.mask, before.values
        return Sparse(made, values if values is not None else Dense(weight.clone()))
    if verb == "factor":
        takes(made, Factors, verb)
        return Sum((before if before is not None else Dense(weight.clone()), made)) if added else made
    takes(made, Matrix, verb)
    if isinstance(before, Sparse) and not isinstance(made, Sparse):
        return Sparse(before.mask, made)  # codes at pruned places are not stored
    return made


def rehearse(functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> None:
    """Call a layer's verb once on a small random layer, so that a value out of range is refused before any work.

    What sees the whole model is not tried. Raises ValueError as the method does; whatever else goes wrong on such a
    layer is left for the real one to say.
    """
    ((verb, function),) = functions.items()
    if verb not in ("quantize", "keep", "factor"):
        return
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, REHEARSED, generator=draw), torch.randn(64, REHEARSED, generator=draw)
    given = {
        "weight": weight, "name": "layer", "seed": 0, "error": 0.1 * weight, "hessian": 2 / len(x) * x.T @ x,
        "input_norm": x.norm(dim=0), "input_absmean": x.abs().mean(0), "input_absmax": x.abs().amax(0),
        "input_min": x.amin(0), "input_max": x.amax(0), "inputs": x,
    }  # fmt: skip
    inner = {name: value for name, value in params.items() if name != CALIBRATION.name}
    with torch.random.fork_rng(devices=[]), contextlib.suppress(RuntimeError, IndexError):
        function(*(given[name] for name in supplied(function)), **inner)


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """The method on a model of one's own; see `paperlab.lab.models`."""
    from paperlab.lab.models import on_own_model

    return on_own_model(method, functions, params)
