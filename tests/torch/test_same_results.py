"""The recipe that compares two commits sees a difference of one bit, and none where there is none."""

import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", REPOSITORY / "recipes" / "same_results" / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_bit_is_a_difference(compare: ModuleType) -> None:
    def of(value: object) -> bytes:
        return b"".join(compare.bits(value))

    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    assert of({"model": one, "seconds": [1.0]}) == of({"model": other, "seconds": [1.0]})
    with torch.no_grad():
        other.weight[1, 2] = torch.nextafter(other.weight[1, 2], torch.tensor(9.0))
    assert of(one) != of(other)
    assert of(torch.zeros(4)) != of(-torch.zeros(4))
    assert of(torch.zeros(2, 2)) != of(torch.zeros(4))
    assert of([0.1, None]) != of([0.1, "None"])


@dataclass
class Result:
    """As drivers build them."""

    model: nn.Module
    rate: float
    rule: Callable[..., Any] | None = None
    more: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


def closure(held: Any) -> Callable[[], Any]:
    return lambda: held


def method(x: float) -> float:
    return x


def values() -> list[Any]:
    """One of each kind of value that drivers and tasks give back, and one that differs from it in the least."""
    tensor, more = torch.tensor(1.0), torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    layer, other = nn.Linear(1, 1), nn.Linear(1, 1)
    layer.load_state_dict({"weight": tensor.view(1, 1), "bias": tensor.view(1)})
    other.load_state_dict({"weight": tensor.view(1, 1), "bias": more.view(1)})
    pairs: list[tuple[Any, Any]] = [
        (tensor, more), (tensor.bfloat16(), tensor.half()), (torch.tensor(0.0), torch.tensor(-0.0)),
        (torch.tensor(True), torch.tensor(1)), (torch.tensor(1 + 1j), torch.tensor(1 + 1j).conj()),
        (torch.Size((2, 3)), torch.Size((3, 2))), (torch.float32, torch.float64),
        (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)), (random.Random(0), random.Random(1)),
        (layer, other), (Result(layer, 0.1), Result(other, 0.1)), (Result(layer, 0.1), Result(layer, 0.2)),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}), ({(1, 2): tensor}, {(1, 3): tensor}), ([[1], [2]], [[1, 2]]),
        ((1, 2), [1, 2]), (Pair(1, tensor), Pair(1, more)), ({1, 2}, {1, 3}), (1, 1.0), (True, 1), (None, "None"),
        (b"a", "a"), (float("nan"), 0.0), (np.float32(1), np.float64(1)), (np.array([1, 2]), np.array([[1, 2]])),
        (Path("a"), Path("b")), (SimpleNamespace(a=tensor), SimpleNamespace(a=more)), (nn.Linear, nn.Conv1d),
        (closure(tensor), closure(more)), (partial(method, 1.0), partial(method, 2.0)), (method, closure),
        (tensor.add, more.add), (Result(layer, 0.1, closure([Pair(1, {2: tensor})])), Result(layer, 0.1, None)),
    ]  # fmt: skip
    return pairs


def test_every_kind_of_value_that_results_hold_is_looked_at(compare: ModuleType) -> None:
    def of(value: object) -> bytes:
        return b"".join(compare.bits(value))

    for (one, other), (again, _) in zip(values(), values(), strict=True):
        assert of(one) == of(again), one
        assert of(one) != of(other), one
        assert of({"x": [one]}) != of({"x": [other]}), one
    itself: list[Any] = [1]
    itself.append(itself)
    assert of(itself) == of(itself)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: [{"a": x}], lambda x: Result(nn.Identity(), 0.1, more=(x,)), closure]
)
def test_a_kind_that_is_not_known_is_no_equal_one(compare: ModuleType, wrap: Callable[[Any], Any]) -> None:
    class Odd:
        pass

    with pytest.raises(TypeError, match=r"test_same_results\.\S*Odd among the results"):
        list(compare.bits(wrap(Odd())))


def test_an_arm_gives_the_same_bits_twice_and_another_gives_others(compare: ModuleType, tmp_path: Path) -> None:
    rows = [
        {"task": "lm_compress", "model": "abstracts-lm", "name": name,
         "arm": {"method": "round-to-nearest", "params": {"bits": bits}, "after": None}}
        for name, bits in (("one", 4), ("same", 4), ("other", 3), ("impossible", 0))
    ]  # fmt: skip
    file = tmp_path / "results.jsonl"
    compare.work(rows[:1], file)
    compare.work(rows, file)  # goes on where it was
    found = {row["name"]: row for row in compare.read(file)}
    assert len(compare.read(file)) == len(rows)
    assert found["one"]["sha"] == found["same"]["sha"] != found["other"]["sha"]
    assert "error" in found["impossible"]
