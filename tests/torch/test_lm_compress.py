"""The task against a plain loop over transformers; planted damage; a run interrupted and resumed."""

import json
import math
import random
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from paperlab.assets.texts import TextError, load_text
from paperlab.cli import app
from paperlab.core.card import Arm
from paperlab.core.record import Record
from paperlab.core.verdict import verdict
from paperlab.lab.drivers import compress as driver
from paperlab.lab.run import run_checks
from paperlab.lab.stage import is_drawn
from paperlab.methods.quantization import original, round_to_nearest
from paperlab.tasks import lm_compress as task


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama with a tokenizer of its own, as a user's folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(load_text("catalogue").documents[:100], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def setting(tiny: str) -> task.Setting:
    return task.make(0, "quick", model=tiny, data="catalogue")


def test_perplexity_equals_a_plain_loop(setting: task.Setting) -> None:
    arm = driver.build({"transform": original.transform}, {}, setting=setting)
    values = list(task.score(arm, setting))
    losses = []
    with torch.no_grad():
        for row in setting.held_out:  # transformers shifts the labels and takes the mean itself
            losses.append(setting.model(input_ids=row[None], labels=row[None]).loss.item())
    ours = math.exp(sum(value["nll"] for value in values) / len(values))
    theirs = math.exp(sum(losses) / len(losses))
    assert len(values) == len(losses) == task.items(setting)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert max(abs(value["kl"]) for value in values) < 1e-6


def test_windows_of_another_length(tiny: str, setting: task.Setting) -> None:
    long = task.make(0, "quick", model=tiny, data="catalogue@256")
    assert long.held_out.shape == (48, 256)
    assert sum(batch["input_ids"].numel() for batch in long.calibration) == 32 * 128  # as many tokens
    assert (task.describe(long)["window"], task.describe(long)["data"]["id"]) == (256, "catalogue@256")
    assert task.describe(setting)["data"]["id"] == "catalogue"
    assert len(task.make(0, "quick", model=tiny, data="catalogue@1024").held_out) == task.FEWEST
    arm = driver.build({"transform": original.transform}, {}, setting=long)
    assert len(list(task.score(arm, long))) == 48
    with pytest.raises(TextError, match="windows of 4"):
        task.make(0, "quick", model=tiny, data="catalogue@4")


def test_tells_good_from_bad_and_resumes_bit_for_bit(setting: task.Setting) -> None:
    def mean(key: str, **params: Any) -> float:
        arm = driver.build({"quantize": round_to_nearest.quantize}, params, setting=setting)
        return sum(value[key] for value in task.score(arm, setting)) / task.items(setting)

    assert mean("kl", bits=8) < mean("kl", bits=4) < mean("kl", bits=2)
    arm = driver.build({"quantize": round_to_nearest.quantize}, {"bits": 3}, setting=setting)
    whole = list(task.score(arm, setting))
    assert list(task.score(arm, setting, start=7)) == whole[7:]


def test_calibration_and_held_out_share_nothing(setting: task.Setting) -> None:
    def pieces(rows: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(row[i : i + 16].tolist()) for row in rows for i in range(0, len(row) - 16)}

    calibration = torch.cat([batch["input_ids"] for batch in setting.calibration])
    assert not pieces(calibration) & pieces(setting.held_out)
    random = setting.calibration_from("random")
    assert sum(len(batch["input_ids"]) for batch in random) == len(calibration)
    again = torch.cat([batch["input_ids"] for batch in setting.calibration_from("reordered")])
    assert not torch.equal(again, calibration)
    assert sorted(again.tolist()) == sorted(calibration.tolist())


def test_interrupted_run_is_resumed_and_an_abandoned_one_is_kept(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(home: str, resume: bool = False, stop_after: int | None = None) -> list[Record]:
        monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / home))
        seen = 0

        def progress(event: dict[str, Any]) -> None:
            nonlocal seen
            seen += event["kind"] == "item"
            if stop_after is not None and seen > stop_after:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"model": tiny, "data": "catalogue", "claim": "range-adds-to-outliers"}
        return run_checks("easyquant", resume=resume, progress=progress, jobs=1, **options)

    (unbroken,) = run("unbroken")
    with pytest.raises(KeyboardInterrupt):
        run("broken", stop_after=61)
    (resumed,) = run("broken", resume=True)
    assert [arm.samples for arm in resumed.arms] == [arm.samples for arm in unbroken.arms]
    assert [arm.totals for arm in resumed.arms] == [arm.totals for arm in unbroken.arms]
    assert verdict(resumed).low == verdict(unbroken).low

    with pytest.raises(KeyboardInterrupt):
        run("abandoned", stop_after=5)
    run("abandoned")
    (file,) = (tmp_path / "abandoned" / "records").glob("*/*/*.jsonl")
    assert [json.loads(line)["status"] for line in file.read_text().splitlines()] == ["interrupted", "finished"]


def test_a_pool_gives_the_bits_of_one_process_and_global_states_are_left_alone(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPTQ is drawn with every seed's calibration, EasyQuant and the others are not."""
    options: dict[str, Any] = {"model": tiny, "data": "catalogue", "claim": "better-than-gptq", "seeds": 2}
    found = []
    for jobs in (1, 2):
        monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / f"home{jobs}"))
        before = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        (record,) = run_checks("easyquant", jobs=jobs, **options)
        after = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert before[0] == after[0]
        assert torch.equal(before[1], after[1])
        assert (before[2] == after[2]).all()
        assert before[3] == after[3]
        found.append(record)
    alone, pooled = found
    assert [arm.samples for arm in pooled.arms] == [arm.samples for arm in alone.arms]
    assert {(arm.drawn, len(arm.samples)) for arm in pooled.arms} == {(False, 1), (True, 2)}
    gptq = pooled.arms[1]
    assert gptq.samples["0"] != gptq.samples["1"]
    assert "methods/quantization/gptq.py" in gptq.sources
    assert gptq.params["act_order"] is not None
    assert pooled.setting == alone.setting
    assert pooled.setting["threads"] == 1


def test_another_seed_s_setting_is_what_would_have_been_made(tiny: str, setting: task.Setting) -> None:
    made, remade = task.make(3, "quick", model=tiny, data="catalogue"), task.remake(setting, 3)
    assert torch.equal(made.held_out, remade.held_out)
    pairs = zip(made.calibration, remade.calibration, strict=True)
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in pairs)
    assert remade.model is setting.model
    assert not torch.equal(setting.calibration[0]["input_ids"], remade.calibration[0]["input_ids"])


@pytest.mark.parametrize(
    ("arm", "where", "drawn"),
    [
        (Arm("original"), "lm_compress", False),
        (Arm("round-to-nearest", bits=4), "lm_compress", False),
        (Arm("gptq"), "lm_compress", True),
        (Arm("random-rotation"), "lm_compress", True),
        (Arm("round-to-nearest", bits=4, after=Arm("wanda")), "lm_compress", True),
        (Arm("full-precision"), "classify_small", True),
        (Arm("uniform-average"), "merge", True),
    ],
)
def test_what_is_drawn(arm: Arm, where: str, drawn: bool) -> None:
    assert is_drawn(arm, where) is drawn


def test_the_documented_command_on_a_model_of_one_s_own(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of docs/howto/check_on_your_model.md, on a local folder and a local text."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "check_on_your_model.md").read_text()
    (command,) = re.findall(r"^paperlab (run .*)$", page, re.M)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(load_text("abstracts").documents[:400]))
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path / "home"))
    words = [{"Qwen/Qwen2.5-0.5B": tiny, "my-texts.txt": str(text)}.get(word, word) for word in shlex.split(command)]
    done = CliRunner().invoke(app, [*words, "--jobs", "1", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    (row,) = json.loads(done.stdout)
    assert (row["model"], row["data"], row["status"]) == (Path(tiny).name, "text.txt", "finished")
    assert row["word"] != "error"
