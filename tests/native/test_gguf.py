"""GGUF files written by the `gguf` package: every block type against its own reading of them, and damaged files."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

gguf = pytest.importorskip("gguf")

from paperlab import engine  # noqa: E402
from paperlab.engine.formats.source import Source  # noqa: E402
from paperlab.engine.native import EngineError  # noqa: E402

# Types that the package reads and does not write: where their float16 factors lie in a block, and some for the tests.
READ_ONLY = {
    "Q2_K": {80: 2e-3, 82: 3e-3},
    "Q3_K": {108: 3e-4},
    "Q4_K": {0: 2e-4, 2: 3e-3},
    "Q5_K": {0: 2e-4, 2: 3e-3},
    "Q6_K": {208: 2e-5},
    "IQ4_NL": {0: 1e-3},
    "IQ4_XS": {0: 1e-4},
}
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", *READ_ONLY]
WIDTH, INNER, VOCABULARY, HEADS, KV_HEADS = 256, 512, 64, 4, 2


def quantized(weight, kind):
    """A tensor in GGUF's own form, and the values that the gguf package reads back from it."""
    qtype = gguf.GGMLQuantizationType[kind]
    if kind in READ_ONLY:  # random codes and scales
        random = np.random.default_rng(weight.shape[0])
        values, size = gguf.GGML_QUANT_SIZES[qtype]
        blocks = random.integers(0, 256, (weight.shape[0], weight.shape[1] // values, size), np.uint8)
        for at, value in READ_ONLY[kind].items():
            blocks[..., at : at + 2] = np.full(blocks.shape[:2], value, np.float16)[..., None].view(np.uint8)
        raw = blocks.reshape(weight.shape[0], -1)
    else:
        raw = gguf.quantize(weight, qtype)
    return raw, qtype, gguf.dequantize(raw, qtype).astype(np.float32)


def write(file, kind, architecture="llama", more=lambda writer: None, biases=()):
    """A two-block model; gives the values of its tensors by GGUF name. more: adds fields; biases: names to have one."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(2)
    if more is not per_layer:
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    small = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output.weight": (VOCABULARY, WIDTH)}
    for block in ("blk.0.", "blk.1."):
        shapes |= {block + "attn_q.weight": (WIDTH, WIDTH), block + "attn_output.weight": (WIDTH, WIDTH)}
        shapes |= {block + name: (small, WIDTH) for name in ("attn_k.weight", "attn_v.weight")}
        shapes |= {block + name: (INNER, WIDTH) for name in ("ffn_gate.weight", "ffn_up.weight")}
        shapes |= {block + "ffn_down.weight": (WIDTH, INNER)}
    truth = {}
    for name, shape in shapes.items():
        raw, qtype, truth[name] = quantized(random.standard_normal(shape).astype(np.float32) * 0.1, kind)
        writer.add_tensor(name, raw, raw_dtype=qtype)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm"):
        truth[name + ".weight"] = (1 + random.standard_normal(WIDTH) * 0.1).astype(np.float32)
        writer.add_tensor(name + ".weight", truth[name + ".weight"])
    for name in biases:
        truth[name + ".bias"] = random.standard_normal(len(truth[name + ".weight"])).astype(np.float32)
        writer.add_tensor(name + ".bias", truth[name + ".bias"])
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


def per_layer(writer):
    """Sizes as a list of one number for each block, as llama.cpp reads them, too."""
    writer.add_head_count([HEADS, HEADS])
    writer.add_head_count_kv([KV_HEADS, KV_HEADS])


def forward(truth, ids, factor=1.0):
    """The model in NumPy and double precision, rotary pairs side by side as llama.cpp has them.

    factor: by which positions are divided.
    """
    w = {name: value.astype(np.float64) for name, value in truth.items()}
    head = WIDTH // HEADS
    norm = lambda x, name: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"]  # noqa: E731
    plus = lambda name: w.get(name + ".bias", 0.0)  # noqa: E731
    angle = np.arange(len(ids))[:, None] / factor * 10000.0 ** (-np.arange(0, head, 2) / head)

    def rotate(x):
        pairs = x.reshape(len(ids), -1, head // 2, 2)
        turn = np.exp(1j * angle)[:, None]
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(len(ids), -1, head)

    x = w["token_embd.weight"][ids]
    later = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for block in ("blk.0.", "blk.1."):
        h = norm(x, block + "attn_norm")
        q, k, v = (h @ w[block + f"attn_{part}.weight"].T + plus(block + f"attn_{part}") for part in "qkv")
        q, k, v = rotate(q), rotate(k), v.reshape(len(ids), KV_HEADS, head)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(head) + later
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", weights, v).reshape(len(ids), -1) @ w[block + "attn_output.weight"].T
        h = norm(x, block + "ffn_norm")
        gate = h @ w[block + "ffn_gate.weight"].T + plus(block + "ffn_gate")
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[block + "ffn_up.weight"].T)) @ w[block + "ffn_down.weight"].T
    return norm(x, "output_norm") @ w["output.weight"].T


IDS = np.random.default_rng(1).integers(0, VOCABULARY, 40).tolist()


@pytest.mark.parametrize("isa", engine.instruction_sets())
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_type_computes_what_it_says(kind, isa, tmp_path):
    truth = forward(write(tmp_path / "model.gguf", kind), IDS)
    model = engine.load(tmp_path / "model.gguf", isa=isa)
    logits = model.forward([(model.session(cache_bits=32), IDS)], every=True)
    difference = np.abs(logits - truth).max() / np.abs(truth).max()
    products = (
        kind.endswith("K") or kind == "IQ4_XS"
    )  # of a float16 and a few bits, whose scales are rounded to float16
    assert difference < (2e-5 if "F" in kind else 1e-2 if products else 3e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_is_exact(kind, tmp_path):
    truth = write(tmp_path / "model.gguf", kind)
    items = Source(tmp_path / "model.gguf").items
    assert (items["model.layers.1.mlp.down_proj.weight"].floats() == truth["blk.1.ffn_down.weight"]).all()
    assert (items["model.embed_tokens.weight"].floats() == truth["token_embd.weight"]).all()


def close_to(file, truth):
    model = engine.load(file)
    logits = model.forward([(model.session(cache_bits=32), IDS)], every=True)
    return np.abs(logits - truth).max() / np.abs(truth).max() < 2e-5


def fields(**values):
    """A hook of `write` that adds fields by the ends of their names, with _ for a point where there is none."""

    def add(writer):
        for name, value in values.items():
            key = name if name.startswith("general") else f"llama.{name}"
            kind = gguf.GGUFValueType.get_type(value)
            writer.add_key_value(key, value, kind, *([gguf.GGUFValueType.FLOAT32] if isinstance(value, list) else []))

    return add


SCALINGS = {  # what llama.cpp makes of them: linear where nothing is said, either name, the newer first, 0 is none
    "old-name": ({"rope.scale_linear": 4.0}, 4),
    "no-type": ({"rope.scaling.factor": 4.0}, 4),
    "whole": ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.scaling.finetuned": True}, 4),
    "typed-old": ({"rope.scaling.type": "linear", "rope.scale_linear": 4.0}, 4),
    "both": ({"rope.scale_linear": 2.0, "rope.scaling.factor": 4.0}, 4),
    "none": ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, 1),
    "zero": ({"rope.scale_linear": 0.0}, 1),
    "one": ({"rope.scale_linear": 1.0, "rope.dimension_count": WIDTH // HEADS}, 1),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_scaling_by_every_name_that_it_has(name, tmp_path):
    given, factor = SCALINGS[name]
    truth = forward(write(tmp_path / "m.gguf", "F32", more=fields(**given)), IDS, factor)
    assert close_to(tmp_path / "m.gguf", truth)
    engine.export(tmp_path / "m.gguf", tmp_path / "hf", "hf")
    assert close_to(tmp_path / "hf", truth)


REFUSED = {
    "rope.dimension_count": WIDTH // HEADS // 2,
    "rope.dimension_sections": [1.0, 2.0],
    "rope.scaling.alpha": 2.0,
    "rope.scaling.attn_factor": 1.5,
    "rope.scaling.yarn_ext_factor": 0.5,
    "rope.freq_base_swa": 5000.0,
    "attention.value_length": 32,
    "attention.scale": 0.5,
    "attention.clamp_kqv": 8.0,
    "attention.max_alibi_bias": 8.0,
    "attention.causal": False,
    "attention.temperature_scale": 0.1,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.5,
    "residual_scale": 2.0,
    "embedding_scale": 12.0,
    "expert_count": 4,
    "hidden_activation": "gelu",
    "general.type": "adapter",
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_change_what_is_computed_are_refused_by_name(name, tmp_path):
    write(tmp_path / "m.gguf", "F32", more=fields(**{name: REFUSED[name]}))
    with pytest.raises(EngineError, match=name.replace(".", r"\.")) as caught:
        engine.load(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)


def test_fields_that_ask_for_nothing_are_let_through(tmp_path):
    nothing = {
        "attention.max_alibi_bias": 0.0,
        "attention.causal": True,
        "attention.sliding_window": 64,
        "logit_scale": 1.0,
        "expert_count": 0,
        "attention.value_length": WIDTH // HEADS,
        "pooling_type": 3,
        "tensor_data_layout": "Meta AI original pth",
    }
    truth = forward(write(tmp_path / "m.gguf", "F32", more=fields(**nothing)), IDS)
    assert close_to(tmp_path / "m.gguf", truth)
    assert close_to_after(tmp_path / "p.gguf", per_layer)
    write(tmp_path / "parts.gguf", "F32", more=lambda writer: writer.add_uint16("split.count", 2))
    with pytest.raises(EngineError, match="one of 2 parts of a model; join them"):
        engine.load(tmp_path / "parts.gguf")


def close_to_after(file, more):
    return close_to(file, forward(write(file, "F32", more=more), IDS))


def test_biases_that_are_there_are_added_and_other_tensors_refused(tmp_path):
    names = ["blk.0.attn_q", "blk.1.attn_v", "blk.1.ffn_gate"]
    truth = forward(write(tmp_path / "m.gguf", "F32", biases=names), IDS)
    assert close_to(tmp_path / "m.gguf", truth)
    with pytest.raises(EngineError, match=r"blk\.0|some of its blocks' matrices have biases"):
        engine.export(tmp_path / "m.gguf", tmp_path / "hf", "hf")
    for name in ("blk.0.attn_q_norm.weight", "blk.2.attn_norm.weight", "rope_factors_long.weight", "cls.weight"):
        write(tmp_path / "n.gguf", "F32", more=lambda w, name=name: w.add_tensor(name, np.ones(64, np.float32)))
        with pytest.raises(EngineError, match=r"holds the tensor .*, which is not obeyed here"):
            engine.load(tmp_path / "n.gguf")


def test_a_type_that_is_not_known_is_named(tmp_path):
    file = tmp_path / "model.gguf"
    write(file, "F32")
    raw = bytearray(file.read_bytes())
    at = raw.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    raw[at : at + 4] = struct.pack("<I", 36)
    file.write_bytes(raw)
    with pytest.raises(EngineError, match="type 36; known are"):
        engine.load(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write(file, "Q4_0")
    return file.read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files(whole, data, tmp_path_factory):
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, 1500))
        raw[at : at + 8] = data.draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, b"\x01\0\0\0\0\0\0\0"]))
    cut = data.draw(st.sampled_from([len(raw), len(raw) - 1, 2000, 300, 30, 10, 0]))
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    file.write_bytes(raw[:cut])
    try:
        model = engine.load(file)
        model.forward([(model.session(), [1, 2, 3])])
    except EngineError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert cut == len(raw)
