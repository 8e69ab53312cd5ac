"""Merging several models that began as one: their weights go in, one model's weights come out, tensor by tensor.

Tuning is equal between arms: a method with a parameter `scale` that the arm does not set tries the setting's factors
and keeps the one that is best on validation data. That is done for every seed, as its models are others; a merge costs
next to nothing.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.kit.merging import Judge, Merged, check_alike
from paperlab.lab.checkpoints import Folder, check_models, check_out, write_model
from paperlab.lab.drivers._common import Progress, keywords, silent, supplied

SAYS = "makes one model of several that began as one"
BUILDS = "Merged"
STARTS_FROM = ()
DRAWS = True  # the models that are merged are those of the seed, whatever a method asks for

VERBS = {
    "merge": {
        "says": "base and models as mappings from name to tensor -> pairs of name and merged tensor, one by one",
        "supplies": ("base", "models", "seed"),
        "data": (),
        "returns": ("Iterator",),
        "own_model": True,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
merged = {variable}(base, [model_a, model_b])  # modules, state dicts, or folders (out=folder)""",
    },
    "choose": {
        "says": "as merge, with validate(state), higher being better, and distance(state), lower being better, which "
        "judge weights on held-out data; None where there is none",
        "supplies": ("base", "models", "seed", "validate", "distance"),
        "data": (),
        "returns": ("Iterator",),
        "own_model": True,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
merged = {variable}(base, [model_a, model_b], validate=score)  # score(model): on held-out data, higher is better""",
    },
}


def _function(functions: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The one of its two verbs that a method has."""
    return functions["merge"] if "merge" in functions else functions["choose"]


def _run(
    function: Callable[..., Any],
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    seed: int,
    validate: Judge | None = None,
    distance: Judge | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The merged tensors in the base's dtypes. Tensors that are no floating point numbers are the base's.

    Raises ValueError for models that are not alike, and for a method that leaves a tensor out or brings one of its own.
    """
    check_alike(base, models)
    available = {"base": base, "models": models, "seed": seed, "validate": validate, "distance": distance}
    waiting = set(base)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, tensor in function(*(available[n] for n in supplied(function))):
            if name not in waiting:
                raise ValueError(f"the method gave back {name!r}, which the base does not have or which it gave before")
            waiting.remove(name)
            original = base[name]
            yield name, tensor.to(original.dtype) if original.is_floating_point() else original
    if waiting:
        raise ValueError(f"the method left out {len(waiting)} tensors, {min(waiting)} first")


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Any,
    seed: int = 0,
    start: None = None,
    progress: Progress = silent,
) -> Merged:
    """An arm of a check: the setting's `base` and `models` (modules) merged into a copy of the base.

    The setting may offer `scales` to try and `validate(model)`, higher being better; a tie goes to the smaller factor.
    """
    scales = tuple(getattr(setting, "scales", ()))
    if "scale" not in keywords(_function(functions)) or params.get("scale") is not None or not scales:
        model = _merged(functions, params, setting, seed)
        progress("merge", 1, 1)
        return Merged(model, len(setting.models))
    scores: dict[float, float] = {}
    for done, scale in enumerate(scales, 1):
        scores[scale] = setting.validate(_merged(functions, {**params, "scale": scale}, setting, seed))
        progress("factors", done, len(scales))
    best = max(sorted(scores), key=lambda scale: (scores[scale] == scores[scale], scores[scale], -scale))
    model = _merged(functions, {**params, "scale": best}, setting, seed)
    return Merged(model, len(setting.models), best, {str(scale): value for scale, value in scores.items()})


def _merged(
    functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any], setting: Any, seed: int
) -> nn.Module:
    """A copy of the setting's base with the merged weights, in evaluation mode."""
    states = [model.state_dict() for model in setting.models]
    judges = [_judge(getattr(setting, name, None), setting.base) for name in ("validate", "distance")]
    function = partial(_function(functions), **params)
    model = copy.deepcopy(setting.base)
    model.load_state_dict(dict(_run(function, setting.base.state_dict(), states, seed, *judges)))
    return model.eval()


def _judge(judge: Callable[[nn.Module], float] | None, like: nn.Module) -> Judge | None:
    """A function of a module as one of weights, which are put into a copy of `like`."""
    if judge is None:
        return None
    model = copy.deepcopy(like).eval()

    def of(state: Mapping[str, Tensor]) -> float:
        model.load_state_dict(dict(state))
        return judge(model)

    return of


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """base, models -> merged: a module for modules, a state dict for state dicts, a folder for folders."""
    function = partial(_function(functions), **params)

    def merge(
        base: Any,
        models: Sequence[Any],
        *,
        out: str | Path | None = None,
        seed: int = 0,
        validate: Callable[[Any], float] | None = None,
        distance: Callable[[Any], float] | None = None,
        progress: Progress = silent,
    ) -> Any:
        """validate, distance: for methods that ask for them, how good a candidate is on held-out data, and how far its
        output is from the model's; called with a module or a state dict, as `base` is one. progress: for folders,
        called with what is at work, the bytes done and of how many.

        Folders are checked before any work. Raises RunError for models that are not of one family or are broken, and
        for an `out` that exists.
        """
        if isinstance(base, str | Path):
            if out is None:
                raise ValueError("models in folders are merged into a folder: pass out=")
            if validate or distance:
                raise ValueError("models in folders are never in memory whole: pass modules to judge candidates by")
            _rehearse(function, len(models), seed)
            source, others = Folder(Path(base)), [Folder(Path(model)) for model in models]
            check_out(Path(out), source.bytes)
            check_models(source, others, lambda name, done, total: progress(f"checking {name}", done, total))
            made = {"method": method.slug, "parameters": dict(params), "seed": seed}
            told = {**made, "base": str(base), "models": list(map(str, models))}
            about = {"merge.json": (json.dumps(told, indent=2) + "\n").encode()}
            return write_model(Path(out), source, _run(function, source, others, seed), progress, about)
        if out is not None:
            raise ValueError("out= is for models in folders; a module or state dict is returned")
        if isinstance(base, nn.Module):
            states = [model.state_dict() if isinstance(model, nn.Module) else model for model in models]
            judges = [_judge(judge, base) for judge in (validate, distance)]
            merged = copy.deepcopy(base)
            merged.load_state_dict(dict(_run(function, base.state_dict(), states, seed, *judges)))
            return merged
        return dict(_run(function, base, models, seed, validate, distance))

    return merge


def _rehearse(function: Callable[..., Any], models: int, seed: int) -> None:
    """Refuse a parameter out of range before any work, by merging models of one weight. Raises ValueError."""
    if not models:
        raise ValueError("name at least one model to merge")
    base = {"weight": torch.zeros(1)}
    dict(_run(function, base, [{"weight": torch.ones(1)} for _ in range(models)], seed))
