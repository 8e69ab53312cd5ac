"""Random rotation: the function stays, loud channels no longer hurt, and what runs at run time is counted."""

import pytest
import torch
from loud_models import BATCHES, assert_function_stays, bert, copied, error, llama

from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import random_rotation, round_to_nearest

VERB = {"transform": random_rotation.transform}


@pytest.mark.parametrize("rotation", ["hadamard", "orthogonal"])
def test_at_12_bits_the_function_stays(rotation):
    model = llama()
    before = copied(model)
    small = apply(VERB, {"weight_bits": 12, "rotation": rotation}, model=model, calibration=BATCHES)
    assert_function_stays(small.model, model, before)


def test_without_a_rotation_it_is_plain_rounding():
    model = llama()
    none = apply(VERB, {"rotation": "none"}, model=model, calibration=[])
    plain = apply({"quantize": round_to_nearest.quantize}, {"bits": 4}, model=model, calibration=[])
    assert none.totals() == plain.totals()
    for name, layer in plain.layers.items():
        assert torch.equal(none.layers[name].dense(), layer.dense())


def test_it_helps_at_4_bit_activations():
    model = llama()
    grid = {"weight_bits": 8, "act_bits": 4}
    errors = {
        kind: error(apply(VERB, {**grid, "rotation": kind}, model=model, calibration=[]).model, model)
        for kind in ("none", "hadamard")
    }
    assert errors["hadamard"] < 0.7 * errors["none"]


def test_it_repeats_and_counts_its_signs():
    first, again, other = (apply(VERB, {}, model=llama(), calibration=[], seed=seed) for seed in (1, 1, 2))
    name = "model.layers.0.mlp.gate_proj"
    assert torch.equal(first.layers[name].codes, again.layers[name].codes)
    assert not torch.equal(first.layers[name].codes, other.layers[name].codes)
    assert first.added == {"rotation": 64 + 96}  # one sign for each channel that is turned at run time


def test_refusals():
    with pytest.raises(ValueError, match="rotation='spin'"):
        apply(VERB, {"rotation": "spin"}, model=llama(), calibration=BATCHES)
    with pytest.raises(ValueError, match="BertModel is built as BERT: its stream cannot be rotated"):
        apply(VERB, {}, model=bert(), calibration=BATCHES)
