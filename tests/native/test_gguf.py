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


def write(file, kind, architecture="llama"):
    """A two-block model; gives the values of its tensors by GGUF name."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(2)
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


def forward(truth, ids):
    """The model in NumPy and double precision, rotary pairs side by side as llama.cpp has them."""
    w = {name: value.astype(np.float64) for name, value in truth.items()}
    head = WIDTH // HEADS
    norm = lambda x, name: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"]  # noqa: E731
    angle = np.arange(len(ids))[:, None] * 10000.0 ** (-np.arange(0, head, 2) / head)

    def rotate(x):
        pairs = x.reshape(len(ids), -1, head // 2, 2)
        turn = np.exp(1j * angle)[:, None]
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(len(ids), -1, head)

    x = w["token_embd.weight"][ids]
    later = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for block in ("blk.0.", "blk.1."):
        h = norm(x, block + "attn_norm")
        q, k = (rotate(h @ w[block + f"attn_{part}.weight"].T) for part in "qk")
        v = (h @ w[block + "attn_v.weight"].T).reshape(len(ids), KV_HEADS, head)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(head) + later
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", weights, v).reshape(len(ids), -1) @ w[block + "attn_output.weight"].T
        h = norm(x, block + "ffn_norm")
        gate = h @ w[block + "ffn_gate.weight"].T
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
