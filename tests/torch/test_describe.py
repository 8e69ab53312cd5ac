"""help() of a loaded method: its parameters with types and defaults, and the calibration that it takes."""

import inspect
import pydoc

import pytest
from torch import nn

import paperlab
from paperlab.core.methods import find_method
from paperlab.lab.describe import dress


def page(function) -> str:
    return pydoc.plain(pydoc.render_doc(function))


def test_help_of_a_method_that_looks_at_data():
    gptq = paperlab.load("gptq", bits=3)
    said = page(gptq)
    assert gptq.__name__ == gptq.__qualname__ == "gptq"
    assert "GPTQ: round a matrix column by column" in said
    assert "calibration: needed: a list of texts" in said
    assert "The method computes from it: hessian." in said
    assert "bits: a whole number from 1 to 16; default 4, here 3" in said
    assert "act_order: true or false; default False" in said
    assert "group: a whole number from 1 to 65,536 or none; default None" in said
    assert "small = gptq(model, calibration=texts)" in said
    signature = inspect.signature(gptq)
    assert list(signature.parameters) == ["model", "calibration", "tokenizer", "seed", "progress"]
    assert signature.parameters["calibration"].default is inspect.Parameter.empty
    assert signature.return_annotation is nn.Module


def test_help_of_a_method_without_data():
    easyquant = paperlab.load("easyquant")
    assert "calibration: not needed" in page(easyquant)
    assert inspect.signature(easyquant).parameters["calibration"].default is None


@pytest.mark.parametrize("slug", ["gptq", "easyquant", "round-to-nearest"])
def test_help_names_every_parameter_once(slug):
    lines = page(paperlab.load(slug)).splitlines()
    for parameter in find_method(slug).parameters:
        wanted = f"{parameter.name}: {parameter.allowed}; default {parameter.default!r}"
        assert len([line for line in lines if line.strip() == wanted]) == 1


def test_a_module_is_shown_with_the_values_that_were_set():
    linear = paperlab.load("bitnet-1-58-bottom-up")
    said = page(linear)
    assert "calibration:" not in said
    assert list(inspect.signature(linear).parameters)[:3] == ["in_features", "out_features", "bias"]
    assert isinstance(linear(8, 4, True), nn.Module)


def loss(logits, labels, *, gamma: float = 2.0):
    """Overwritten."""


def test_values_that_were_set_are_the_defaults_of_the_signature():
    made = dress({"loss": loss}, find_method("gptq"), {"gamma": 3.0})["loss"]
    assert made is loss
    assert str(inspect.signature(loss)) == "(logits, labels, *, gamma: float = 3.0)"
    assert "calibration:" not in loss.__doc__


def test_what_is_no_function_is_left_as_it_is():
    module = nn.Linear(2, 2)
    before = type(module).__doc__
    assert dress(module, find_method("gptq"), {}) is module
    assert type(module).__doc__ == before
