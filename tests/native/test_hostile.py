"""Damaged, lying and hostile files; impossible requests. Every one gets a clear error, and nothing crashes."""

import json
import re
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlab import engine
from paperlab.engine.native import EngineError
from paperlab.engine.packing.container import write
from paperlab.engine.packing.layout import Layout
from paperlab.engine.packing.pack import pack

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "vocab_size": 40,
    "tie_word_embeddings": True,
}


def model(folder, config=None, **changed):
    """A one-block model; `changed` replaces tensors (None drops one)."""
    random = np.random.default_rng(0)
    at = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (40, 32),
        "model.norm.weight": (32,),
        at + "input_layernorm.weight": (32,),
        at + "post_attention_layernorm.weight": (32,),
        at + "self_attn.q_proj.weight": (32, 32),
        at + "self_attn.k_proj.weight": (16, 32),
        at + "self_attn.v_proj.weight": (16, 32),
        at + "self_attn.o_proj.weight": (32, 32),
        at + "mlp.gate_proj.weight": (48, 32),
        at + "mlp.up_proj.weight": (48, 32),
        at + "mlp.down_proj.weight": (32, 48),
    }
    tensors = {name: random.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in shapes.items()} | changed
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    kept = {name: ("F32", array) for name, array in tensors.items() if array is not None}
    write(folder / "model.safetensors", kept, {})
    return folder


def refused(folder, message, **options):
    with pytest.raises(EngineError, match=message) as caught:
        engine.load(folder, **options)
    assert "\n" not in str(caught.value)


def test_the_model_itself_is_sound(tmp_path):
    lm = engine.load(model(tmp_path))
    assert np.isfinite(lm.forward([(lm.session(), [1, 2])])).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": -5}, "hidden_size is -5"),
        ({"hidden_size": "large"}, "should be an integer"),
        ({"hidden_size": 64}, "where the configuration says"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 2}, r"model\.layers\.1\.input_layernorm\.weight is missing"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"num_attention_heads": 4, "num_key_value_heads": 4}, "multiple of 16"),
        ({"model_type": "mamba"}, '"mamba" is not known'),
        ({"hidden_act": "relu"}, "not known for a gated MLP"),
        ({"vocab_size": 41}, "vocab_size 41"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, '"dynamic"'),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0}}, "rotary factor should be above 0"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by .gptq."),
    ],
)
def test_impossible_configurations(config, message, tmp_path):
    refused(model(tmp_path, config), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "no object"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 5000, "nested too deep"),
        ('{"model_type": "ll', "without an end"),
        ('{"model_type": "\\ud800\\u0041"}', "surrogate"),
        ('{"a": 01}', "was expected"),
        ('{"a": 1} x', "something follows"),
    ],
)
def test_broken_configurations(text, message, tmp_path):
    model(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, message)


def test_missing_and_misshapen_tensors(tmp_path):
    refused(model(tmp_path, **{"model.norm.weight": None}), r"model\.norm\.weight is missing")
    refused(model(tmp_path, **{"model.norm.weight": np.ones(31, np.float32)}), "holds 31 values")
    refused(model(tmp_path, **{"model.norm.weight": np.full(32, np.nan, np.float32)}), "NaN or infinite")
    name = "model.layers.0.mlp.up_proj.weight"
    refused(model(tmp_path, **{name: np.ones((48, 31), np.float32)}), "48 x 31 where")
    refused(model(tmp_path, **{name: np.full((48, 32), np.inf, np.float32)}), "up_proj.weight: a weight is NaN", bits=4)


def test_folders_that_are_none(tmp_path):
    refused(tmp_path / "nowhere", "there is no")
    refused(tmp_path, "no config.json")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, "pickled weights")
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    refused(file, "no .gguf")


def header(folder, entries, data=b"", length=None):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "by its shape"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8000]}, "outside the file"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "outside the file"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "outside the file"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "impossible shape"),
        ({"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}, "overflows"),
        ({"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}, 'unknown type "F31"'),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, "has no shape"),
        ({"dtype": "F32", "shape": [2]}, "no data_offsets"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0.5, 8]}, "no data_offsets"),
        (7, "is no object"),
    ],
)
def test_lying_headers(entry, message, tmp_path):
    model(tmp_path)
    header(tmp_path, {"model.norm.weight": entry}, b"\0" * 64)
    refused(tmp_path, message)


def test_more_lying_headers(tmp_path):
    model(tmp_path)
    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header(tmp_path, {"a": whole, "b": {**whole, "data_offsets": [4, 12]}}, b"\0" * 64)
    refused(tmp_path, "overlap")
    header(tmp_path, {}, length=2**63)
    refused(tmp_path, "header would take")
    header(tmp_path, {}, length=50)
    refused(tmp_path, "cut off inside its header")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    refused(tmp_path, "shorter than its length field")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "shorter than its length field")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_of_a_packed_file(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip")
    pack(model(folder / "a"), folder / "b", Layout(4, keep=0.5, group=16, outliers=0.02, rank=2))
    file = folder / "b" / "model.safetensors"
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 6000) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, len(whole) // 2]))])
    with suppress(EngineError):
        loaded = engine.load(folder / "b")
        loaded.forward([(loaded.session(), [1, 2, 3])])


def test_packed_files_that_contradict_themselves(tmp_path):
    from paperlab.engine.packing.container import Weights

    source = tmp_path / "b"
    pack(model(tmp_path / "a"), source, Layout(4, keep=0.5, group=16))
    weights = Weights(source)
    tensors = {name: (weights.kind(name), np.array(weights.raw(name))) for name in weights.names()}
    stem = "model.layers.0.mlp.up_proj"

    def changed(part, array, metadata=None):
        new = {**tensors, f"{stem}.{part}": (tensors[f"{stem}.{part}"][0], array)}
        write(source / "model.safetensors", new, weights.metadata | (metadata or {}))
        return source

    masks = tensors[f"{stem}.masks"][1].copy()
    masks[:] = 2**64 - 1
    refused(changed("masks", masks), "starts disagrees|should hold")
    starts = tensors[f"{stem}.starts"][1].copy()
    starts[-1] = 10**15
    refused(changed("starts", starts), "disagrees")
    scales = tensors[f"{stem}.scales"][1].copy()
    scales[3] = np.inf
    refused(changed("scales", scales), "NaN or infinite")
    refused(changed("codes", tensors[f"{stem}.codes"][1][:-1]), "should hold")
    sound = json.loads(weights.metadata[f"paperlab.{stem}"])
    for key, value, message in (
        ("bits", 5, "5 bits"),
        ("bits", 2**40, "bits"),
        ("group", 0, "multiple of 16"),
        ("rows", 7, "packed as 7"),
    ):
        about = {f"paperlab.{stem}": json.dumps(sound | {key: value})}
        refused(changed("codes", tensors[f"{stem}.codes"][1], about), message)
    write(source / "model.safetensors", tensors, {})
    refused(source, "does not describe|missing")


def test_what_lies_beside_codes_may_contradict_them(tmp_path):
    from paperlab.engine.packing.container import Weights

    source = tmp_path / "b"
    pack(model(tmp_path / "a"), source, Layout(4, group=16, outliers=0.02, rank=3))
    weights = Weights(source)
    tensors = {name: (weights.kind(name), np.array(weights.raw(name))) for name in weights.names()}
    stem = "model.layers.0.mlp.up_proj"
    engine.load(source)

    def changed(part, change, **about):
        kind, array = tensors[f"{stem}.{part}"]
        array = array.copy()
        array = array if (result := change(array)) is None else result
        described = json.dumps(json.loads(weights.metadata[f"paperlab.{stem}"]) | about)
        write(
            source / "model.safetensors",
            {**tensors, f"{stem}.{part}": (kind, array)},
            weights.metadata | {f"paperlab.{stem}": described},
        )
        return source

    def put(at, value):
        return lambda array: array.__setitem__(at, value)

    first = int(np.flatnonzero(np.diff(tensors[f"{stem}.outliers.starts"][1]))[0])
    for part, change, message in (
        ("low_rank.a", lambda a: a[:2], r"low_rank\.a should hold 96 values"),
        ("low_rank.a", put((1, 1), np.nan), "NaN or infinite"),
        ("low_rank.b", put(5, np.inf), "NaN or infinite"),
        ("outliers.starts", put(0, 1), "starts does not end"),
        ("outliers.starts", put(-1, 2**32 - 1), "starts does not end"),
        ("outliers.starts", put(first, 2**31), "goes back"),
        ("outliers.columns", put(slice(None), 32), "does not ascend"),
        ("outliers.columns", lambda a: a[:-1], "should hold"),
        ("outliers.values", put(0, np.nan), "NaN or infinite"),
        ("outliers.values", lambda a: a[:-1], "should hold"),
    ):
        refused(changed(part, change), message)
    same = lambda a: None  # noqa: E731
    for about, message in (
        ({"rank": -1}, "rank -1"),
        ({"rank": 33}, "rank 33"),
        ({"outliers": -5}, "-5 exact"),
        ({"outliers": 2**60}, "exact weights in a matrix"),
    ):
        refused(changed("low_rank.a", same, **about), message)
    for layout in (
        {"rank": -1},
        {"outliers": 0.6},
        {"outliers": float("nan")},
        {"codebook": 3},
        {"codebook": 1, "keep": 0.5},
        {"codebook": 1, "symmetric": False},
    ):
        with pytest.raises(EngineError):
            Layout(4, **layout)
    with pytest.raises(EngineError, match="rank 40 is more"):
        pack(tmp_path / "a", tmp_path / "c", Layout(4, rank=40))


def test_codebooks_may_contradict_their_codes(tmp_path):
    from paperlab.engine.packing.container import Weights

    source = tmp_path / "b"
    pack(model(tmp_path / "a"), source, Layout(4, group=32, codebook=2))
    weights = Weights(source)
    tensors = {name: (weights.kind(name), np.array(weights.raw(name))) for name in weights.names()}
    stem = "model.layers.0.mlp.up_proj"
    engine.load(source)
    book = tensors[f"{stem}.book"][1]
    sound = json.loads(weights.metadata[f"paperlab.{stem}"])
    for array, about, message in (
        (book[:-1], {}, r"book should hold 32 values"),
        (book, {"codebook": 3}, "vectors of 3"),
        (book, {"codebook": -1}, "vectors of 0"),
        (book, {"codebook": 2**40}, "vectors of 0"),
        (book, {"codebook": 4}, "a multiple of 64"),
        (book, {"codebook": 1}, r"book should hold 16"),
        (book, {"bits": 8}, "book should hold 512"),
        (book, {"symmetric": False}, "neither minima"),
        (book, {"sparse": True}, "neither minima"),
    ):
        described = {f"paperlab.{stem}": json.dumps(sound | about)}
        write(source / "model.safetensors", {**tensors, f"{stem}.book": ("I8", array)}, weights.metadata | described)
        refused(source, message)
    with pytest.raises(EngineError, match="a multiple of 64"):
        pack(tmp_path / "a", tmp_path / "c", Layout(8, group=32, codebook=4))


def test_impossible_requests(tmp_path):
    lm = engine.load(model(tmp_path))
    session = lm.session()
    for call, message in (
        (lambda: lm.forward([(session, [40])]), "outside the vocabulary"),
        (lambda: lm.forward([(session, [-1])]), "outside the vocabulary"),
        (lambda: lm.forward([(session, [])]), "no tokens"),
        (lambda: lm.forward([(session, [1] * 65)]), "do not fit the context"),
        (lambda: lm.forward([(session, [1]), (session, [2])]), "twice"),
        (lambda: lm.forward([(session, [2**40])]), "whole numbers"),
        (lambda: lm.session(65), "context of 65"),
        (lambda: lm.session(-1), "context of -1"),
        (lambda: lm.session(10, cache_bits=7), "cache of 7 bits"),
        (lambda: session.truncate(5), "cannot cut"),
        (lambda: list(lm.generate_ids([])), "empty"),
        (lambda: list(lm.generate_ids([1] * 70)), "do not fit the context"),
        (lambda: list(lm.generate_ids([1], temperature=-1)), "temperature is -1"),
        (lambda: list(lm.generate_ids([1], temperature=float("nan"))), "temperature"),
        (lambda: list(lm.generate_ids([1], top_p=2)), "top_p is 2"),
        (lambda: list(lm.generate_ids([1], top_k=-1)), "top_k is -1"),
        (lambda: lm.score([1]), "fewer than two"),
        (lambda: lm.ids("text"), "no tokenizer"),
        (lambda: engine.load(tmp_path, threads=0), "0 threads"),
        (lambda: engine.load(tmp_path, threads=10**6), "threads"),
        (lambda: engine.load(tmp_path, bits=5), "5 bits"),
        (lambda: engine.load(tmp_path, bits=4, group=24), "multiple of 16"),
        (lambda: engine.load(tmp_path, isa="sse9"), 'no kernels "sse9"'),
        (lambda: engine.load(tmp_path, activation_bits=4), "activations of 4 bits"),
    ):
        with pytest.raises(EngineError, match=message):
            call()
    assert np.isfinite(lm.forward([(session, [1, 2])])).all()  # what was refused left no trace
    assert len(session) == 2


def test_the_environment_pins_the_instruction_set(tmp_path, monkeypatch):
    model(tmp_path)
    for isa in engine.instruction_sets():
        monkeypatch.setenv("PAPERLAB_ISA", isa)
        assert engine.load(tmp_path).about["isa"] == isa
    monkeypatch.setenv("PAPERLAB_ISA", "sse9")
    refused(tmp_path, "PAPERLAB_ISA")


def test_more_threads_than_the_system_gives(tmp_path):
    code = f"""
import re, resource
from paperlab import engine

engine.load({str(model(tmp_path))!r}, threads=1)
here = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (here + (256 << 20),) * 2)
try:
    engine.load({str(tmp_path)!r}, threads=1000)
except engine.EngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.fullmatch(r"the system gives this process no more than \d+ of 1000 threads\n", done.stdout), done


CORPUS = Path(__file__).parents[2] / "native" / "fuzz" / "corpus"


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_fuzzers_corpus(file, tmp_path):
    """Seeds, and what once crashed: an answer or an EngineError, never a crash."""
    data = file.read_bytes()
    path = tmp_path
    if file.parent.name == "gguf":
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
    else:
        config, _, tensors = data.partition(b"\0") if file.parent.name == "packed" else (data, b"", b"")
        if file.parent.name == "safetensors":
            config, tensors = json.dumps(CONFIG).encode(), data
        (tmp_path / "config.json").write_bytes(config)
        (tmp_path / "model.safetensors").write_bytes(tensors)
    with suppress(EngineError):
        lm = engine.load(path)
        assert np.isfinite(lm.forward([(lm.session(), [1])])).all()
