"""The recipe that compares two commits sees a difference of one bit, and none where there is none."""

import importlib.util
from pathlib import Path
from types import ModuleType

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
