"""What every method file and every task promises, checked over the registry: a new file is covered as it lands.

Nothing here names a method. A method that refuses an architecture is skipped there by the ValueError that it
raises, which must come from our own code and say something.
"""

import ast
import copy
import importlib
import inspect
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import paperlab
from paperlab.assets.models import MODELS
from paperlab.assets.texts import TEXTS
from paperlab.core import task as contract
from paperlab.core.acts import FIELDS, acts
from paperlab.core.card import Arm, Check
from paperlab.core.methods import Method, act_of, check_parameters, find_method, methods, parameters, possible_acts
from paperlab.core.paper import papers
from paperlab.core.signature import CALIBRATION
from paperlab.core.task import SCALES, TASKS, Metric, Task, constants, load_task, tasks
from paperlab.kit.compressed import UNTOUCHED_BITS, Compressed
from paperlab.kit.stats import STATISTICS
from paperlab.lab.arms import check_arms, functions_of
from paperlab.lab.drivers._common import supplied
from paperlab.lab.drivers.compress import apply

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


def test_the_compressing_driver_gathers_every_statistic() -> None:
    assert DRIVERS["compress"].VERBS["quantize"]["data"] == STATISTICS


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
        assert arm.params.get(CALIBRATION.name, "random") in {*TEXTS, "random"}, f"{arm}: no such text"
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
    assert task.COST["quick"] <= 120
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


# Every method on small models of both layouts

WIDTH, INNER, VOCABULARY = 64, 128, 96
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
SHORT = {"steps": 2, "iterations": 3}  # parameters that only make a method's search or training longer


def tiny(layout: str) -> nn.Module:
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**COMMON, num_key_value_heads=1))
        if layout == "Llama"
        else BertModel(BertConfig(**COMMON))
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases are not left at ones and zeros
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def batches() -> list[dict[str, Tensor]]:
    ids = torch.randint(3, VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": rows} for rows in ids.split(2)]


def output(model: nn.Module, device: str = "cpu") -> Tensor:
    with torch.no_grad():
        out = model(input_ids=batches()[0]["input_ids"].to(device))
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def settings() -> list[tuple[Method, dict[str, Any]]]:
    """Each compressing method at its defaults, and at the first arm of any card that sets parameters."""
    found = []
    for method in VERBS:
        if act_of(method).builds != "Compressed":
            continue
        arms = [arm for _, check in CHECKS for arm in check.arms if find_method(arm.method) is method and arm.params]
        for params in [{}, *(arm.params for arm in arms[:1])]:
            shorter = {p.name: min(SHORT[p.name], p.default) for p in parameters(method) if p.name in SHORT}
            inner = {name: value for name, value in {**shorter, **params}.items() if name != CALIBRATION.name}
            if (method, inner) not in found:
                found.append((method, inner))
    return found


@dataclass
class Case:
    """A method applied to a small model, twice with the same seed."""

    model: nn.Module
    before: dict[str, Tensor]
    small: Compressed
    again: Compressed


def refused(error: ValueError) -> bool:
    """Whether our own code raised it, with a message that says what was wrong."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return type(error) is ValueError and Path(frame.filename).is_relative_to(PACKAGE) and len(str(error).split()) >= 5


@pytest.fixture(scope="module", params=["Llama", "BERT"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=settings(), ids=lambda pair: str(Arm(pair[0].slug, pair[1])))
def case(request: pytest.FixtureRequest, layout: str) -> Case:
    method, params = request.param
    functions = functions_of(Arm(method.slug, params))
    model = tiny(layout)
    before = copy.deepcopy(model.state_dict())
    try:
        small, again = (apply(functions, params, model=model, calibration=batches(), seed=3) for _ in range(2))
    except ValueError as error:
        if layout == "Llama" or not refused(error):  # every method works on a Llama; elsewhere it may refuse
            raise
        assert_same(model.state_dict(), before)
        pytest.skip(str(error))
    return Case(model, before, small, again)


def assert_same(state: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_the_caller_s_model_is_not_changed(case: Case) -> None:
    assert_same(case.model.state_dict(), case.before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())


def test_matrices_have_their_layer_s_shape_and_are_finite(case: Case) -> None:
    named = dict(case.small.model.named_modules())
    for name, matrix in case.small.layers.items():
        weight = named[name].weight
        assert matrix.shape == tuple(weight.shape)
        stored = matrix.dense()
        assert stored.shape == weight.shape
        assert stored.isfinite().all()
        assert sum(matrix.stored_bits().values()) > 0
        assert all(bits >= 0 for bits in matrix.stored_bits().values())


def test_the_scored_weights_are_the_stored_ones(case: Case) -> None:
    named = dict(case.small.model.named_modules())
    for name, matrix in case.small.layers.items():
        torch.testing.assert_close(named[name].weight.detach(), matrix.dense(), rtol=1e-3, atol=1e-4)


def test_the_size_is_below_16_bits_or_nothing_was_compressed(case: Case) -> None:
    totals = case.small.totals()
    assert all(bits >= 0 for bits in case.small.added.values())
    if case.small.layers:
        assert 0 < totals["bits_per_weight"] < UNTOUCHED_BITS
        assert 0 < totals["layer_bits"] < UNTOUCHED_BITS
    else:
        assert totals["bits_per_weight"] == UNTOUCHED_BITS
        assert totals["cache_bits"] < UNTOUCHED_BITS or torch.equal(output(case.small.model), output(case.model))
    count = sum(parameter.numel() for parameter in case.model.parameters())
    assert totals["bytes"] == pytest.approx(totals["bits_per_weight"] * count / 8)


def test_the_same_seed_gives_the_same_bits(case: Case) -> None:
    assert_same(case.small.model.state_dict(), case.again.model.state_dict())
    assert case.small.totals() == case.again.totals()
    assert torch.equal(output(case.small.model), output(case.again.model))


def test_the_compressed_model_runs(case: Case) -> None:
    out = output(case.small.model)
    assert out.shape == output(case.model).shape
    assert out.isfinite().all()
    assert not case.small.model.training


def test_the_compressed_model_moves_to_another_device_and_dtype_whole(case: Case) -> None:
    """A tensor that a hook holds on the CPU would stop the model on a GPU; the device `meta` shows it anywhere."""
    moved = copy.deepcopy(case.small.model).to("meta", torch.bfloat16)
    out = output(moved, "meta")
    assert out.device.type == "meta"
    assert out.dtype is torch.bfloat16
