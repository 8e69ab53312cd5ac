"""What every method file and every task promises, checked over the registry: a new file is covered as it lands.

Nothing here names a method. A method that refuses an architecture is skipped there by the ValueError that it
raises, which must come from our own code and say something.
"""

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import paperlab
from paperlab.assets.models import MODELS
from paperlab.assets.texts import TEXTS
from paperlab.core import task as contract
from paperlab.core.acts import FIELDS, acts
from paperlab.core.card import Arm, Check
from paperlab.core.methods import Method, check_parameters, find_method, methods, possible_acts
from paperlab.core.paper import papers
from paperlab.core.signature import CALIBRATION
from paperlab.core.task import SCALES, TASKS, Metric, Task, constants, load_task, tasks
from paperlab.lab.arms import check_arms, functions_of
from paperlab.lab.drivers._common import supplied

PACKAGE = Path(paperlab.__file__).parent
CHECKS = [(method, check) for method in methods().values() for check in method.card.checks]
VERBS = [method for method in methods().values() if method.verbs]
DRIVERS = {name: importlib.import_module(f"paperlab.lab.drivers.{name}") for name in acts()}


def label(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0].slug}, {value[1].claim}"
    return value.slug if isinstance(value, Method) else str(value)


# Method files


@pytest.mark.parametrize("name", sorted(acts()))
def test_a_driver_s_table_is_its_module_s(name: str) -> None:
    """What is read without import is what the module holds, and every verb has what its readers need."""
    module, act = DRIVERS[name], acts()[name]
    assert (act.says, act.builds, act.starts_from) == (module.SAYS, module.BUILDS, module.STARTS_FROM)
    assert list(module.VERBS) == list(act.verbs)
    for verb in act.verbs.values():
        assert dict(module.VERBS[verb.name]) == {field: getattr(verb, field) for field in FIELDS}
        assert set(verb.data) <= set(verb.supplies)
        assert verb.says
        assert verb.returns
        assert "{slug}" in verb.snippet
    given = list(inspect.signature(module.build).parameters)
    assert given[:6] == ["functions", "params", "setting", "seed", "start", "progress"]
    assert list(inspect.signature(module.use).parameters) == ["method", "functions", "params"]


@pytest.mark.parametrize("name", sorted(acts()))
def test_a_driver_s_promises_are_tested_for_every_verb(name: str) -> None:
    """contracts/test_<act>.py runs the methods of the registry, and a planted sample of each verb."""
    file = Path(__file__).parent / "contracts" / f"test_{name}.py"
    assert file.exists(), f"{name} has no {file.name}: what do its verbs promise?"
    assert f'cases("{name}", PLANTED)' in file.read_text(encoding="utf-8")  # which asks for a sample of each verb


@pytest.mark.parametrize("method", VERBS, ids=label)
def test_a_verb_is_used_by_one_act(method: Method) -> None:
    possible = possible_acts(method)
    assert possible, f"{method.path}: no driver can use {', '.join(method.verbs)}"
    assert len(possible) == 1 or method.card.checks, f"{method.path}: {[act.name for act in possible]} could use it"


@pytest.mark.parametrize("method", VERBS, ids=label)
def test_a_signature_read_without_import_is_the_function_s(method: Method) -> None:
    for verb, function in functions_of(Arm(method.slug)).items():
        read = {parameter.name: parameter for parameter in method.own_parameters[verb]}
        signature = inspect.signature(function)
        named = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert {name: parameter.default for name, parameter in read.items()} == named
        assert supplied(function) == method.asks[verb]
        assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in signature.parameters.values())
        for parameter in read.values():
            assert parameter.takes(parameter.default), f"{method.path}: {parameter.name} refuses its own default"
            assert parameter.name != CALIBRATION.name, f"{method.path}: `calibration` belongs to the driver"


@pytest.mark.parametrize("method", VERBS, ids=label)
def test_a_verb_says_what_it_takes(method: Method) -> None:
    for verb, function in functions_of(Arm(method.slug)).items():
        assert inspect.getdoc(function), f"{method.path}: {verb} has no docstring"
    assert method.says.strip().endswith((".", "?")), f"{method.path}: the first line is what listings show: a sentence"


@pytest.mark.parametrize("entry", CHECKS, ids=label)
def test_a_check_can_run_and_says_what_it_is(entry: tuple[Method, Check]) -> None:
    method, check = entry
    assert check.says.strip(), f"{method.path}: {check.claim} does not say what the paper claims"
    assert len(check.gap.split()) >= 5, f"{method.path}: {check.claim}: no gap between the paper's setting and ours"
    assert check.margin >= 0
    assert [c.claim for c in method.card.checks].count(check.claim) == 1
    for arm in check.arms:
        check_parameters(find_method(arm.method), arm.params)
        known = {*TEXTS, "random", "reordered"}
        assert arm.params.get(CALIBRATION.name, "random") in known, f"{arm}: no such text"
    models: set[str] = set()
    for name, metric in check.tasks.items():
        module = load_task(name)
        assert metric in module.METRICS, f"{check.claim}: {name} has no metric {metric}"
        check_arms(check, name)
        models |= set(module.MODELS)
    assert set(check.models) <= models, f"{check.claim}: its tasks have only {sorted(models)}"


def test_a_card_s_paper_is_in_the_catalogue() -> None:
    named = {method.card.paper for method in methods().values() if method.card.paper}
    assert named <= papers().keys()
    idle = [m.slug for m in methods().values() if m.card.paper and not m.card.checks]
    assert not idle, f"{idle} belong to papers but check none of their claims"


# Tasks


def functions(module: Any) -> dict[str, list[tuple[str, Any]]]:
    """Public functions of a task that the contract names, with (name, kind) of each argument but self."""
    return {
        name: [(p.name, p.kind) for p in inspect.signature(function).parameters.values() if p.name != "self"]
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name in vars(Task) and not name.startswith("_")
    }


@pytest.fixture(params=tasks())
def task(request: pytest.FixtureRequest) -> ModuleType:
    return load_task(request.param)


def test_a_task_keeps_the_contract(task: ModuleType) -> None:
    for name in Task.__annotations__:
        assert hasattr(task, name), f"{task.__name__} has no {name}"
    assert functions(task) == functions(Task)
    assert isinstance(task.VERSION, int)
    assert isinstance(task.TIMED, bool)
    assert task.METRICS
    assert all(isinstance(metric, Metric) for metric in task.METRICS.values())
    assert task.PAIRED_BY in ("items", "seeds")
    assert {"quick", "full"} <= task.COST.keys() <= set(SCALES)
    assert task.COST["quick"] <= 180  # two minutes are the goal for half of a family's checks
    assert task.COST["full"] <= 1800
    assert {"quick", "full"} <= task.SEEDS.keys() <= set(SCALES)
    assert task.PAIRED_BY == "items" or task.SEEDS["quick"] >= 3
    assert set(task.MODELS) <= MODELS.keys()
    assert task.DATA
    assert all(task.DATA.values())


def test_a_task_scores_what_some_driver_builds(task: ModuleType) -> None:
    assert set(task.SCORES) <= {act.builds for act in acts().values()}
    assert task.SCORES
    read = constants(task.__name__.rpartition(".")[2])
    for name in ("VERSION", "SCORES", "SUPPLIES", "AXES", "MODELS"):
        assert read[name] == getattr(task, name), f"{task.__name__}: {name} is no literal"


def test_tasks_import_no_method() -> None:
    for path in TASKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("paperlab.methods") for name in names), path
    assert contract.TASKS == TASKS
