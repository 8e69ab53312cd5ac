"""What every compressing method promises, on small models of both layouts.

A method that refuses an architecture is skipped there by the ValueError that it raises, which must come from our own
code and say something.
"""

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from contract_cases import Case, assert_moves, assert_same, batches, cases, hooks, kinds, output, refused, state, tiny
from torch import Tensor, nn

from paperlab.core.acts import acts
from paperlab.kit.compressed import UNTOUCHED_BITS, Compressed, count_weights
from paperlab.kit.matrix import Factors
from paperlab.kit.quantized import Quantized
from paperlab.lab.drivers._common import supplied
from paperlab.lab.drivers.compress import VERBS, apply


def quantize(weight: Tensor) -> Quantized:
    return Quantized(weight.sign().to(torch.int8), 1, weight.abs().mean(1, keepdim=True).half())


def keep(weight: Tensor, input_norm: Tensor) -> Tensor:
    score = weight.abs() * input_norm
    return score > score.median()


def factor(weight: Tensor) -> Factors:
    u, s, v = torch.linalg.svd(weight)
    return Factors((u[:, :8] * s[:8]).half(), v[:8].half(), 16)


def transform(model: nn.Module, calibration: list[Any], teacher: nn.Module, seed: int) -> Compressed:
    assert teacher is not model
    return Compressed(model, {}, count_weights(model))


def submodel(model: nn.Module) -> nn.Module:
    stack = model.model.layers if hasattr(model, "model") else model.encoder.layer
    del stack[1]
    return model


PLANTED = {"quantize": quantize, "keep": keep, "factor": factor, "transform": transform, "submodel": submodel}


def test_the_statistics_of_the_kit_are_supplied() -> None:
    from paperlab.kit.stats import STATISTICS

    assert VERBS["quantize"]["data"] == VERBS["keep"]["data"] == STATISTICS
    assert PLANTED.keys() == acts()["compress"].verbs.keys()


@pytest.mark.parametrize("layout", ["Llama", "BERT"])
@pytest.mark.parametrize("case", cases("compress", PLANTED), ids=str)
def test_a_method_keeps_what_its_driver_promises(case: Case, layout: str) -> None:
    model, before = tiny(layout), state(layout)
    functions = case.functions()
    start = None
    if any("error" in supplied(function) for function in functions.values()):  # it makes up for another's error
        start = apply({"quantize": quantize}, {}, model=model, calibration=batches())

    def applied() -> Compressed:
        torch.manual_seed(1234)
        drawn = torch.get_rng_state(), random.getstate()
        try:
            return apply(functions, case.params, model=model, calibration=batches(), seed=3, start=start)
        finally:
            assert torch.equal(torch.get_rng_state(), drawn[0])
            assert random.getstate() == drawn[1]

    try:
        small = applied()
    except ValueError as error:
        if layout == "Llama" or not refused(error):  # every method works on a Llama; elsewhere it may refuse
            raise
        assert_same(model.state_dict(), before)
        pytest.skip(str(error))
    the_caller_s_model_is_not_changed(model, before)
    matrices_have_their_layer_s_shape_and_are_finite(small)
    the_scored_weights_are_the_stored_ones(small)
    the_size_is_below_16_bits_or_nothing_was_compressed(small, model)
    the_compressed_model_runs_and_moves(small, model)
    if case.first:
        the_same_seed_gives_the_same_bits(small, applied())


def the_caller_s_model_is_not_changed(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    assert_same(model.state_dict(), before)
    assert not hooks(model)


def matrices_have_their_layer_s_shape_and_are_finite(small: Compressed) -> None:
    named = dict(small.model.named_modules())
    for name, matrix in small.layers.items():
        weight = named[name].weight
        assert matrix.shape == tuple(weight.shape)
        stored = matrix.dense()
        assert stored.shape == weight.shape
        assert stored.isfinite().all()
        assert 0 <= matrix.density <= 1
        assert sum(matrix.stored_bits().values()) > 0
        assert all(bits >= 0 for bits in matrix.stored_bits().values())


def the_scored_weights_are_the_stored_ones(small: Compressed) -> None:
    named = dict(small.model.named_modules())
    for name, matrix in small.layers.items():
        torch.testing.assert_close(named[name].weight.detach(), matrix.dense(), rtol=1e-3, atol=1e-4)


def the_size_is_below_16_bits_or_nothing_was_compressed(small: Compressed, model: nn.Module) -> None:
    totals = small.totals()
    assert all(bits >= 0 for bits in small.added.values())
    if small.layers:
        assert 0 < totals["bits_per_weight"] < UNTOUCHED_BITS
        assert 0 < totals["layer_bits"] < UNTOUCHED_BITS
    elif small.removed:
        assert totals["parameters"] == count_weights(small.model)
        assert 0 < totals["bits_per_weight"] < UNTOUCHED_BITS
    else:
        assert totals["bits_per_weight"] == UNTOUCHED_BITS
        assert totals["cache_bits"] < UNTOUCHED_BITS or torch.equal(output(small.model), output(model))
    assert totals["bytes"] == pytest.approx(totals["bits_per_weight"] * count_weights(model) / 8)


def the_same_seed_gives_the_same_bits(small: Compressed, again: Compressed) -> None:
    assert_same(small.model.state_dict(), again.model.state_dict())
    assert small.totals() == again.totals()
    assert torch.equal(output(small.model), output(again.model))


def the_compressed_model_runs_and_moves(small: Compressed, model: nn.Module) -> None:
    out = output(small.model)
    assert out.shape == output(model).shape
    assert out.isfinite().all()
    assert not small.model.training
    if hooks(small.model) or kinds(small.model) != kinds(model):  # else PyTorch's own modules with other weights
        assert_moves(small.model, output, tuple(out.shape))


# The contract refuses what breaks it


def not_finite(weight: Tensor) -> Quantized:
    return Quantized(torch.ones_like(weight), 1, torch.full((len(weight), 1), torch.inf))


def too_large(weight: Tensor) -> Quantized:
    return Quantized(torch.zeros_like(weight), 17, torch.ones(len(weight), 1))


CALLS = itertools.count()


def another_each_time(weight: Tensor) -> Quantized:
    return Quantized(torch.full_like(weight, next(CALLS)), 8, torch.ones(len(weight), 1))


def not_stored(model: nn.Module) -> Compressed:
    name = "model.layers.0.mlp.up_proj"
    return Compressed(model, {name: quantize(model.get_submodule(name).weight.detach())}, count_weights(model))


def stays_on_the_cpu(model: nn.Module) -> Compressed:
    held = torch.ones(1)
    model.model.norm.register_forward_hook(lambda module, args, out: out * held)
    return Compressed(model, {}, count_weights(model), cache_bits=8)


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        ("quantize", not_finite),
        ("quantize", too_large),
        ("quantize", another_each_time),
        ("transform", not_stored),
        ("transform", stays_on_the_cpu),
    ],
)
def test_a_method_that_breaks_a_promise_is_seen(verb: str, function: Callable[..., Any]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        test_a_method_keeps_what_its_driver_promises(Case("planted", (verb,), planted={verb: function}), "Llama")
