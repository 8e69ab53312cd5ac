"""Which files an arm rests on, and what counts as a change of their code."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from paperlab.core import sources
from paperlab.core.card import Arm
from paperlab.core.sources import arm_sources, changed, significant

CODE = '''"""What it is."""
from paperlab.core.card import Card  # a comment

CARD = Card(
    family="quantization",
)


def f(x):
    """What it does."""
    # why
    return x + 1
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("What it is", "What it was"),
        ("# why", "# for another reason"),
        ("# a comment", "# no comment at all"),
        ('family="quantization"', 'family="pruning", departs=("nothing",)'),
        ('"""What it does."""\n', '"""What it does,\n    in two lines."""\n'),
        ("    # why\n", ""),
        ("\n\n\ndef", "\n\ndef"),
    ],
)
def test_words_are_no_code(before: str, after: str) -> None:
    assert before in CODE
    assert significant(CODE.replace(before, after)) == significant(CODE)


@pytest.mark.parametrize(
    ("before", "after"), [("x + 1", "x + 2"), ("def f(x)", "def f(x, y=1)"), ("import Card", "import Arm")]
)
def test_code_is(before: str, after: str) -> None:
    assert significant(CODE.replace(before, after)) != significant(CODE)


def test_a_string_that_is_no_docstring_is_code() -> None:
    assert significant('x = "a # b"\n') == 'x = "a # b"'


def test_an_arm_rests_on_its_method_what_that_imports_its_driver_and_its_task() -> None:
    files = set(arm_sources(Arm("gptq", bits=3), "lm_compress"))
    assert {"methods/quantization/gptq.py", "kit/gptq.py", "kit/quantized.py", "lab/drivers/compress.py",
            "tasks/lm_compress.py"} <= files  # fmt: skip
    assert not any(name.startswith(("core/", "site/", "assets/", "cli/")) for name in files)
    assert "methods/quantization/awq.py" not in files
    assert "lab/drivers/train.py" not in files
    both = set(arm_sources(Arm("gptq", after=Arm("awq")), "lm_compress"))
    assert both >= files | {"methods/quantization/awq.py"}


def test_a_change_in_shared_code_is_seen_by_all_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package with one more line in kit/gptq.py."""
    copy = tmp_path / "paperlab"
    for room in ("kit", "tasks", "methods", "lab/drivers"):
        shutil.copytree(sources.PACKAGE / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources, "PACKAGE", copy)
    monkeypatch.setattr(sources, "TASKS", copy / "tasks")
    real = sources.find_method

    def moved(name: str) -> object:
        method = real(name)
        return replace(method, path=copy / "methods" / method.path.parent.name / method.path.name)

    monkeypatch.setattr(sources, "find_method", moved)
    arms = {name: Arm(name) for name in ("gptq", "gptq-lorc", "round-to-nearest")}
    try:
        sources.forget()
        before = {name: arm_sources(arm, "lm_compress") for name, arm in arms.items()}
        with open(copy / "kit" / "gptq.py", "a") as file:
            file.write("\nTHIS = 1\n")
        sources.forget()
        after = {name: changed(before[name], arm_sources(arm, "lm_compress")) for name, arm in arms.items()}
        assert after == {"gptq": ("kit/gptq.py",), "gptq-lorc": ("kit/gptq.py",), "round-to-nearest": ()}
    finally:
        sources.forget()
