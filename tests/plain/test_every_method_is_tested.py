"""Every method file has a test file of its own name, which uses that method and asserts something."""

import ast
from pathlib import Path

import pytest

from paperlab.core.methods import Method, methods

TESTS = Path(__file__).parents[1] / "torch" / "methods"


def refusal(method: Method, folder: Path) -> str:
    """Why the tests of a method do not do; nothing where they do."""
    stem = Path(method.path).stem
    file = folder / f"test_{stem}.py"
    if not file.exists():
        return f"{method.path} has no test: write {file.name} with an example worked by hand"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    if not any(isinstance(node, ast.Assert) for test in tests for node in ast.walk(test)):
        return f"{file.name} asserts nothing"
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)
             for alias in node.names}  # fmt: skip
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    imported = {name.rpartition(".")[2] for name in names | modules}
    return "" if stem in imported or method.slug in texts else f"{file.name} does not use {method.slug}"


@pytest.mark.parametrize("method", methods().values(), ids=lambda method: method.slug)
def test_a_method_has_a_test_of_its_name(method: Method) -> None:
    assert not refusal(method, TESTS)


def test_a_test_of_a_method_names_one() -> None:
    stems = {Path(method.path).stem for method in methods().values()}
    assert {file.stem.removeprefix("test_") for file in TESTS.glob("test_*.py")} <= stems


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    method = methods()["gptq"]
    assert "has no test" in refusal(method, tmp_path)
    file = tmp_path / "test_gptq.py"
    file.write_text("from paperlab.methods.quantization import gptq\n\ndef test_nothing():\n    gptq.quantize\n")
    assert "asserts nothing" in refusal(method, tmp_path)
    file.write_text("def test_another():\n    assert True\n")
    assert "does not use gptq" in refusal(method, tmp_path)
    file.write_text("from paperlab.methods.quantization import gptq\n\ndef test_it():\n    assert gptq.quantize\n")
    assert not refusal(method, tmp_path)
