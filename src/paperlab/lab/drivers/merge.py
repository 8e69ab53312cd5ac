"""Merging several models that began as one: their weights go in, one model's weights come out, tensor by tensor.

Tuning is equal between arms: a method with a parameter `scale` that the arm does not set tries the setting's factors
and keeps the one that is best on validation data. That is done for every seed, as its models are others; a merge costs
next to nothing.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.kit.merging import Merged, check_alike
from paperlab.lab.checkpoints import Folder, copy_small_files, write_folder
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
}


def _run(
    function: Callable[..., Any], base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """The merged tensors in the base's dtypes. Tensors that are no floating point numbers are the base's.

    Raises ValueError for models that are not alike, and for a method that leaves a tensor out or brings one of its own.
    """
    check_alike(base, models)
    available = {"base": base, "models": models, "seed": seed}
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
    if "scale" not in keywords(functions["merge"]) or params.get("scale") is not None or not scales:
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
    model = copy.deepcopy(setting.base)
    model.load_state_dict(dict(_run(partial(functions["merge"], **params), setting.base.state_dict(), states, seed)))
    return model.eval()


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """base, models -> merged: a module for modules, a state dict for state dicts, a folder for folders."""
    function = partial(functions["merge"], **params)

    def merge(base: Any, models: Sequence[Any], *, out: str | Path | None = None, seed: int = 0) -> Any:
        if isinstance(base, str | Path):
            if out is None:
                raise ValueError("models in folders are merged into a folder: pass out=")
            source = Folder(Path(base))
            write_folder(Path(out), _run(function, source, [Folder(Path(model)) for model in models], seed))
            copy_small_files(Path(base), Path(out))
            return Path(out)
        if out is not None:
            raise ValueError("out= is for models in folders; a module or state dict is returned")
        if isinstance(base, nn.Module):
            states = [model.state_dict() if isinstance(model, nn.Module) else model for model in models]
            merged = copy.deepcopy(base)
            merged.load_state_dict(dict(_run(function, base.state_dict(), states, seed)))
            return merged
        return dict(_run(function, base, models, seed))

    return merge
