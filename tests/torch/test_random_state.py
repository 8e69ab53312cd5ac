"""What users call from Python leaves the global random states of torch, NumPy and random as they were."""

import random
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import paperlab


def states() -> tuple[bytes, bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index]


def leaves_them(act: Callable[[], object]) -> None:
    torch.manual_seed(1234)
    np.random.seed(1234)
    random.seed(1234)
    before = states()
    act()
    for name, was, now in zip(("torch", "numpy", "random"), before, states(), strict=True):
        assert was == now, f"the random state of {name} was changed"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


# Methods that draw, each in its own way; contracts/test_compress.py looks after the state with every other one.
@pytest.mark.parametrize("slug", ["random-rotation", "kmeans", "pv-tuning"])
def test_applying_a_method(slug: str, model: LlamaForCausalLM) -> None:
    def apply() -> None:
        calibration = [torch.arange(start, start + 32)[None] % 64 for start in range(8)]
        with suppress(ValueError):  # a method that does not fit so small a model: what it did till then counts
            paperlab.load(slug)(model, calibration=calibration)

    leaves_them(apply)


def test_running_a_check(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(f"sentence number {n} of a text about low rank matrices and sparse ones" for n in range(1500))
    )
    records: list[object] = []
    leaves_them(
        lambda: records.extend(
            paperlab.check("easyquant", claim="better-than-rtn", model="abstracts-lm", data=str(text))
        )
    )
    assert records
