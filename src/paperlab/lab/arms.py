"""Arms: from the name in a card to the functions of a method file, and from those to a result that a task can score."""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from paperlab.core.acts import Act
from paperlab.core.card import Arm, Check
from paperlab.core.methods import METHODS, Method, check_parameters, find_method, identity, possible_acts
from paperlab.core.task import constants
from paperlab.lab.errors import RunError

OUTSIDE = "paperlab_outside"  # the package name given to method files of other packages
Progress = Callable[[str, int, int], None]


def driver(act: str) -> ModuleType:
    """The module of an act."""
    return importlib.import_module(f"paperlab.lab.drivers.{act}")


def functions_of(arm: Arm) -> dict[str, Callable[..., Any]]:
    """The verbs of an arm's method, by name. Raises UnknownMethod, ParameterError, or RunError for a study."""
    method = find_method(arm.method)
    if not method.verbs:
        raise RunError(f"{method.slug} is a study without a method of its own; it cannot be an arm")
    check_parameters(method, arm.params)
    module = _module(method)
    return {verb: getattr(module, name) for verb, name in method.names.items()}


def _module(method: Method) -> ModuleType:
    name = f"{method.path.parent.name}.{method.path.stem}"
    if method.path.is_relative_to(METHODS):
        return importlib.import_module(f"paperlab.methods.{name}")
    return _outside(f"{OUTSIDE}.{name}", method.path)


def _outside(name: str, path: Path) -> ModuleType:
    """A method file of another package, loaded under a name of ours."""
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RunError(f"{path} is no Python file")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def acts_for(arm: Arm, task: str) -> tuple[Act, ...]:
    """The act of each arm of the chain, first to last. Raises RunError for an arm that no driver can build for the
    task, and for an order that drivers do not allow."""
    known = constants(task)
    wanted = tuple(known.get("SCORES", ()))
    found: list[Act] = []
    for one in reversed(arm.chain):  # from what the task scores back to where it begins
        method = find_method(one.method)
        if not method.verbs:
            raise RunError(f"{method.slug} is a study without a method of its own; it cannot be an arm")
        possible = [act for act in possible_acts(method) if act.builds in wanted]
        if not possible:
            builds = ", ".join(act.builds for act in possible_acts(method)) or "nothing"
            follows = f"{found[0].name} can start from" if found else f"the task {task} scores"
            raise RunError(
                f"{one}: {', '.join(method.verbs)} makes {builds}; {follows} {', '.join(wanted) or 'nothing'}"
            )
        found.insert(0, possible[0])
        wanted = possible[0].starts_from
    return tuple(found)


def check_arm(arm: Arm, task: str) -> None:
    """Refuse an arm that cannot be built for a task, before any work: an unknown method or parameter, a verb that no
    driver of the task's knows. Raises UnknownMethod, ParameterError, RunError."""
    acts_for(arm, task)
    for one in arm.chain:
        functions_of(one)


def check_values(arm: Arm, task: str) -> None:
    """Refuse values that are out of range before any work, where a driver can try them. Raises RunError."""
    for one, act in zip(arm.chain, acts_for(arm, task), strict=True):
        rehearse = getattr(driver(act.name), "rehearse", None)
        if rehearse is None:
            continue
        try:
            rehearse(functions_of(one), one.params)
        except ValueError as error:
            raise RunError(f"{one}: {error}") from None


def check_arms(check: Check, task: str) -> None:
    """`check_arm` for all arms of a check; and refuse two names for one arm, which would show nothing."""
    for arm in check.arms:
        check_arm(arm, task)
    if check.role != "a/a control" and identity(check.method) == identity(check.baseline):
        raise RunError(f"{check.claim}: {check.method} and {check.baseline} are one arm under two names")


def tune_arm(arm: Arm, task: str, setting: Any, seed: int, progress: Progress) -> Mapping[str, Any] | None:
    """What the last driver of the chain tunes on the first seed (a learning rate); None where there is nothing."""
    last = driver(acts_for(arm, task)[-1].name)
    if not hasattr(last, "tune"):
        return None
    more = {"start": build_arm(arm.after, task, setting, seed, progress)} if arm.after else {}
    return last.tune(functions_of(arm), arm.params, setting=setting, seed=seed, progress=progress, **more)


def build_arm(
    arm: Arm, task: str, setting: Any, seed: int, progress: Progress, tuned: Mapping[str, Any] | None = None
) -> Any:
    """The arm as the task scores it: each arm of the chain starts from what the one before left."""
    made: Any = None
    chain = arm.chain
    for one, act in zip(chain, acts_for(arm, task), strict=True):
        more = {"tuned": tuned} if one is chain[-1] and tuned is not None else {}
        made = driver(act.name).build(
            functions_of(one), one.params, setting=setting, seed=seed, start=made, progress=progress, **more
        )
    return made
