"""The examples of docs/howto are run as they stand, on models made here."""

import io
import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import paperlab
from paperlab.core import methods as method_files
from paperlab.core import record
from paperlab.core.card import Arm, CardError
from paperlab.core.methods import parameters
from paperlab.core.sources import arm_sources
from paperlab.core.verdict import WORDS

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"
TEXT = "the small model reads the text that the large model wrote\n\na second text, shorter"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model with its tokenizer, as `save_pretrained` leaves them."""
    torch.manual_seed(0)
    words = sorted(set(re.findall(r"\w+|,", TEXT)))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path / "model")
    config = LlamaConfig(
        vocab_size=len(words) + 1, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(name: str, *arguments: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, object], str]:
    """The example's names and what it printed."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with redirect_stdout(io.StringIO()) as said:
        names = runpy.run_path(str(HOWTO / name))
    return names, said.getvalue()


def test_use_a_method(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder.parent / "small"
    names, said = run("use_a_method.py", folder, out, monkeypatch=monkeypatch)
    assert "bits_per_weight" in said
    ids = torch.arange(8)[None]
    reloaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(reloaded(ids).logits, names["small"](ids).logits)  # type: ignore[operator]
    assert not torch.equal(reloaded(ids).logits, names["model"](ids).logits)  # type: ignore[operator]


def test_calibrate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "text.txt").write_text(TEXT)
    names, said = run("calibrate.py", folder, folder.parent / "text.txt", monkeypatch=monkeypatch)
    assert "bits_per_weight" in said
    assert len(names["texts"]) == 2  # type: ignore[arg-type]


def test_merge_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = []
    for name in ("one", "two"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        tuned.append(folder.parent / name)
        model.save_pretrained(tuned[-1])
    out = folder.parent / "merged"
    names, said = run("merge_models.py", folder, out, *tuned, monkeypatch=monkeypatch)
    assert said.startswith(str(out))
    base, merged = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (folder, out))
    changed = sum(int((merged[name] != base[name]).sum()) for name in base)
    assert 0 < changed < 0.4 * sum(tensor.numel() for tensor in base.values())  # a fifth of each model's changes
    assert isinstance(names["soup"], LlamaForCausalLM)


def test_distill_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "text.txt").write_text("\n\n".join(f"{TEXT} {n}" for n in range(300)))
    student, out = folder.parent / "student", folder.parent / "recovered"
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[:, ::2] = 0
    shutil.copytree(folder, student)
    model.save_pretrained(student)
    arguments = (folder, student, out, folder.parent / "text.txt", "6steps")
    names, said = run("distill_a_model.py", *arguments, monkeypatch=monkeypatch)
    assert "KL on validation text" in said
    weight = AutoModelForCausalLM.from_pretrained(out).model.layers[0].mlp.up_proj.weight
    assert not weight[:, ::2].any()
    assert names["made"].pruned == 2  # type: ignore[attr-defined]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's package as an installed one would be seen: by the entry point that its pyproject.toml names."""
    package = tmp_path / "installed"
    shutil.copytree(HOWTO / "write_a_method", package)
    [(group, named)] = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"].items()
    points = [EntryPoint(name, target, group) for name, target in named.items()]
    monkeypatch.syspath_prepend(package)
    monkeypatch.setattr(method_files, "entry_points", lambda group: [point for point in points if point.group == group])
    method_files.methods.cache_clear()
    yield package
    method_files.methods.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("my_methods", "paperlab_outside")]:
        del sys.modules[name]


def test_write_a_method(folder: Path, outside: Path) -> None:
    method = method_files.find_method("power-of-two-scales")
    assert method.path.is_relative_to(outside)
    assert [parameter.name for parameter in parameters(method)] == ["bits", "group"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    small = paperlab.load("power-of-two-scales", bits=6)(model)
    named = arm_sources(Arm("power-of-two-scales"), "lm_compress")
    assert "outside/quantization/power_of_two_scales.py" in named, "a record must tell one version from another"
    for name, matrix in small.compressed.layers.items():
        scale = matrix.scale.float()
        assert torch.equal(scale.log2(), scale.log2().round())
        error = (model.get_submodule(name).weight - matrix.dense()).abs()
        top = 31 * scale  # rounding the scale down clips what lies above the largest code
        assert (error <= torch.maximum(scale / 2, model.get_submodule(name).weight.abs() - top) + 1e-6).all()
    with pytest.raises(ValueError, match="bits=9: 2 to 8"):
        paperlab.load("power-of-two-scales", bits=9)(model)
    listed = (HOWTO / "write_a_method.md").read_text()
    for file in ("pyproject.toml", "my_methods/__init__.py", str(method.path.relative_to(outside))):
        assert file in listed


def test_a_method_that_clashes_with_ours_is_refused(outside: Path) -> None:
    (outside / "my_methods" / "quantization" / "gptq.py").write_text(
        '"""Another GPTQ."""\nfrom paperlab.core.card import Card\nCARD = Card(family="quantization")\n'
    )
    method_files.methods.cache_clear()
    with pytest.raises(CardError, match="'gptq' is already"):
        method_files.methods()


def test_read_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = min((record.BUNDLED / "records").glob("*/lm_compress/*.jsonl"), key=lambda file: file.stat().st_size)
    few = tmp_path / "records" / bundled.parent.parent.name / "lm_compress"  # all of them would take a while
    few.mkdir(parents=True)
    shutil.copy(bundled, few)
    monkeypatch.setattr(record, "BUNDLED", tmp_path)
    _, said = run("read_records.py", monkeypatch=monkeypatch)
    lines = [line for line in said.splitlines() if not line.startswith(" ")]
    assert 0 < len(lines) <= len(list(record.read()))
    assert all(line.endswith(tuple(f": {word}" for word in WORDS)) for line in lines)
    figures = re.findall(r"perplexity (\S+); the verdict has (\S+)", said)
    assert figures
    assert all(ours == theirs for ours, theirs in figures)


def test_every_page_has_its_example() -> None:
    for page in HOWTO.glob("*.md"):
        text = page.read_text()
        targets = re.findall(r"\]\(([^)#]+)\)", text)
        assert targets
        assert all((HOWTO / target).exists() for target in targets if "://" not in target), page
        example = HOWTO / f"{page.stem}.py"
        source = example.read_text() if example.exists() else ""
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if source:  # a page shows lines of its example, not other ones
                missing = [line for line in block.splitlines() if line.strip() and line not in source]
                assert all(line.split("  #")[0] in source for line in missing), (page, missing)
