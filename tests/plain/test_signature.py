"""Parameters are read from signatures without import, and what the user sets is checked against them."""

import pytest

from paperlab.core.card import CardError
from paperlab.core.methods import check_parameters, find_parameter, methods, parameters, parse, read_method
from paperlab.core.signature import CALIBRATION, ParameterError, show

METHOD = '''"""A method for this test."""
from typing import Literal
import a_package_that_is_not_there
from paperlab.core.card import Card
CARD = Card(family="quantization")
GROUP = 64; Scale = Literal["mean", "median"]

def quantize(weight, hessian, *, bits: int = 4, group: int | None = None, size: int = GROUP, share: float = -0.5,
             scale: Scale = "mean", levels: Literal[2, 4, None] = 4, sym: bool = False,
             name: str = "x") -> "Quantized":
    return weight
'''


@pytest.fixture
def method(tmp_path):
    return write(tmp_path, METHOD)


def write(tmp_path, source):
    folder = tmp_path / "quantization"
    folder.mkdir(exist_ok=True)
    file = folder / "some_method.py"
    file.write_text(source)
    return read_method(file)


def test_keyword_only_arguments_are_the_parameters(method):
    assert [(p.name, p.default) for p in parameters(method)] == [
        ("bits", 4), ("group", None), ("size", 64), ("share", -0.5), ("scale", "mean"), ("levels", 4), ("sym", False),
        ("name", "x"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "value"),
    [("bits=3", 3), ("bits = 3 ", 3), ("group=none", None), ("group=128", 128), ("share=1e-3", 0.001), ("share=2", 2.0),
     ("scale=median", "median"), ("levels=2", 2), ("levels=none", None), ("sym=true", True), ("sym=No", False),
     ("name=a=b", "a=b"), ("size=-1", -1), ("calibration=code", "code")],
)  # fmt: skip
def test_what_is_set_gets_its_type(method, setting, value):
    name, found = parse(method, setting)
    assert name == setting.partition("=")[0].strip()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("bitz=3", "did you mean bits\\? .*it has bits, group"),
        ("bits=3.5", "bits takes a whole number"),
        ("bits=", "whole"),
        ("bits", "name=value"),
        ("=3", "name=value"),
        ("scale=max", "mean, median"),
        ("levels=3", "2, 4, none"),
        ("sym=2", "true or false"),
        ("group=x", "a whole number from 1 to 65,536 or none"),
        ("bits=none", "a whole number from 1 to 16 \\(default 4\\)"),
        ("bits=99999999999", "bits takes a whole number from 1 to 16 \\(default 4\\)"),
        ("bits=0", "from 1 to 16"),
        ("bits=-4", "from 1 to 16"),
        ("share=nan", "share takes a number from -1,000,000 to 1,000,000"),
        ("share=1e999", "from -1,000,000 to"),
        ("size=1000001", "size takes a whole number from -1,000,000 to 1,000,000"),
        ("group=65537", "a whole number from 1 to 65,536 or none"),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_allowed(method, setting, says):
    with pytest.raises(ParameterError, match=says):
        parse(method, setting)


def test_a_default_outside_its_names_range_widens_it(tmp_path):
    wide = write(tmp_path, METHOD.replace("bits: int = 4", "bits: int = 40"))
    assert parse(wide, "bits=40") == ("bits", 40)
    with pytest.raises(ParameterError, match="from 1 to 40"):
        parse(wide, "bits=41")


def test_typed_values_are_checked_too(method):
    check_parameters(method, {"bits": 3, "group": None, "share": 1, "scale": "median"})
    for wrong in ({"bits": "3"}, {"bits": True}, {"scale": "max"}, {"group": 1.5}, {"nope": 1}):
        with pytest.raises(ParameterError):
            check_parameters(method, wrong)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [("bits: int = 4", "bits = 4", "no annotation"), ("bits: int = 4", "bits: list[int] = 4", "found list"),
     ("bits: int = 4", "bits: int", "needs a default"), ("bits: int = 4", "bits: int = len('abc')", "not a literal")],
)  # fmt: skip
def test_a_signature_that_breaks_the_rule_names_its_line(tmp_path, old, new, says):
    with pytest.raises(CardError, match=f"some_method.py:8: .*{says}"):
        parameters(write(tmp_path, METHOD.replace(old, new)))


def test_a_study_without_a_verb_has_no_parameters(tmp_path):
    study = write(tmp_path, METHOD.partition("GROUP")[0])
    assert parameters(study) == ()
    with pytest.raises(ParameterError, match="has no parameters"):
        find_parameter(study, "bits")


@pytest.mark.parametrize("slug", sorted(methods()))
def test_every_method_file_follows_the_rule(slug):
    method = methods()[slug]
    for parameter in parameters(method):
        assert parameter.takes(parameter.default), f"the default of {slug}'s {parameter.name} has another type"
        if parameter.default is not None or type(None) in parameter.types:
            assert parse(method, f"{parameter.name}={show(parameter.default)}") == (parameter.name, parameter.default)


@pytest.mark.parametrize("slug", sorted(methods()))
def test_every_card_sets_parameters_that_exist(slug):
    for check in methods()[slug].card.checks:
        for arm in check.arms:
            of = methods()[arm.method.replace("_", "-")]
            check_parameters(of, arm.params)
            for name, value in arm.params.items():  # the ranges leave room for what is checked
                assert parse(of, f"{name}={show(value)}") == (name, value)


def test_calibration_belongs_to_every_arm(method):
    assert find_parameter(method, "calibration") is CALIBRATION
