"""help() of a loaded method: its parameters with types and defaults, and the calibration that it takes."""

import inspect
import pydoc

import pytest
from torch import nn

import paperlab
from paperlab.core.card import find_method
from paperlab.core.signature import parameters
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
    assert "bits: a whole number; default 4, here 3" in said
    assert "act_order: true or false; default False" in said
    assert "group: a whole number or none; default None" in said
    signature = inspect.signature(gptq)
    assert list(signature.parameters) == ["model", "calibration", "tokenizer", "seed"]
    assert signature.parameters["calibration"].default is inspect.Parameter.empty
    assert signature.return_annotation is nn.Module


def test_help_of_a_method_without_data():
    easyquant = paperlab.load("easyquant")
    assert "calibration: not needed" in page(easyquant)
    assert inspect.signature(easyquant).parameters["calibration"].default is None


@pytest.mark.parametrize("slug", ["gptq", "easyquant", "round-to-nearest"])
def test_help_names_every_parameter_once(slug):
    lines = page(paperlab.load(slug)).splitlines()
    for parameter in parameters(find_method(slug)):
        wanted = f"{parameter.name}: {parameter.allowed}; default {parameter.default!r}"
        assert len([line for line in lines if line.strip() == wanted]) == 1


def test_a_function_that_takes_no_calibration():
    def loss(logits, labels):
        """Overwritten."""

    dress(loss, find_method("gptq"))
    assert "calibration:" not in loss.__doc__
    assert "Parameters, set by" in loss.__doc__
    assert str(inspect.signature(loss)) == "(logits, labels)"
