"""One command from a model to a smaller one: every stage, killed in each, on tiny models that the engine then runs."""

import errno
import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

import paperlab
from paperlab.assets.texts import Text
from paperlab.cli import app
from paperlab.lab import recovery
from paperlab.lab.compress import Settings, budget_of, compress, share_of, target_of, work
from paperlab.lab.compress.levels import DROPPED, LEVELS, RANKS, Solver, dense, from_tensors, to_tensors
from paperlab.lab.compress.search import Costs, Found, allocate, evolve, mutated
from paperlab.lab.compress.windows import Judge, start_of, windows_of
from paperlab.lab.errors import RunError

engine = pytest.importorskip("paperlab.engine")
if not engine.available():
    pytest.skip("the compiled engine is not installed", allow_module_level=True)


WORDS = [f"w{i}" for i in range(90)]
KIND: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
TEXTS = tuple(
    " ".join(random.Random(n).choices(WORDS, weights=range(1, 91), k=120)) for n in range(40)
)  # several windows in each half
QUICK = {"search": 0.0, "tokens": 256, "exports": ()}


def make(folder: Path, kind: str = "llama", *, tied: bool = True, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if kind == "qwen2":  # transformers takes the tokenizer's kind from the architecture: bytes, in pairs
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
        trainer = BpeTrainer(vocab_size=280, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<|endoftext|>"])
        tokenizer.train_from_iterator(TEXTS, trainer)
    unknown = {} if kind == "qwen2" else {"unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **unknown).save_pretrained(folder)
    config_class, model_class = KIND[kind]
    config = config_class(
        vocab_size=96 if kind == "llama" else 288,
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.15,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model_class(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "model")


def settings(**options: Any) -> Settings:
    given: dict[str, Any] = {"target": target_of("3x"), "within": None, "texts": TEXTS} | QUICK | options
    return Settings(**given)


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words() -> None:
    assert target_of("4x").bytes(1000) == 500
    assert target_of(" 1.5 GB ").bytes(1) == 1_500_000_000
    assert (target_of("200tok/s").kind, target_of("200tok/s").bytes(9)) == ("speed", None)
    assert share_of("1%") == share_of("0.01") == share_of(0.01) == 0.01
    assert budget_of("30m").seconds == 1800
    assert budget_of("50ktokens").tokens == 50_000
    assert not budget_of("0")


@pytest.mark.parametrize("wrong", ["4", "x", "0x", "1x", "-3MB", "fast"])
def test_a_wrong_target_says_what_is_right(wrong: str) -> None:
    with pytest.raises(RunError, match="4x"):
        target_of(wrong)


# ── levels ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("level", LEVELS)
def test_solved_codes_change_outputs_less_than_nearest_ones(level: str) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(24, 96), torch.randn(400, 96) @ torch.randn(96, 96)
    solver, layout = Solver.of(x.T @ x), LEVELS[level]
    codes, error = solver.codes(weight, LEVELS)[level]
    plain = engine.quantize(weight.numpy(), layout)
    exact = float((x @ (weight - dense(codes)).T).square().sum() / (x @ weight.T).square().sum())
    assert error == pytest.approx(exact, rel=1e-3)
    assert error < solver.error(weight, plain)
    if layout.sparse:
        assert (dense(codes) != 0).float().mean() <= 0.5


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_stored_is_what_is_read_and_what_the_engine_computes(level: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 80)  # 80 is no multiple of 64: the last group is shorter
    codes, _ = Solver.of(torch.eye(80)).codes(weight, LEVELS)[level]
    back = from_tensors("w", to_tensors("w", codes))
    assert np.array_equal(back.codes, codes.codes)
    assert torch.equal(dense(back), dense(codes))


def test_weights_on_the_grid_are_kept_exactly() -> None:
    torch.manual_seed(0)
    weight = dense(engine.quantize(torch.randn(16, 64).numpy(), LEVELS["4"]))
    codes, error = Solver.of(torch.eye(64)).codes(weight, {"4": LEVELS["4"]})["4"]
    assert error < 1e-6
    assert torch.allclose(dense(codes), weight, atol=1e-3)


def test_thin_matrices_give_back_as_much_as_any_of_their_rank_can() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(24, 96), torch.randn(400, 96) @ torch.randn(96, 96)
    made = Solver.of(x.T @ x).codes(weight, LEVELS)
    for level, (base, rank) in RANKS.items():
        values = torch.linalg.svdvals((weight - dense(made[base][0])).double() @ x.double().T)
        best = float(values[rank:].square().sum() / (x @ weight.T).square().sum())
        assert made[level][1] == pytest.approx(best, rel=0.02)
        assert made[level][1] < 0.9 * made[base][1]


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────


def costs_of(count: int = 5, seed: int = 0) -> Costs:
    rng = random.Random(seed)
    levels = {"2": 25, "3": 35, "4": 45, "8": 85}
    loss = {
        f"m{i}": {level: rng.random() * 2.0 ** -(size / 10) for level, size in levels.items()} for i in range(count)
    }
    return Costs(loss, {name: dict(levels) for name in loss}, 7)


def test_the_allocation_is_the_best_at_its_own_size() -> None:
    import itertools

    costs = costs_of()
    for budget in (150, 200, 260, 330):
        found = allocate(costs, budget)
        assert found is not None
        size, loss = costs.size(found), sum(costs.loss[name][level] for name, level in found.items())
        assert size <= budget
        every = [
            dict(zip(costs.loss, levels, strict=True)) for levels in itertools.product("2348", repeat=len(costs.loss))
        ]
        best = min(sum(costs.loss[n][v] for n, v in one.items()) for one in every if costs.size(one) <= budget)
        assert loss <= 1.35 * best  # what does not fit the last gap is lost, and no more


def test_no_allocation_below_the_smallest_file() -> None:
    costs = costs_of()
    assert allocate(costs, costs.least() - 1) is None
    assert allocate(costs, costs.least()) is not None


def test_a_child_stays_within_the_budget() -> None:
    costs = costs_of()
    ladders = {name: sorted(by, key=by.__getitem__) for name, by in costs.bytes.items()}
    parent = allocate(costs, 220)
    assert parent is not None
    for n in range(50):
        child = mutated(costs, parent, ladders, 220, random.Random(n))
        assert child is None or costs.size(child) <= 220


def test_an_evolution_that_is_taken_up_ends_as_an_unbroken_one() -> None:
    costs = costs_of(8)
    truth = costs_of(8, seed=1)
    measure = lambda choice: sum(truth.loss[name][level] for name, level in choice.items())  # noqa: E731
    start = allocate(costs, 350)
    assert start is not None

    def run(begin: Found, generations: int) -> Found:
        return evolve(
            costs, begin, measure, budget=350, generations=generations, children=4, seed=3, kept=lambda _: None
        )

    whole = run(Found(start, measure(start)), 12)
    part = json.loads(json.dumps(run(Found(start, measure(start)), 5).state()))
    assert run(Found(**part), 12) == whole
    assert whole.kl < measure(start)


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("qwen2", False)])
def test_from_a_model_to_a_smaller_one(tmp_path: Path, kind: str, tied: bool) -> None:
    source, out = make(tmp_path / "model", kind, tied=tied), tmp_path / "small"
    said: list[str] = []
    asked = settings(exports=("gguf", "hf"), search=0.2, recover=budget_of("6steps"))
    found = compress(source, out, asked, say=said.append)
    assert found.met, found.says
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(source).parameters())
    assert (out / "model.safetensors").stat().st_size <= 2 * weights / 3
    assert any(line.startswith("time:") for line in said)
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "tokenizer.json", "recipe.json", "report.html", "hf"} <= names
    gguf = next(one for one in found.figures["exports"] if one["format"] == "gguf")
    if kind == "llama":  # GGUF has no tokenizer of words
        assert gguf["path"] is None
        assert "not written" in gguf["notes"][0]
    else:
        assert engine.load(out / "model.gguf").about["layers"] == 2
    assert not work.place_of(out).exists()

    ids = list(range(1, 40))
    loaded = engine.load(out)
    mine = loaded.forward([(loaded.session(cache_bits=32), ids)], every=True)
    plain = AutoModelForCausalLM.from_pretrained(out / "hf", dtype=torch.float32)
    with torch.no_grad():
        theirs = plain(input_ids=torch.tensor([ids])).logits[0].numpy()
    assert np.abs(mine - theirs).max() < 2e-3 * np.abs(theirs).max()
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in ("Pareto front", "What was chosen", "Texts side by side", "model.layers.1.mlp.down_proj", "Recovery"):
        assert words in page


def test_a_recipe_repeats_it(folder: Path, tmp_path: Path) -> None:
    compress(folder, tmp_path / "a", settings(search=0.2))
    again = settings(target=None, recipe=tmp_path / "a" / "recipe.json")
    found = compress(folder, tmp_path / "b", again)
    assert found.met
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def idle(tmp_path: Path, which: int) -> Path:
    """A model of four blocks, one of which adds nothing."""
    torch.manual_seed(0)
    folder = make(tmp_path / "model")
    config = LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers = 4
    model = LlamaForCausalLM(config)
    for layer in (model.model.layers[which].self_attn.o_proj, model.model.layers[which].mlp.down_proj):
        layer.weight.data.zero_()
    model.save_pretrained(folder)
    return folder


def test_a_block_that_adds_nothing_is_dropped(tmp_path: Path) -> None:
    folder, out = idle(tmp_path, 1), tmp_path / "small"
    found = compress(folder, out, settings(exports=("hf",), recover=budget_of("4steps"), target=target_of("3.5x")))
    assert {name for name, level in found.figures["levels"].items() if level == DROPPED} == {
        name for name in found.figures["levels"] if ".layers.1." in name
    }
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 3
    loaded, ids = engine.load(out), list(range(1, 40))
    assert loaded.about["layers"] == 3
    mine = loaded.forward([(loaded.session(cache_bits=32), ids)], every=True)
    plain = AutoModelForCausalLM.from_pretrained(out / "hf", dtype=torch.float32)
    with torch.no_grad():
        theirs = plain(input_ids=torch.tensor([ids])).logits[0].numpy()
    assert np.abs(mine - theirs).max() < 2e-3 * np.abs(theirs).max()
    assert "left out with its block" in (out / "report.html").read_text(encoding="utf-8")
    again = settings(target=None, recipe=out / "recipe.json", recover=budget_of("4steps"))
    compress(folder, tmp_path / "again", again)
    assert weights_of(out) == weights_of(tmp_path / "again")


def test_a_recipe_that_drops_half_a_block_is_refused(tmp_path: Path) -> None:
    folder, out = idle(tmp_path, 1), tmp_path / "small"
    levels = dict(compress(folder, out, settings(target=target_of("3.5x"))).figures["levels"])
    levels["model.layers.1.mlp.down_proj"] = "3"
    (tmp_path / "recipe.json").write_text(json.dumps({"levels": levels}))
    with pytest.raises(RunError, match=r"does not fit.*'dropped'"):
        compress(folder, tmp_path / "b", settings(target=None, recipe=tmp_path / "recipe.json"))


def test_a_recipe_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text('{"levels": {"lm_head": "9"}}')
    with pytest.raises(RunError, match="does not fit"):
        compress(folder, tmp_path / "b", settings(target=None, recipe=file))
    file.write_text("[]")
    with pytest.raises(RunError, match="no recipe"):
        compress(folder, tmp_path / "b", settings(target=None, recipe=file))


def test_a_target_out_of_reach_says_the_nearest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"out of reach.*2 bits.*nearest that can be asked for is \d") as said:
        compress(folder, tmp_path / "b", settings(target=target_of("20x")))
    nearest = target_of(str(said.value).rsplit(" ", 1)[1])
    assert compress(folder, tmp_path / "b", settings(target=nearest)).met


def test_a_limit_that_is_not_met_writes_nothing(folder: Path, tmp_path: Path) -> None:
    tight = settings(target=target_of("3.8x"), within=0.0001, metric="kl")
    found = compress(folder, tmp_path / "b", tight)
    assert not found.met
    assert not (tmp_path / "b").exists()
    assert "nearest" in found.says
    assert "would be within" in found.says
    forced = compress(
        folder, tmp_path / "b", settings(target=target_of("3.8x"), within=0.0001, metric="kl", anyway=True)
    )
    assert not forced.met
    assert engine.load(tmp_path / "b")


def test_a_limit_alone_takes_the_smallest_that_meets_it(folder: Path, tmp_path: Path) -> None:
    wide = compress(folder, tmp_path / "wide", settings(target=None, within=0.5, metric="kl", keep=True))
    tight = compress(folder, tmp_path / "tight", settings(target=None, within=0.01, metric="kl"))
    assert wide.met
    assert tight.met
    assert len(weights_of(tmp_path / "wide")) < len(weights_of(tmp_path / "tight"))


def test_a_speed_is_measured(folder: Path, tmp_path: Path) -> None:
    assert compress(folder, tmp_path / "b", settings(target=target_of("1tok/s"))).met
    with pytest.raises(RunError, match="out of reach"):
        compress(folder, tmp_path / "c", settings(target=target_of("100000000tok/s")))


def test_from_python(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: set[str] = set()
    found = paperlab.compress(
        model, tmp_path / "b", target="3x", calibration=TEXTS, search="0", tokens=256, exports=(),
        progress=lambda stage, *_: seen.add(stage),
    )  # fmt: skip
    assert found.met
    assert found.report is not None
    assert {"levels", "sensitivities", "measuring"} <= seen
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not list(tmp_path.glob(".source-*"))
    with pytest.raises(RunError, match="no option"):
        paperlab.compress(model, tmp_path / "c", target="3x", speed=3)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

KILLED = """
import os, signal, sys
from pathlib import Path
from test_compress import TEXTS, settings
from paperlab.lab.compress import budget_of, compress
from paperlab.core import files
import paperlab.lab.recovery, paperlab.lab.compress.work

source, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
written = 0
original = files.write_atomically

def write(file, content):
    global written
    original(file, content)
    written += 1
    if written == count:
        os.kill(os.getpid(), signal.SIGKILL)

paperlab.lab.recovery.write_atomically = paperlab.lab.compress.work.write_atomically = write
compress(source, out, settings(search=0.0, recover=budget_of("6steps")))
print(written)
"""


def test_killed_in_every_stage_it_ends_the_same(folder: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *sys.path])
    run = lambda out, count: subprocess.run(  # noqa: E731
        [sys.executable, "-c", KILLED, str(folder), str(out), str(count)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    out, total = tmp_path / "cut", int(whole.stdout.split()[-1])
    deaths, left = 0, total
    while left > 3 and deaths < 12:
        done = run(out, max(2, total // 6))
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        assert not out.exists()
        deaths += 1
        left -= total // 6
    if not out.exists():
        assert run(out, 0).returncode == 0
    assert deaths >= 4
    assert weights_of(out) == weights_of(tmp_path / "whole")
    assert not work.place_of(out).exists()


def test_two_runs_in_one_folder(folder: Path, tmp_path: Path) -> None:
    with work.opened(tmp_path / "b"), pytest.raises(RunError, match="another run is at work"):
        compress(folder, tmp_path / "b", settings())
    assert compress(folder, tmp_path / "b", settings()).met
    with pytest.raises(RunError, match="not an empty folder"):
        compress(folder, tmp_path / "b", settings())


def test_a_full_disk_loses_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, original = 0, work.write_atomically

    def write(file: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > 20:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        original(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(work, "write_atomically", write)
        with pytest.raises(RunError, match=r"disk of .* is full.*goes on"):
            compress(folder, tmp_path / "b", settings())
    kept = len(list(work.place_of(tmp_path / "b").rglob("*.safetensors")))
    assert kept >= 9
    assert compress(folder, tmp_path / "b", settings()).met


def test_it_stops_before_memory_or_disk_run_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "memory_left", lambda: 1000)
    with pytest.raises(RunError, match="stopped before it runs out"):
        compress(folder, tmp_path / "b", settings())
    monkeypatch.undo()
    monkeypatch.setattr(work.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100_000}))
    with pytest.raises(RunError, match="on the disk"):
        compress(folder, tmp_path / "b", settings())


def test_a_damaged_model_is_refused(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.fill_(1e30)
    model.save_pretrained(folder)
    with pytest.raises(RunError, match="not finite"):
        compress(folder, tmp_path / "b", settings())


def test_too_little_text(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too short"):
        compress(folder, tmp_path / "b", settings(texts=("w1 w2 w3",)))
    with pytest.raises(ValueError, match="the half that decides has"):  # said before any work
        compress(folder, tmp_path / "b", settings(texts=(TEXTS[4] * 40, "w1 w2"), recover=budget_of("9steps")))
    assert not list(work.place_of(tmp_path / "b").glob("levels-*"))


def test_windows_begin_as_the_measuring_has_them(folder: Path) -> None:
    """With the tokens that the tokenizer puts before a text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="w7 $A w8", special_tokens=[("w7", 8), ("w8", 9)])
    begun = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert start_of(begun) == [8]
    text = Text("texts", TEXTS, "0", "", "")
    cut = windows_of(text, begun, 64, 0)
    plain = windows_of(text, AutoTokenizer.from_pretrained(folder), 64, 0)
    assert (cut.training[:, 0] == 8).all()
    assert cut.training.shape[1] == plain.training.shape[1] == 64
    inside = sorted(cut.training[:, 1:].flatten().tolist())
    assert len(inside) <= len(TEXTS) * 120
    assert not (plain.training[:, 0] == 8).all()


def test_another_tokenizer_or_configuration_is_another_model(folder: Path) -> None:
    before = work.described(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    changed = work.described(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    assert len({before, changed, work.described(folder)}) == 3


def test_losses_that_are_not_finite_do_not_leave_a_matrix_at_its_smallest_level() -> None:
    from paperlab.lab.compress.stages import BROKEN, _costs

    levels = {"2": {"error": 0.1, "bytes": 2}, "3": {"error": 0.01, "bytes": 3}, "4": {"error": 0.001, "bytes": 4}}
    about = {"broken": levels, "fine": levels}
    costs = _costs(None, about, {"broken": {"3": float("inf")}, "fine": {"3": 1e-3}}, 0)  # type: ignore[arg-type]
    assert costs.loss["broken"]["3"] == BROKEN
    assert allocate(costs, 6) == {"broken": "4", "fine": "2"}


def test_the_judge_measures_from_the_changed_block_on(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    judge = Judge(model, torch.randint(1, 90, (2, 32)))
    name = "model.layers.1.mlp.up_proj"
    changed = model.get_submodule(name).weight.detach() * 0.5
    short = judge.measure({name: changed})
    with torch.no_grad():
        model.get_submodule(name).weight.copy_(changed)
    assert judge.now(0) == short
    judge.reset([name])
    assert judge.now(0).kl < 1e-6
    assert short.kl > 1e-4


# ── recovery ─────────────────────────────────────────────────────────────────────────────────────────────────────


def student_of(folder: Path) -> tuple[Any, Any]:
    teacher = AutoModelForCausalLM.from_pretrained(folder).eval()
    student = AutoModelForCausalLM.from_pretrained(folder).eval()
    from paperlab.kit.walk import block_linears

    codes = {
        name: engine.quantize(layer.weight.detach().numpy(), LEVELS["2"])
        for name, layer in block_linears(student).items()
    }
    recovery.put_in(student, codes)
    return student, teacher


def windows(seed: int, count: int) -> torch.Tensor:
    return torch.randint(1, 90, (count, 32), generator=torch.Generator().manual_seed(seed))


def test_recovery_helps_and_is_what_the_codes_say(folder: Path, tmp_path: Path) -> None:
    student, teacher = student_of(folder)
    found = recovery.recover(
        student,
        teacher,
        windows(0, 40),
        windows(1, 4),
        budget=recovery.Budget(steps=60),
        folder=tmp_path / "r",
        rate=3e-3,
    )
    assert found.after < 0.9 * found.before
    assert recovery.divergence(student, teacher, windows(1, 4)) == pytest.approx(found.after, rel=1e-4)
    assert "<svg" in (tmp_path / "r" / "recovery.svg").read_text()
    layer = student.model.layers[0].mlp.up_proj
    assert torch.allclose(dense(layer.stored()), layer.weight, atol=1e-2)


def test_recovery_that_is_cut_ends_with_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(place: Path, until: int | None = None) -> Any:
        student, teacher = student_of(folder)
        steps = 0

        def progress(*_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == until:
                raise KeyboardInterrupt

        found = recovery.recover(
            student, teacher, windows(0, 40), windows(1, 4), budget=recovery.Budget(steps=24), folder=place,
            rate=3e-3, progress=progress,
        )  # fmt: skip
        return found, {name: p.detach().clone() for name, p in student.named_parameters()}

    whole, weights = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 7)
    again, mine = run(tmp_path / "cut", None)
    assert again.curve == whole.curve
    assert all(torch.equal(weights[name], mine[name]) for name in weights)


def test_a_recovery_that_does_not_help_leaves_the_model_as_it_was(folder: Path, tmp_path: Path) -> None:
    student, teacher = student_of(folder)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    found = recovery.recover(
        student,
        teacher,
        windows(0, 8),
        windows(1, 4),
        budget=recovery.Budget(steps=12),
        folder=tmp_path / "r",
        rate=30.0,
    )
    assert found.best == 0
    assert "did not help" in found.says()
    assert all(torch.equal(before[name], p) for name, p in student.named_parameters())


def test_a_loss_that_is_not_finite_keeps_the_best(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = student_of(folder)
    original, count = recovery.Training.step, 0

    def step(self: Any, share: float) -> float:
        nonlocal count
        count += 1
        if count == 9:
            raise FloatingPointError("the loss is nan at step 8; try a lower learning rate")
        return float(original(self, share))

    monkeypatch.setattr(recovery.Training, "step", step)
    found = recovery.recover(
        student,
        teacher,
        windows(0, 40),
        windows(1, 4),
        budget=recovery.Budget(steps=24),
        folder=tmp_path / "r",
        rate=3e-3,
    )
    assert "nan" in found.stopped
    assert found.best > 0
    assert recovery.divergence(student, teacher, windows(1, 4)) == pytest.approx(found.after, rel=1e-4)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS))
    run = lambda *words: CliRunner().invoke(app, ["compress", str(folder), *words])  # noqa: E731
    common = ["--data", str(text), "--search", "0", "--tokens", "256", "--export", "none"]
    done = run("-o", str(tmp_path / "b"), "--target", "3x", *common)
    assert done.exit_code == 0, done.output
    assert "report.html" in done.stdout
    refused = run("-o", str(tmp_path / "c"), "--target", "3.8x", "--within", "0.00001", "--metric", "kl", *common)
    assert refused.exit_code == 1
    assert not (tmp_path / "c").exists()
    assert run("-o", str(tmp_path / "d")).exit_code == 2
    assert "target" in run("-o", str(tmp_path / "d"), *common).output


def test_the_example_of_the_howto(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS))
    example = Path(__file__).resolve().parents[2] / "docs" / "howto" / "compress_a_model.py"
    more = ["3x", "400%", "1s"]
    monkeypatch.setattr(sys, "argv", ["example", str(folder), str(text), str(tmp_path / "small"), *more])
    made = runpy.run_path(str(example))["made"]
    assert made.met, made.says
    assert made.report.is_file()
