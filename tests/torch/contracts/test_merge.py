"""What every merging method promises, on a small module's weights."""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_cases import Case, assert_same, cases
from torch import Tensor, nn

from paperlab.lab.drivers.merge import use

State = dict[str, Tensor]


def state(seed: int) -> State:
    """Weights of one architecture, one of them in half precision, and counts that are no weights."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    module[3].half()
    return module.state_dict()


def copied(states: list[State]) -> list[State]:
    return [{name: value.clone() for name, value in one.items()} for one in states]


def merge(call: Callable[..., State], *, first: bool) -> None:
    base, *models = states = [state(seed) for seed in range(4)]
    before = copied(states)
    merged = call(base, models)
    assert merged.keys() == base.keys()
    for name, value in merged.items():
        assert (value.shape, value.dtype) == (base[name].shape, base[name].dtype)
        assert value.isfinite().all()
    if first:  # a card may ask for an arm that leaves the base alone
        assert any(not torch.equal(value, base[name]) for name, value in merged.items())
    assert_same(merged, call(base, models))
    for now, then in zip(states, before, strict=True):
        assert_same(now, then)
    # models that learned nothing leave the base as it is
    for name, value in call(base, [base, base, base]).items():
        torch.testing.assert_close(value, base[name], rtol=1e-3, atol=1e-4)


def mean(base: State, models: list[State]) -> Iterator[tuple[str, Tensor]]:
    for name in base:
        yield name, torch.stack([model[name].float() for model in models]).mean(0)


def in_place(base: State, models: list[State]) -> Iterator[tuple[str, Tensor]]:
    for name in base:
        yield name, models[0][name].add_(1)


def twice_the_base(base: State, models: list[State]) -> Iterator[tuple[str, Tensor]]:
    for name in base:
        yield name, 2 * base[name]


def better(base: State, models: list[State], validate: Callable[[State], float]) -> Iterator[tuple[str, Tensor]]:
    yield from max(models, key=validate).items()


PLANTED = {"merge": mean, "choose": better}


@pytest.mark.parametrize("case", cases("merge", PLANTED), ids=str)
def test_a_method_keeps_what_its_driver_promises(case: Case) -> None:
    call = use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params)  # type: ignore[arg-type]
    merge(partial(call, validate=lambda state: -size(state), distance=size), first=case.first)


def size(state: State) -> float:
    """What candidates are judged by, where a method asks for that."""
    return sum(value.double().norm().item() for value in state.values())


@pytest.mark.parametrize("function", [in_place, twice_the_base])
def test_a_method_that_breaks_a_promise_is_seen(function: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        test_a_method_keeps_what_its_driver_promises(Case("planted", ("merge",), planted={"merge": function}))
