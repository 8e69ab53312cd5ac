"""Exports, each read back by its own runtime: transformers, compressed-tensors' decompressor, llama.cpp, our engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from test_models import IDS, KINDS, LAYOUTS, dequantized, logits_of, make, relative  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.cli import app  # noqa: E402
from paperlab.engine import EngineError, Layout, pack  # noqa: E402
from paperlab.engine.formats.source import Source  # noqa: E402
from paperlab.engine.packing.container import Weights  # noqa: E402

EVEN = {"intermediate_size": 192}  # whole blocks of 32
LLAMA = os.environ.get("PAPERLAB_LLAMA_CPP", sys.executable)  # an interpreter that has llama-cpp-python


def mine(path):
    model = engine.load(path)
    return model.forward([(model.session(cache_bits=32), IDS)], every=True)


def theirs(folder, **options):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    return logits_of(model, IDS)


def tokenizer(folder):
    """A small byte-level BPE tokenizer in a model's folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=517,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template="{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}",
    )
    fast.save_pretrained(folder)
    return fast


TEXT = "def relative(mine): return 2024 + 'Größe'  # <s>x</s>"


WRITTEN = [
    kind
    for kind, (name, more) in KINDS.items()
    if name in ("Llama", "Mistral", "Qwen2", "Qwen3") and not more.get("sliding_window")
]
OTHERS = [kind for kind, (name, _) in KINDS.items() if name not in ("Llama", "Mistral", "Qwen2", "Qwen3")]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_are_written_for_transformers_alone(kind, tmp_path):
    make(tmp_path / "a", kind)
    with pytest.raises(EngineError, match="is not written as GGUF here"):
        engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf")
    if kind == "gpt2":
        with pytest.raises(EngineError, match="the other way round"):
            engine.export(tmp_path / "a", tmp_path / "d", "compressed-tensors", recipe=Layout(4))
    pack(tmp_path / "a", tmp_path / "b", Layout(8))
    engine.export(tmp_path / "b", tmp_path / "c", "hf")
    assert relative(theirs(tmp_path / "c"), mine(tmp_path / "b")) < 1e-3  # activations keep 15 bits per group
    assert relative(theirs(tmp_path / "c"), mine(tmp_path / "c")) < (1e-4 if "gemma" in kind else 1e-5)


@pytest.mark.parametrize("kind", WRITTEN)
def test_plain_models_come_through_gguf_and_hf_unchanged(kind, tmp_path):
    truth = logits_of(make(tmp_path / "a", kind), IDS)
    fast = tokenizer(tmp_path / "a")
    engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf")
    assert relative(mine(tmp_path / "m.gguf"), truth) < 1e-5
    loaded = engine.load(tmp_path / "m.gguf")
    assert loaded.ids(TEXT) == fast(TEXT)["input_ids"] == engine.load(tmp_path / "a").ids(TEXT)
    assert loaded.ids([{"role": "user", "content": "x"}]) == fast("<s>x</s>")["input_ids"]
    assert loaded.tokens.ends == {2}
    if kind == "llama3-rope":  # its scaling has become a table
        with pytest.raises(EngineError, match="model's folder instead"):
            engine.export(tmp_path / "m.gguf", tmp_path / "b", "hf")
        return
    engine.export(tmp_path / "m.gguf", tmp_path / "b", "hf")
    assert relative(mine(tmp_path / "b"), truth) < 1e-5
    assert relative(theirs(tmp_path / "b"), truth) < 1e-5
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    assert again(TEXT)["input_ids"] == fast(TEXT)["input_ids"]
    assert (again.eos_token, again.chat_template) == (fast.eos_token, fast.chat_template)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_packed_models_as_floats(layout, tmp_path):
    truth = logits_of(dequantized(make(tmp_path / "a"), layout), IDS)
    pack(tmp_path / "a", tmp_path / "b", layout)
    calls = []
    report = engine.export(tmp_path / "b", tmp_path / "c", "hf", shard=100_000, progress=lambda *row: calls.append(row))
    assert relative(theirs(tmp_path / "c"), truth) < 1e-5
    assert relative(mine(tmp_path / "c"), truth) < 1e-5
    assert len(list((tmp_path / "c").glob("model-*.safetensors"))) > 3
    assert [row[1] for row in calls] == sorted({row[1] for row in calls})
    assert calls[-1][2] == report["bytes"] > calls[-1][1]


def test_floats_of_another_type(tmp_path):
    make(tmp_path / "a")
    for name, kind in (("F16", "float16"), ("BF16", "bfloat16")):
        engine.export(tmp_path / "a", tmp_path / name, "hf", dtype=name)
        wanted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=getattr(torch, kind))
        state, weights = wanted.state_dict(), Weights(tmp_path / name)
        assert {weights.kind(one) for one in weights.names()} == {name}
        for one in weights.names():
            bits = state[one].view(torch.int16).numpy().view(np.uint16)
            assert (np.asarray(weights.raw(one)).view(np.uint16) == bits).all()
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == kind


FITTING = [
    (Layout(4, 32, True), "Q4_0"),
    (Layout(4, 96, True), "Q4_0"),
    (Layout(4, "row", True), "Q4_0"),
    (Layout(4, 32, symmetric=False), "Q4_1"),
    (Layout(3, 32), "Q4_0"),
    (Layout(2, 32, symmetric=False), "Q4_1"),
    (Layout(8, 32), "Q8_0"),
    (Layout(8, 32, keep=0.5), "Q8_0"),
    (Layout(4, 32, pattern="2:4"), "Q4_0"),
]


@pytest.mark.parametrize(("layout", "block"), FITTING, ids=str)
def test_codes_come_through_gguf_exactly(layout, block, tmp_path):
    make(tmp_path / "a", **EVEN)
    pack(tmp_path / "a", tmp_path / "b", layout)
    report = engine.export(tmp_path / "b", tmp_path / "m.gguf", "gguf")
    assert len(report["notes"]) == (layout.bits < 4 and layout.symmetric) + layout.sparse
    packed = Source(tmp_path / "b")
    back = Source(tmp_path / "m.gguf")
    assert set(back.items) == set(packed.items)
    for name, item in packed.items.items():
        assert (back.items[name].floats() == item.floats()).all(), name
    names = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for name, ours in (
        ("output.weight", "lm_head.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
    ):
        assert names[name].tensor_type.name == block
        values = gguf.dequantize(names[name].data, names[name].tensor_type)
        np.testing.assert_array_equal(values, packed.items[ours].floats())
    assert relative(mine(tmp_path / "m.gguf"), mine(tmp_path / "b")) < 3e-4


def test_transformers_reads_the_gguf(tmp_path):
    pytest.importorskip("accelerate", reason="transformers' GGUF loader asks for it")
    model = dequantized(make(tmp_path / "a", **EVEN), Layout(8, 32))
    tokenizer(tmp_path / "a")
    engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf", recipe=Layout(8, 32))
    assert relative(theirs(tmp_path, gguf_file="m.gguf"), logits_of(model, IDS)) < 1e-5


def test_what_gguf_has_no_block_for(tmp_path):
    make(tmp_path / "a", **EVEN)
    for layout, message in ((Layout(4, 16), "4 bits in groups of 16"), (Layout(8, 32, symmetric=False), "with minima")):
        folder = tmp_path / message.replace(" ", "")
        pack(tmp_path / "a", folder, layout)
        with pytest.raises(EngineError, match=f"{message}.*--requantize"):
            engine.export(folder, tmp_path / "m.gguf", "gguf")
        assert not (tmp_path / "m.gguf").exists()
    engine.export(folder, tmp_path / "m.gguf", "gguf", requantize=True)
    assert relative(mine(tmp_path / "m.gguf"), mine(folder)) < 0.15
    engine.export(folder, tmp_path / "f.gguf", "gguf", dtype="F32")
    assert relative(mine(tmp_path / "f.gguf"), mine(folder)) < 3e-4
    pack(tmp_path / "a", tmp_path / "b", Layout(4, 32, True))
    with pytest.raises(EngineError, match=r"fits Q4_0, not Q8_0.*--requantize"):
        engine.export(tmp_path / "b", tmp_path / "n.gguf", "gguf", dtype="Q8_0")


def test_floats_rounded_to_blocks(tmp_path):
    truth = logits_of(make(tmp_path / "a", **EVEN), IDS)
    for block, most in (("Q8_0", 0.15), ("Q4_1", 0.9), ("F16", 1e-2), ("BF16", 0.1)):
        engine.export(tmp_path / "a", tmp_path / f"{block}.gguf", "gguf", dtype=block)
        assert relative(mine(tmp_path / f"{block}.gguf"), truth) < most
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "Q4_1.gguf").tensors}
    assert (kinds["token_embd.weight"], kinds["blk.0.ffn_up.weight"], kinds["output_norm.weight"]) == (
        "Q8_0",
        "Q4_1",
        "F32",
    )


COMPRESSED = [
    (Layout(4, 32), 4),
    (Layout(4, "row"), 4),
    (Layout(8, 32), 8),
    (Layout(8, "row"), 8),
    (Layout(3, 32), 4),
    (Layout(4, 32, keep=0.5), 4),
    (Layout(4, 32, symmetric=False), 4),
    (Layout(8, "row", symmetric=False), 8),
]


@pytest.mark.parametrize(("layout", "bits"), COMPRESSED, ids=str)
def test_compressed_tensors(layout, bits, tmp_path):
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors: a peer, for these tests alone")
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Packed
    from compressed_tensors.quantization import QuantizationConfig

    make(tmp_path / "a", **EVEN)
    if layout.symmetric:
        pack(tmp_path / "a", tmp_path / "b", layout)
        report = engine.export(tmp_path / "b", tmp_path / "c", "compressed-tensors")
        assert len(report["notes"]) == 1 + (layout.bits < 4) + layout.sparse
        truth = Source(tmp_path / "b").items
    else:  # zero points are whole numbers there, so codes are made for the format
        engine.export(tmp_path / "a", tmp_path / "c", "compressed-tensors", recipe=layout)
        truth = Source(tmp_path / "a").items
    config = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    (scheme,) = QuantizationConfig(**config).config_groups.values()
    assert scheme.weights.num_bits == bits
    from safetensors.torch import load_file

    state = load_file(tmp_path / "c" / "model.safetensors")
    stems = [name.removesuffix("_packed") for name in state if name.endswith("_packed")]
    assert len(stems) == 3 * 7 + 1
    back = Source(tmp_path / "c")
    for stem in stems:
        parts = {"weight" + key.removeprefix(stem): value for key, value in state.items() if key.startswith(stem)}
        weight = Packed.decompress(parts, scheme)["weight"].float().numpy()
        wanted = truth[stem].floats()
        if layout.symmetric:
            np.testing.assert_allclose(weight, wanted, rtol=1e-3 if bits == 4 else 4e-3)  # theirs is float16
        else:
            assert np.abs(weight - wanted).max() < np.abs(wanted).max() * 2.5 / 2**bits
        np.testing.assert_allclose(back.items[stem].floats(), weight, atol=3e-3)
    if layout.symmetric:  # transformers gives minima another shape than compressed-tensors does
        logits = theirs(tmp_path / "c")
        assert relative(logits, theirs_of(tmp_path / "b", tmp_path / "d")) < 1e-5
        assert relative(mine(tmp_path / "c"), logits) < 5e-4


def theirs_of(packed, folder):
    """Logits by transformers of what a packed folder stands for."""
    engine.export(packed, folder, "hf")
    return theirs(folder)


def test_what_compressed_tensors_cannot_hold(tmp_path):
    make(tmp_path / "a")
    to = {"to": "compressed-tensors", "out": tmp_path / "c"}
    with pytest.raises(EngineError, match="no matrix is in few bits"):
        engine.export(tmp_path / "a", **to)
    with pytest.raises(EngineError, match="groups of 64 do not divide 96"):
        engine.export(tmp_path / "a", **to, recipe=Layout(4, 64))
    pack(tmp_path / "a", tmp_path / "b", [("*.q_proj", Layout(4, 32, symmetric=False))])
    with pytest.raises(EngineError, match=r"whole zero points.*Q4_1"):
        engine.export(tmp_path / "b", **to)
    pack(tmp_path / "a", tmp_path / "d", Layout(4, 32, outliers=0.01))
    with pytest.raises(EngineError, match="exact weights or absent channels in addition to its codes"):
        engine.export(tmp_path / "d", **to)
    with pytest.raises(EngineError, match="more than codes"):
        engine.export(tmp_path / "d", tmp_path / "m.gguf", "gguf")
    with pytest.raises(EngineError, match="for `pack`"):
        engine.export(tmp_path / "a", tmp_path / "c", "hf", recipe=Layout(4, rank=2))
    assert not (tmp_path / "c").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]


def test_a_mixed_recipe_keeps_its_parts_apart(tmp_path):
    pytest.importorskip("compressed_tensors")
    make(tmp_path / "a", **EVEN)
    recipe = [
        ("*", Layout(4, 32)),
        ("*.down_proj", Layout(8, "row")),
        ("*.o_proj", Layout(16)),
        ("lm_head", Layout(16)),
    ]
    pack(tmp_path / "a", tmp_path / "b", recipe)
    engine.export(tmp_path / "b", tmp_path / "c", "compressed-tensors")
    assert relative(theirs(tmp_path / "c"), theirs_of(tmp_path / "b", tmp_path / "d")) < 1e-5


def test_encoders(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 6}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=517, **sizes), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "a")
    pack(tmp_path / "a", tmp_path / "b", Layout(8, 32))
    engine.export(tmp_path / "b", tmp_path / "c", "hf")
    with torch.no_grad():
        again = transformers.BertModel.from_pretrained(tmp_path / "c", add_pooling_layer=False).eval()
        states = again(torch.tensor([IDS])).last_hidden_state[0].mean(0).numpy()
    vector = engine.load(tmp_path / "b").embed_ids([IDS], normalize=False)[0]
    assert relative(vector, states) < 3e-4
    with pytest.raises(EngineError, match='"bert" is not written as GGUF'):
        engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf")


def test_refusals_and_what_they_leave(tmp_path, monkeypatch):
    make(tmp_path / "a", **EVEN)
    for words, message in (
        ((tmp_path / "m.bin", "gguf"), "ends with .gguf"),
        ((tmp_path / "a", "hf"), "already holds a model"),
        ((tmp_path / "c", "onnx"), 'no format "onnx"'),
        ((tmp_path / "a" / "config.json", "hf"), "is a file"),
    ):
        with pytest.raises(EngineError, match=message):
            engine.export(tmp_path / "a", *words)
    with pytest.raises(EngineError, match='no type "Q4_0" for hf'):
        engine.export(tmp_path / "a", tmp_path / "c", "hf", dtype="Q4_0")
    with pytest.raises(EngineError, match="matches the recipe"):
        engine.export(tmp_path / "a", tmp_path / "c", "hf", recipe=[("nothing", Layout(4))])
    with pytest.raises(EngineError, match="there is no"):
        engine.export(tmp_path / "nowhere", tmp_path / "c", "hf")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(EngineError, match=r"takes 0\.00 GB, and"):
        engine.export(tmp_path / "a", tmp_path / "c", "hf")
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EngineError, match=r"disk of .* is full"):
        engine.export(tmp_path / "a", tmp_path / "c", "hf")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "README.md").write_text("mine")
    engine.export(tmp_path / "a", tmp_path / "c", "hf")
    assert (tmp_path / "c" / "README.md").read_text() == "mine"


def test_the_command(tmp_path):
    make(tmp_path / "a", **EVEN)
    tokenizer(tmp_path / "a")
    words = ["export", str(tmp_path / "a"), "--to", "gguf", "-o", str(tmp_path / "m.gguf"), "--bits", "4"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["bytes"] == (tmp_path / "m.gguf").stat().st_size
    for more, message in (
        ([], "already holds a model"),
        (["--method", "gptq"], "--bits quantizes every matrix alike"),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 2
        assert message in done.stderr
    words = ["export", str(tmp_path / "a"), "--to", "compressed-tensors", "-o", str(tmp_path / "c")]
    done = CliRunner().invoke(app, [*words, "--method", "round-to-nearest", "--set", "bits=4", "--set", "group=32"])
    assert done.exit_code == 0, done.output
    assert np.isfinite(mine(tmp_path / "c")).all()


def llama(file, model, prompt, tokens=24):
    """Logits of IDS, a greedy text, and tokens, by llama.cpp."""
    job, out = file.with_suffix(".json"), file.with_suffix(".npz")
    ids = model.ids(TEXT)
    job.write_text(json.dumps({"ids": ids, "prompt": prompt, "tokens": tokens, "text": TEXT}))
    peer = Path(__file__).with_name("llama_peer.py")
    subprocess.run([LLAMA, str(peer), str(file), str(job), str(out)], check=True, timeout=600)
    return np.load(out)


@pytest.fixture(scope="module")
def smollm2():
    from paperlab.assets.models import model_folder
    from paperlab.assets.packages import PackageError

    if subprocess.run([LLAMA, "-c", "import llama_cpp"], capture_output=True, check=False).returncode:
        pytest.skip("no llama-cpp-python: PAPERLAB_LLAMA_CPP names an interpreter that has it")
    try:
        return model_folder("smollm2-135m")[0]
    except PackageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("block", ["F32", "F16", "Q8_0", "Q4_0", "as shipped"])
def test_llama_cpp_computes_the_same(block, smollm2, tmp_path):
    file = tmp_path / "m.gguf"
    shipped = next(smollm2.glob("*.gguf"))
    if block == "as shipped":
        engine.export(shipped, file, "gguf")
    else:
        engine.export(smollm2, file, "gguf", dtype=block)
    model = engine.load(file)
    prompt = model.ids([{"role": "user", "content": "Why is the sky blue?"}])
    seen = llama(file, model, prompt)
    ids = model.ids(TEXT)
    assert seen["ids"].tolist() == ids
    logits = model.forward([(model.session(cache_bits=32), ids)], every=True)
    # llama.cpp rounds activations to the type of the weights: none, 16 bits, or 8.
    floats = block.startswith("F")
    assert relative(logits, seen["logits"]) < {"F32": 1e-5, "F16": 5e-3}.get(block, 0.15)
    drawn = seen["tokens"].tolist()
    if floats:
        assert list(model.generate_ids(prompt, max_tokens=24, cache_bits=32, ignore_end=True)) == drawn
    else:
        forced = model.forward([(model.session(cache_bits=32), prompt + drawn[:-1])], every=True)[len(prompt) - 1 :]
        assert (forced.argmax(1) == drawn).mean() > 0.85
    if block == "as shipped":  # the same file to llama.cpp, to the bit
        link = tmp_path / "shipped.gguf"
        link.symlink_to(shipped)
        assert (llama(link, model, prompt)["logits"] == seen["logits"]).all()


@pytest.mark.parametrize(
    "more", [{"outliers": 0.01}, {"rank": 3}, {"codebook": 2}, {"pattern": "rows", "keep": 0.5}], ids=str
)
def test_what_lies_beside_codes_is_never_dropped(more, tmp_path):
    make(tmp_path / "a", intermediate_size=192)
    layout = Layout(4, 32, **more)
    with pytest.raises(EngineError, match="are for `pack`"):
        engine.export(tmp_path / "a", tmp_path / "b", "hf", recipe=layout)
    pack(tmp_path / "a", tmp_path / "c", layout)
    with pytest.raises(EngineError, match=r"more than codes and scales|in addition to its codes"):
        engine.export(tmp_path / "c", tmp_path / "d", "compressed-tensors")
    codes = np.zeros((192, 48), np.uint8)
    given = engine.Codes(4, codes, np.ones((192, 3), np.float16), book=np.ones((16, 2), np.float32))
    with pytest.raises(EngineError, match="more than codes"):
        engine.export(tmp_path / "a", tmp_path / "e", "hf", given={"model.layers.0.mlp.up_proj": given})
