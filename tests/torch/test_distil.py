"""A student learns from a teacher: any loss, zeros stay, killed it goes on, the result is a model that others load."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from paperlab.cli import app
from paperlab.kit.walk import block_linears
from paperlab.lab import distil as module
from paperlab.lab.distil import cut, distil, loss_of, losses, pruned
from paperlab.lab.errors import RunError
from paperlab.lab.recovery import Budget

WORDS = [f"w{i}" for i in range(90)]


def make(folder: Path, *, seed: int = 0, layers: int = 3, words: list[str] = WORDS) -> Path:
    torch.manual_seed(seed)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.15,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return make(tmp_path / "teacher")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    draw = random.Random(0)
    file.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=150)) for _ in range(40)))
    return file


@pytest.fixture
def sparse(teacher: Path, tmp_path: Path) -> Path:
    """The teacher with the smaller half of each matrix gone."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        for layer in block_linears(model).values():
            layer.weight.mul_(layer.weight.abs() > layer.weight.abs().median())
    folder = make(tmp_path / "sparse")
    model.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def kl(folder: Path, teacher: Path) -> float:
    """KL(teacher || student) on random tokens, written out."""
    ids = torch.randint(1, 90, (8, 40), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mine, truth = (AutoModelForCausalLM.from_pretrained(one)(ids).logits.double() for one in (folder, teacher))
    return float((truth.softmax(-1) * (truth.log_softmax(-1) - mine.log_softmax(-1))).sum(-1).mean())


@pytest.mark.parametrize("method", ["divergence", "squarehead-sparse-finetuning"])
def test_a_pruned_student_comes_nearer_and_its_zeros_stay(
    teacher: Path, sparse: Path, text: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    made = distil(teacher, sparse, out, method=method, data=str(text), budget=Budget(steps=60), rates=(1e-3, 3e-3),
                  rows=2, say=said.append)  # fmt: skip
    assert kl(out, teacher) < 0.8 * kl(sparse, teacher)
    assert made.recovered.after < made.recovered.before
    assert made.rate == min(made.tried, key=made.tried.__getitem__)
    before, after = weights(sparse), weights(out)
    masked = pruned(AutoModelForCausalLM.from_pretrained(sparse))
    assert len(masked) == made.pruned == 21
    for name, mask in masked.items():
        assert torch.equal(after[f"{name}.weight"] != 0, mask)
        assert not torch.equal(after[f"{name}.weight"], before[f"{name}.weight"])
    assert any("zeros, which stay" in line for line in said)
    figures = json.loads((out / "distillation.json").read_text())
    assert figures["after"] == made.recovered.after
    assert "<svg" in (out / "distillation.svg").read_text()
    assert not list(tmp_path.glob(".out*"))


def test_a_student_of_fewer_blocks_is_the_teacher_without_the_others(teacher: Path, tmp_path: Path) -> None:
    ids = torch.randint(1, 90, (2, 20), generator=torch.Generator().manual_seed(1))
    whole, student = (AutoModelForCausalLM.from_pretrained(teacher).eval() for _ in range(2))
    cut(student, 2)
    without = whole.model.layers[1]
    without.forward = lambda hidden, *_, **__: hidden
    with torch.no_grad():
        assert torch.equal(student(ids, use_cache=False).logits, whole(ids, use_cache=False).logits)
        student.save_pretrained(tmp_path / "cut")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
        assert torch.equal(again(ids).logits, student(ids).logits)  # with a cache too
    for count in (0, 4):
        with pytest.raises(RunError, match="a number from 1 to 3"):
            cut(whole, count)


def test_it_goes_on_where_it_was_and_ends_with_the_same_bits(teacher: Path, text: Path, tmp_path: Path) -> None:
    def run(out: Path, until: int | None = None) -> None:
        steps = 0

        def progress(*_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == until:
                raise KeyboardInterrupt

        distil(teacher, teacher, out, data=str(text), budget=Budget(steps=30), rates=(1e-3, 1e-2), keep_blocks=2,
               rows=2, progress=progress)  # fmt: skip

    run(tmp_path / "whole")
    for until in (2, 3, 5, 10):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", until)
        assert not (tmp_path / "cut").exists()
    run(tmp_path / "cut")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_of_the_catalogue_is_what_its_formula_says() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 9, generator=draw), torch.randn(6, 9, generator=draw)
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    loss, asks = loss_of("divergence", {"hard": 0.0, "temperature": 1.0})
    told = {"student": student, "teacher": teacher, "labels": labels}
    direct = F.kl_div(student.double().log_softmax(-1), teacher.double().softmax(-1), reduction="batchmean")
    assert float(loss(**{name: told[name] for name in asks})) == pytest.approx(float(direct), rel=1e-5)
    assert {"divergence", "sinkd", "squarehead-sparse-finetuning"} <= set(losses())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": Budget()}, "needs a budget"),
        ({"rates": (0.0,)}, "positive number"),
        ({"method": "gptq"}, "no loss"),
        ({"keep_blocks": 9}, "a number from 1 to 3"),
        ({"method": "squarehead-sparse-finetuning", "keep_blocks": 2}, "2 blocks of width 32, the teacher 3"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    teacher: Path, text: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    given: dict[str, Any] = {"budget": Budget(steps=5), "data": str(text), **options}
    with pytest.raises(RunError, match=says):
        distil(teacher, teacher, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_other_tokens_and_a_full_folder_are_refused(teacher: Path, text: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", words=[*WORDS[:-1], "new"])
    with pytest.raises(RunError, match="different tokenizers"):
        distil(teacher, other, tmp_path / "out", data=str(text), budget=Budget(steps=5))
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RunError, match="not an empty folder"):
        distil(teacher, teacher, tmp_path / "out", data=str(text), budget=Budget(steps=5))


def test_too_little_memory_is_said_before_it_is_taken(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "need_memory", _refuse)
    with pytest.raises(RunError, match="reading the two models"):
        distil(teacher, teacher, tmp_path / "out", data=str(text), budget=Budget(steps=5))


def _refuse(needed: float, what: str) -> None:
    assert needed > 0
    raise RunError(what)


def test_the_command(teacher: Path, sparse: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "recovered"
    words = ["distill", str(teacher), str(sparse), "-o", str(out), "--budget", "8steps", "--rate", "1e-3", "--data",
             str(text), "--rows", "2", "--tokens", "256"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"{out}: recovery: KL on validation text" in done.output.replace(os.linesep, "\n")
    assert (out / "model.safetensors").is_file()
    for wrong, says in ((["--rate", "fast"], "a positive number"), (["--budget", "soon"], "a time such as 30m")):
        refused = CliRunner().invoke(app, [*words[:4], str(tmp_path / "b"), *words[5:], *wrong])
        assert refused.exit_code == 2
        assert says in refused.output
