"""The best single model: the one that validation data prefers, bit for bit; refused without any."""

import pytest
import torch

import paperlab

BASE = {"w": torch.zeros(2)}
MODELS = [{"w": torch.tensor([value, 1.0])} for value in (0.2, 0.9, 0.5, 0.9)]


def test_the_first_of_the_best_is_taken() -> None:
    seen: list[float] = []

    def validate(state: dict[str, torch.Tensor]) -> float:
        seen.append(state["w"][0].item())
        return seen[-1]

    merged = paperlab.load("best-single")(BASE, MODELS, validate=validate)
    assert torch.equal(merged["w"], MODELS[1]["w"])
    assert seen == pytest.approx([0.2, 0.9, 0.5, 0.9])


def test_without_validation_it_is_refused() -> None:
    with pytest.raises(ValueError, match="pass validate="):
        paperlab.load("best-single")(BASE, MODELS)
