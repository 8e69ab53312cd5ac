"""`paperlab merge`: what comes out opens and is the method's; refusals come before work and leave nothing; kill -9."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

import paperlab
from paperlab.cli import app
from paperlab.lab import checkpoints

WORDS = ["<unk>", *sorted(set(re.findall(r"\w+", "the small model reads what the large model wrote a second text")))]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def model_folder(folder: Path, seed: int, **sizes: Any) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(**{**SIZES, "num_attention_heads": 2, **sizes})
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A base and two models of its shape, not in one family by training, but so their files are."""
    return [model_folder(tmp_path / name, seed) for seed, name in enumerate(("base", "one", "two"))]


def run(*words: object, code: int = 0) -> tuple[str, str]:
    """What was printed on standard output and error."""
    done = CliRunner().invoke(app, ["merge", *map(str, words)], prog_name="paperlab")
    assert done.exit_code == code, (done.stderr, done.exception)
    return done.stdout, done.stderr


def left(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_the_result_opens_and_is_the_method_s(folders: list[Path]) -> None:
    out = folders[0].parent / "merged"
    said, _ = run(*folders, "--method", "ties", "--set", "density=0.5", "--set", "weights=0.7,0.3", "-o", out)
    assert said == f"{out}: 0.2 MB, 2 models merged into {folders[0]} by ties\n"
    states = [load_file(folder / "model.safetensors") for folder in folders]
    wanted = paperlab.load("ties", density=0.5, weights="0.7,0.3")(states[0], states[1:])
    found = load_file(out / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, wanted["model.layers.0.mlp.up_proj.weight"])
    assert len(AutoTokenizer.from_pretrained(out)) == len(WORDS)
    told = json.loads((out / "merge.json").read_text())
    assert told["method"] == "ties"
    assert told["parameters"] == {"density": 0.5, "weights": "0.7,0.3"}
    assert left(out.parent) == {"base", "one", "two", "merged"}


def test_shards_in_and_out(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = folders[0].parent / "whole", folders[0].parent / "merged"
    run(*folders, "--method", "task-arithmetic", "-o", whole)
    sharded = [folder.with_name(f"{folder.name}-shards") for folder in folders]
    for folder, to in zip(folders, sharded, strict=True):
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").save_pretrained(to, max_shard_size="60KB")
        assert (to / checkpoints.INDEX).is_file()
        (to / "stray.safetensors").write_bytes(b"not named in the index")
    monkeypatch.setattr(checkpoints, "SHARD", 50_000)
    run(*sharded, "--method", "task-arithmetic", "-o", out)
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    assert all(file.stat().st_size < 60_000 for file in out.glob("*.safetensors"))
    one, many = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, out))
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_json(folders: list[Path]) -> None:
    said, _ = run(*folders, "--method", "dare-super-mario", "-o", folders[0].parent / "merged", "--json")
    (row,) = json.loads(said)
    assert row["method"] == "dare-super-mario"
    assert row["models"] == [str(folder) for folder in folders[1:]]


def broken(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def short_of_one(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def other_words(folder: Path) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["text"], words["the"] = words["the"], words["text"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


def other_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))


def quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))


def narrower(folder: Path) -> None:
    shutil.rmtree(folder)
    model_folder(folder, 3, intermediate_size=96)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


REFUSED = [
    (broken, "model.norm.weight of .*two holds NaN or infinite values"),
    (short_of_one, "two lacks model.norm.weight, unlike .*base"),
    (other_words, "have other tokenizers"),
    (other_kind, "two has model_type mistral and .*base llama"),
    (quantized, "two is quantized; merge the original weights"),
    (narrower, r"is \[64, 96\] in .*two and \[64, 128\] in .*base"),
    (pickled, "has no .safetensors files"),
    (cut_short, "has a .safetensors file that cannot be read"),
]


@pytest.mark.parametrize(("spoil", "said"), REFUSED, ids=[spoil.__name__ for spoil, _ in REFUSED])
def test_models_that_do_not_belong_together_are_refused(folders: list[Path], spoil: Any, said: str) -> None:
    spoil(folders[2])
    _, error = run(*folders, "--method", "ties", "-o", folders[0].parent / "merged", code=2)
    assert re.search(said, error)
    assert error.count("\n") == 1
    assert left(folders[0].parent) == {"base", "one", "two"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "gptq"), "takes one of .*ties"),
        (("--method", "ties", "--set", "density=0"), "density=0.* is a share"),
        (("--method", "ties", "--set", "weights=1,2,3"), "3 numbers for 2 models"),
        (("--method", "tias"), "no method"),
        (("--method", "model-soups"), "uniform-average is the soup of all"),
        (("--method", "darex-delta-pruning"), "set q"),
        (("--method", "ties", "--data", "/no/such/file.txt"), "is not there; give a .txt"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_models_are_read(
    folders: list[Path], words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(checkpoints.Folder, "__getitem__", never)
    _, error = run(*folders, *words, "-o", folders[0].parent / "merged", code=2)
    assert re.search(said, error)
    assert left(folders[0].parent) == {"base", "one", "two"}


def test_a_folder_that_exists_and_a_full_disk_are_refused(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    out = folders[0].parent / "merged"
    _, error = run(*folders, "--method", "ties", "-o", folders[1], code=2)
    assert "one exists already" in error
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    _, error = run(*folders, "--method", "ties", "-o", out, code=2)
    assert "has 0.00 GB left" in error
    assert not out.exists()


def test_an_error_while_writing_leaves_nothing(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "copy_small_files", full)
    _, error = run(*folders, "--method", "ties", "-o", folders[0].parent / "merged", code=2)
    assert "No space left on device; nothing was left there" in error
    assert left(folders[0].parent) == {"base", "one", "two"}


SLOW = """
import sys, time
from paperlab.lab import checkpoints
write = checkpoints._write_tensors
def slowly(place, base, tensors, progress):
    def each():
        for number, row in enumerate(tensors):
            yield row
            print(number, flush=True)
            time.sleep(0.2)
    write(place, base, each(), progress)
checkpoints._write_tensors = slowly
from paperlab.cli import app
app(sys.argv[1:], prog_name="paperlab")
"""


@pytest.mark.parametrize("after", [0, 7])
def test_kill_9_leaves_no_model_and_the_next_run_cleans_up(folders: list[Path], after: int) -> None:
    out = folders[0].parent / "merged"
    words = ["merge", *map(str, folders), "--method", "ties", "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == after:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    assert any(name.startswith(".merged.partial-") for name in left(out.parent))
    run(*words[1:])
    assert left(out.parent) == {"base", "one", "two", "merged"}


def test_two_at_once_are_told_apart(folders: list[Path]) -> None:
    out = folders[0].parent / "merged"
    with checkpoints._staged(out) as place:
        _, error = run(*folders, "--method", "ties", "-o", out, code=2)
        assert "another process is writing" in error
        assert place.is_dir()


def test_memory_does_not_grow_with_the_number_of_models(tmp_path: Path) -> None:
    """The largest tensor counts, not the models: eight of 32 MB each take what two take, but for their files' pages."""
    code = """
import resource, sys
from pathlib import Path
import paperlab, torch
from paperlab.lab import checkpoints
folders = [Path(word) for word in sys.argv[1:]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge = paperlab.load(folders.pop(0).name)
merge(folders[0], folders[1:-1], out=folders[-1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    largest = 4  # MB in float32
    for number in range(9):
        (tmp_path / str(number)).mkdir()
        torch.manual_seed(number)
        state = {f"{n}.weight": torch.randn(1024, 1024) for n in range(8)}
        save_file(state, tmp_path / str(number) / "model.safetensors")
    grown = {}
    for count in (2, 8):
        words = ["ties", *(tmp_path / str(number) for number in range(count + 1)), tmp_path / f"merged-{count}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True
        )
        grown[count] = float(done.stdout)
    mapped = 32 * (8 - 2)  # files that are read through memory count as resident, though nobody holds them
    assert grown[8] - grown[2] < mapped + 2 * largest


def test_perplexity_beside_base_and_models(folders: list[Path]) -> None:
    text = folders[0].parent / "text.txt"
    text.write_text("\n\n".join(["the small model reads what the large model wrote a second text " * 40] * 30))
    out = folders[0].parent / "merged"
    said, error = run(*folders, "--method", "uniform-average", "-o", out, "--data", text)
    lines = said.splitlines()
    assert [line.rpartition("  ")[2] for line in lines[1:]] == [*map(str, folders), str(out)]
    assert all(line.startswith("  perplexity ") for line in lines[1:])
    assert "tokens of" in error
